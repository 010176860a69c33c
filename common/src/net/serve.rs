//! The answering side of a request stream.

use super::connection::{EndCode, refuse};
use super::frames::{Frame, FrameReader, FrameWriter};
use super::request::{GATHERED_LEN_MAX, MANY, PIECE_LEN_MAX};
use crate::error::{Code, Error, Result};
use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// An answer, and the place in flight that it holds until it was handed to QUIC.
type Answer = (Frame, OwnedSemaphorePermit);

/// Answers the requests of one stream until the peer ends it.
///
/// `handler` makes a future of each request; up to `max_in_flight` of them run at a time (further
/// requests wait on the stream), answers go out in the order in which they are ready. A future that
/// is ready at its first poll costs no task; the others get one each. So what a handler does before
/// its first wait holds up the other requests of this stream: keep it short. A payload may share
/// memory with a whole datagram: decode it, do not keep it.
///
/// Returns once the stream has ended and every handler that was begun has run to its end, so that
/// whoever waits for this function waits for its work. If this function's future is dropped instead,
/// begun handlers still run to their end.
///
/// # Errors
/// `Malformed`: the peer broke the protocol; the stream was closed with an error, nothing else was.
/// `Disconnected`: the stream or connection broke. `Bug`: an answer was too long.
pub async fn serve<H, F>(
    mut send: SendStream,
    mut recv: RecvStream,
    max_in_flight: usize,
    handler: H,
) -> Result<()>
where
    H: Fn(Bytes) -> F + Send,
    F: Future<Output = Bytes> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(max_in_flight));
    // Never full: who sends holds a place.
    let (answers, answered) = mpsc::channel(max_in_flight.max(1));
    let result = {
        let mut write = std::pin::pin!(write_answers(&mut send, answered, &places, max_in_flight));
        let read = read_requests(&mut recv, &places, &handler, answers);
        tokio::select! {
            biased;
            // The peer reads no answers any more.
            written = &mut write => written,
            read = read => match read {
                // What is in flight is still to be answered.
                Ok(()) => write.await,
                Err(error) => Err(error),
            },
        }
    };
    match &result {
        // Fails only when the peer has stopped reading: then it does not want it.
        Ok(()) => drop(send.finish()),
        Err(error) => {
            let code = match error.code {
                Code::Malformed => EndCode::Malformed,
                _ => EndCode::Done,
            };
            refuse(&mut send, &mut recv, code);
        }
    }
    let all = u32::try_from(max_in_flight).unwrap_or(u32::MAX);
    // Never closed, so never an error.
    drop(places.acquire_many(all).await);
    result
}

async fn read_requests<H, F>(
    recv: &mut RecvStream,
    places: &Arc<Semaphore>,
    handler: &H,
    answers: mpsc::Sender<Answer>,
) -> Result<()>
where
    H: Fn(Bytes) -> F,
    F: Future<Output = Bytes> + Send + 'static,
{
    let mut reader = FrameReader::default();
    loop {
        let piece = recv
            .read_chunk(PIECE_LEN_MAX, true)
            .await
            .map_err(|error| Error::new(Code::Disconnected, error.to_string()))?;
        let Some(piece) = piece else {
            return match reader.is_between_frames() {
                true => Ok(()),
                false => Err(Error::malformed("the stream ended within a request")),
            };
        };
        reader.push(piece.bytes);
        while let Some(Frame { id, payload }) = reader.take()? {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .map_err(|_| Error::bug("the places of a request stream were closed"))?;
            let mut future = Box::pin(handler(payload));
            match poll_once(future.as_mut()) {
                Poll::Ready(payload) => {
                    // Closed: the writer has ended, and with it this function.
                    let _ended = answers.try_send((Frame { id, payload }, place));
                }
                Poll::Pending => {
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        let payload = future.await;
                        // Closed: the peer left, and nobody is to be told.
                        let _ended = answers.try_send((Frame { id, payload }, place));
                    });
                }
            }
        }
    }
}

/// Polls with a waker that does nothing: a future that is not ready is polled again by its task,
/// with the task's waker.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

async fn write_answers(
    send: &mut SendStream,
    mut answered: mpsc::Receiver<Answer>,
    in_flight: &Semaphore,
    max_in_flight: usize,
) -> Result<()> {
    let mut writer = FrameWriter::default();
    let mut places = Vec::new();
    while let Some((frame, place)) = answered.recv().await {
        writer.push(frame)?;
        places.push(place);
        // As in the requests' writer: gather the answers that are about to be ready.
        if max_in_flight - in_flight.available_permits().min(max_in_flight) > MANY {
            tokio::task::yield_now().await;
        }
        while writer.len() < GATHERED_LEN_MAX
            && let Ok((frame, place)) = answered.try_recv()
        {
            writer.push(frame)?;
            places.push(place);
        }
        // Only now: answers that the peer does not read must stop its requests, not fill memory.
        send.write_all_chunks(&mut writer.take())
            .await
            .map_err(|error| Error::new(Code::Disconnected, error.to_string()))?;
        places.clear();
    }
    Ok(())
}
