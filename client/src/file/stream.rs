//! An open file as a stream of tokio's: position, read-ahead, writes that are taken at once.

use super::dirty::GATHER_LEN;
use super::handle::{Done, File};
use bytes::Bytes;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

/// Bytes read at a time.
const STREAM_READ_LEN: usize = 4 << 20;

impl AsyncRead for File {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let file = &mut *self;
        loop {
            let (at, ahead) = &file.ahead;
            let from = file.position.wrapping_sub(*at);
            if from < ahead.len() as u64 {
                let rest = &ahead[from as usize..];
                let len = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..len]);
                file.position += len as u64;
                return Poll::Ready(Ok(()));
            }
            if file.work.is_none() {
                let offset = file.position;
                file.begin(move |mut open| async move {
                    let read = open.read_at(offset, STREAM_READ_LEN).await;
                    let done = read.map(|bytes| Done::Read(offset, bytes));
                    (open, done)
                })?;
            }
            match ready!(file.poll_work(context))? {
                Done::Read(offset, bytes) => {
                    let ended = bytes.is_empty() && offset == file.position;
                    file.ahead = (offset, bytes);
                    if ended {
                        return Poll::Ready(Ok(()));
                    }
                }
                Done::Wrote(end) => file.position = end,
                Done::Synced | Done::Length(_) => {}
            }
        }
    }
}

impl AsyncWrite for File {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let file = &mut *self;
        loop {
            if file.work.is_some() {
                // Of this write, if it was begun before: the bytes were taken then.
                if let Done::Wrote(end) = ready!(file.poll_work(context))? {
                    file.position = end;
                }
                continue;
            }
            let len = buffer.len().min(GATHER_LEN);
            // What can not be written is not taken: a failure of bytes that were taken is the file's from then on.
            file.check_write(len)?;
            file.ahead.1.clear();
            let bytes = Bytes::copy_from_slice(&buffer[..len]);
            let offset = file.position;
            file.position += len as u64;
            file.begin(move |mut open| async move {
                let written = if open.options.append {
                    let len = bytes.len() as u64;
                    let appended = open.append(bytes).await;
                    open.keep(appended).map(|at| at + len)
                } else {
                    let end = offset + bytes.len() as u64;
                    open.write_at(offset, bytes).await.map(|()| end)
                };
                (open, written.map(Done::Wrote))
            })?;
            // The bytes are taken; a failure is reported by the next call.
            return Poll::Ready(Ok(len));
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let file = &mut *self;
        loop {
            if file.work.is_none() {
                file.begin(|mut open| async move {
                    let synced = open.sync().await;
                    (open, synced.map(|()| Done::Synced))
                })?;
            }
            match ready!(file.poll_work(context))? {
                Done::Synced => return Poll::Ready(Ok(())),
                Done::Wrote(end) => file.position = end,
                Done::Read(..) | Done::Length(_) => {}
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

impl AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        self.seeking = Some(position);
        Ok(())
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let file = &mut *self;
        loop {
            if file.work.is_some() {
                match ready!(file.poll_work(context))? {
                    Done::Wrote(end) => file.position = end,
                    Done::Length(len) => {
                        let wanted = match file.seeking.take() {
                            Some(SeekFrom::End(from)) => len.checked_add_signed(from),
                            _ => Some(file.position),
                        };
                        file.position = wanted.ok_or(io::ErrorKind::InvalidInput)?;
                    }
                    Done::Read(..) | Done::Synced => {}
                }
                continue;
            }
            match file.seeking {
                None => return Poll::Ready(Ok(file.position)),
                Some(SeekFrom::Start(at)) => file.position = at,
                Some(SeekFrom::Current(by)) => {
                    let at = file.position.checked_add_signed(by);
                    file.position = at.ok_or(io::ErrorKind::InvalidInput)?;
                }
                Some(SeekFrom::End(_)) => {
                    file.begin(|mut open| async move {
                        let stat = open.stat().await;
                        (open, stat.map(|attr| Done::Length(attr.size)))
                    })?;
                    continue;
                }
            }
            file.seeking = None;
        }
    }
}
