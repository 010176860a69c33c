//! Group commit: packs the commands that wait into one entry (DESIGN §5.2).
//!
//! Raft awaits the sync of every entry, so the number of proposals a second is the number of
//! syncs a second times the commands in an entry. Two entries are in flight: while one is
//! synced, the next one fills.

use super::entry::{COMMAND_LEN_MAX, ENTRY_COMMANDS_MAX, Entry, decode_answers};
use super::types::Pending;
use bytes::Bytes;
use quarry_common::{Code, Error, Result};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// Entries that are proposed and not answered.
const IN_FLIGHT_MAX: usize = 2;

/// Commands, and their bytes, that wait to be packed; more are refused with `Overloaded`.
const WAITING_MAX: usize = 16_384;
const WAITING_LEN_MAX: usize = 64 << 20;

/// Commands are packed up to this length. A longer one has an entry of its own, as long as openraft waits for the followers
/// to take it: a tenth of a second.
const PACKED_LEN_MAX: usize = 1 << 20;

/// The leader's wall clock in microseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where entries go.
pub(crate) trait Propose: Send + Sync + 'static {
    /// Puts an entry behind all earlier ones; the inner future is its answer.
    fn propose(&self, entry: Bytes) -> Pending<'_, Pending<'static, Bytes>>;
}

struct Waiting {
    command: Bytes,
    answer: oneshot::Sender<Result<Bytes>>,
    /// Its share of the room for those that wait.
    _room: OwnedSemaphorePermit,
}

/// Takes commands; dropping the last one ends the packing after what waits was proposed.
pub(crate) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Batcher {
    /// Starts the task that packs.
    pub(crate) fn start(log: Arc<dyn Propose>, clock: Clock) -> Batcher {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(pack(waiting, log, clock));
        Batcher {
            queue,
            room: Arc::new(Semaphore::new(WAITING_LEN_MAX)),
        }
    }

    /// Proposes a command and returns its answer. Commands of one caller that are proposed one
    /// after the other, without waiting, are applied in that order. Not cancelled by dropping
    /// the future once it was polled: the command may still be applied.
    pub(crate) async fn propose(&self, command: Bytes) -> Result<Bytes> {
        if command.len() > COMMAND_LEN_MAX {
            return Err(Error::new(
                Code::TooBig,
                format!(
                    "a command of {} bytes; {COMMAND_LEN_MAX} are the most",
                    command.len()
                ),
            ));
        }
        let full = || {
            let text = "too many commands wait already: try again later";
            Error::new(Code::Overloaded, text)
        };
        let room = Arc::clone(&self.room);
        let room = room.try_acquire_many_owned(command.len() as u32);
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            command,
            answer,
            _room: room.map_err(|_| full())?,
        };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full(),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        answered.await.map_err(|_| stopping())?
    }
}

fn stopping() -> Error {
    Error::new(
        Code::Stopping,
        "this metaserver is stopping: the command may or may not be done",
    )
}

async fn pack(mut waiting: mpsc::Receiver<Waiting>, log: Arc<dyn Propose>, clock: Clock) {
    let mut in_flight = JoinSet::new();
    let mut held = None;
    let mut time_us = 0;
    loop {
        while in_flight.try_join_next().is_some() {}
        while in_flight.len() >= IN_FLIGHT_MAX {
            in_flight.join_next().await;
        }
        let first = match held.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => break,
            },
        };
        let (commands, callers);
        (commands, callers, held) = gather(first, &mut waiting);
        time_us = clock().max(time_us);
        let entry = Entry { time_us, commands }.encode();
        match log.propose(entry).await {
            Ok(answer) => {
                in_flight.spawn(async move { deliver(answer.await, callers) });
            }
            Err(error) => deliver(Err(error), callers),
        }
    }
    while in_flight.join_next().await.is_some() {}
}

/// Takes what waits as long as it fits into the entry of `first`; the one that does not is held
/// for the next entry.
fn gather(
    first: Waiting,
    waiting: &mut mpsc::Receiver<Waiting>,
) -> (
    Vec<Bytes>,
    Vec<oneshot::Sender<Result<Bytes>>>,
    Option<Waiting>,
) {
    let mut len = first.command.len();
    let mut commands = vec![first.command];
    let mut callers = vec![first.answer];
    while commands.len() < ENTRY_COMMANDS_MAX
        && let Ok(next) = waiting.try_recv()
    {
        if len + next.command.len() > PACKED_LEN_MAX {
            return (commands, callers, Some(next));
        }
        len += next.command.len();
        commands.push(next.command);
        callers.push(next.answer);
    }
    (commands, callers, None)
}

fn deliver(answer: Result<Bytes>, callers: Vec<oneshot::Sender<Result<Bytes>>>) {
    let answers = answer.and_then(|answer| {
        let answers = decode_answers(&answer)?;
        if answers.len() != callers.len() {
            return Err(Error::bug(format!(
                "{} commands of an entry got {} answers",
                callers.len(),
                answers.len()
            )));
        }
        Ok(answers)
    });
    // A caller that went away does not need its answer.
    match answers {
        Ok(answers) => {
            for (caller, answer) in callers.into_iter().zip(answers) {
                caller.send(Ok(answer)).ok();
            }
        }
        Err(error) => {
            for caller in callers {
                caller.send(Err(error.clone())).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::encode_answers;
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::sync::Semaphore;

    /// Records entries, answers each command with itself, and only when it is let.
    struct Recorder {
        entries: Mutex<Vec<Entry>>,
        let_through: Arc<Semaphore>,
    }

    impl Propose for Recorder {
        fn propose(&self, entry: Bytes) -> Pending<'_, Pending<'static, Bytes>> {
            Box::pin(async move {
                let entry = Entry::decode(&entry)?;
                let answer = encode_answers(&entry.commands);
                self.entries.lock().unwrap().push(entry);
                let gate = Arc::clone(&self.let_through);
                let answer: Pending<'static, Bytes> = Box::pin(async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(answer)
                });
                Ok(answer)
            })
        }
    }

    fn recorder() -> (Arc<Recorder>, Batcher) {
        let let_through = Arc::new(Semaphore::new(0));
        let log = Arc::new(Recorder {
            entries: Mutex::default(),
            let_through,
        });
        let ticks = AtomicU64::new(100);
        // A clock that goes backwards.
        let clock: Clock = Arc::new(move || ticks.fetch_sub(1, Ordering::Relaxed));
        let batcher = Batcher::start(Arc::clone(&log) as Arc<dyn Propose>, clock);
        (log, batcher)
    }

    fn number(i: u32) -> Bytes {
        Bytes::copy_from_slice(&i.to_be_bytes())
    }

    #[tokio::test]
    async fn commands_that_wait_share_entries_in_their_order_with_two_in_flight() {
        let (log, batcher) = recorder();
        let batcher = Arc::new(batcher);
        let mut callers = Vec::new();
        for i in 0..1_300u32 {
            let batcher = Arc::clone(&batcher);
            callers.push(tokio::spawn(
                async move { batcher.propose(number(i)).await },
            ));
            if i < 2 {
                // The first two fill the room in flight, alone.
                while log.entries.lock().unwrap().len() as u32 <= i {
                    tokio::task::yield_now().await;
                }
            }
        }
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            log.entries.lock().unwrap().len(),
            2,
            "a third entry does not start"
        );
        log.let_through.add_permits(1_000);
        for (i, caller) in callers.into_iter().enumerate() {
            assert_eq!(caller.await.unwrap().unwrap(), number(i as u32));
        }
        let entries = log.entries.lock().unwrap();
        let sizes: Vec<_> = entries.iter().map(|entry| entry.commands.len()).collect();
        assert_eq!(sizes, [1, 1, 512, 512, 274]);
        let all: Vec<_> = entries
            .iter()
            .flat_map(|entry| entry.commands.clone())
            .collect();
        assert_eq!(all, (0..1_300).map(number).collect::<Vec<_>>());
        assert!(
            entries.iter().all(|entry| entry.time_us == 100),
            "time never goes back"
        );
    }

    #[tokio::test]
    async fn an_entry_is_never_longer_than_its_limit() {
        let (log, batcher) = recorder();
        log.let_through.add_permits(1_000);
        let large = Bytes::from(vec![7; COMMAND_LEN_MAX / 3]);
        let proposals = (0..8).map(|_| batcher.propose(large.clone()));
        for answer in futures_in_order(proposals).await {
            assert_eq!(answer.unwrap().len(), large.len());
        }
        for entry in log.entries.lock().unwrap().iter() {
            assert!(entry.encode().len() <= quarry_common::limits::RAFT_ENTRY_LEN_MAX);
        }
        log.entries.lock().unwrap().clear();
        let middling = Bytes::from(vec![7; PACKED_LEN_MAX / 3]);
        let proposals = (0..8).map(|_| batcher.propose(middling.clone()));
        for answer in futures_in_order(proposals).await {
            answer.unwrap();
        }
        for entry in log.entries.lock().unwrap().iter() {
            assert!(entry.encode().len() <= PACKED_LEN_MAX + 1_024);
        }
        let error = batcher
            .propose(Bytes::from(vec![0; COMMAND_LEN_MAX + 1]))
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::TooBig);
    }

    #[tokio::test]
    async fn many_long_commands_do_not_wait_without_end() {
        let (log, batcher) = recorder();
        let large = Bytes::from(vec![7; COMMAND_LEN_MAX]);
        let count = 2 * WAITING_LEN_MAX / COMMAND_LEN_MAX;
        let batcher = Arc::new(batcher);
        let proposals = (0..count).map(|_| {
            let (batcher, large) = (Arc::clone(&batcher), large.clone());
            tokio::spawn(async move { batcher.propose(large).await })
        });
        let proposals: Vec<_> = proposals.collect();
        tokio::task::yield_now().await;
        log.let_through.add_permits(1_000);
        let mut refused = 0;
        for proposal in proposals {
            match proposal.await.unwrap() {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.code, Code::Overloaded);
                    refused += 1;
                }
            }
        }
        assert!((1..count).contains(&refused), "{refused} of {count}");
    }

    async fn futures_in_order<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
        let mut pinned: Vec<_> = futures.map(Box::pin).collect();
        let mut outputs: Vec<_> = pinned.iter().map(|_| None).collect();
        std::future::poll_fn(|cx| {
            for (future, output) in pinned.iter_mut().zip(&mut outputs) {
                if output.is_none()
                    && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
                {
                    *output = Some(value);
                }
            }
            match outputs.iter().all(Option::is_some) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        outputs.into_iter().flatten().collect()
    }
}
