//! Requests that their callers do not want to wait for any more.
//!
//! The kernel tells of the first signal that a waiting caller gets, whatever signal that is, and never again; and a caller that
//! is killed still waits for the answer (fs/fuse/dev.c, `request_wait_answer`). Files of a local disk do not fail because a
//! timer went off, so a request is given up only when its caller is being killed, which is looked for from the first signal on.

use fuser::RequestId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// How often it is looked whether a caller that got a signal is being killed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A caller whose process can not be seen from here, as one in a container with another /proc, waits so long after a signal.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(10);

/// Signals may be told before the request, which another thread has read, is known here. So many are kept.
const EARLY_MAX: usize = 256;

/// SIGKILL in the masks of /proc/PID/status.
const KILLED: u64 = 1 << (libc::SIGKILL - 1);

/// The requests that are being answered.
#[derive(Debug, Default)]
pub struct Interrupts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<u64, oneshot::Sender<()>>,
    early: VecDeque<u64>,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Asked {
    interrupts: Arc<Interrupts>,
    unique: u64,
    pid: u32,
    signalled: oneshot::Receiver<()>,
}

impl Interrupts {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of a thread begins. To be called before the next one is read.
    pub fn begin(self: &Arc<Self>, unique: RequestId, pid: u32) -> Asked {
        let (send, signalled) = oneshot::channel();
        let mut table = self.table();
        match table.early.iter().position(|early| *early == unique.0) {
            Some(at) => {
                table.early.remove(at);
                // The other end is below.
                send.send(()).ok();
            }
            None => {
                table.waiting.insert(unique.0, send);
            }
        }
        Asked {
            interrupts: self.clone(),
            unique: unique.0,
            pid,
            signalled,
        }
    }

    /// The caller of a request got a signal.
    pub fn signal(&self, unique: RequestId) {
        let mut table = self.table();
        match table.waiting.remove(&unique.0) {
            Some(waiting) => {
                // Its answer may be on its way.
                waiting.send(()).ok();
            }
            None => {
                if table.early.len() == EARLY_MAX {
                    table.early.pop_front();
                }
                table.early.push_back(unique.0);
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.interrupts.table().waiting.remove(&self.unique);
    }
}

impl Asked {
    /// Waits until the caller is being killed. Cancel-safe.
    pub async fn is_given_up(&mut self) {
        if (&mut self.signalled).await.is_err() {
            return std::future::pending().await;
        }
        if self.pid == 0 {
            return tokio::time::sleep(UNSEEN_PATIENCE).await;
        }
        while !is_being_killed(self.pid) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether a thread is being killed, or is no more.
fn is_being_killed(thread: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => pending_signals(&status) & KILLED != 0,
        Err(_) => true,
    }
}

/// The signals that wait for a thread and its process.
fn pending_signals(status: &str) -> u64 {
    let masks = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigPnd:");
        let mask = mask.or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_told_from_other_signals() {
        let status = |thread, process| {
            format!("Name:\tcat\nSigPnd:\t{thread}\nShdPnd:\t{process}\nSigBlk:\tffff\n")
        };
        let none = "0000000000000000";
        assert_eq!(pending_signals(&status(none, none)), 0);
        let term = status(none, "0000000000004000");
        assert_eq!(pending_signals(&term) & KILLED, 0);
        for status in [
            status("0000000000000100", none),
            status(none, "0000000000004100"),
        ] {
            assert_ne!(pending_signals(&status) & KILLED, 0, "{status}");
        }
    }

    #[tokio::test]
    async fn a_signal_counts_whichever_thread_tells_it_first() {
        let interrupts = Arc::new(Interrupts::default());
        // Nobody has this number: it is as if it were dead.
        let dead = u32::MAX;
        let mut known = interrupts.begin(RequestId(2), dead);
        interrupts.signal(RequestId(2));
        known.is_given_up().await;
        interrupts.signal(RequestId(4));
        let mut early = interrupts.begin(RequestId(4), dead);
        early.is_given_up().await;
        let mut other = interrupts.begin(RequestId(6), dead);
        let waited = tokio::time::timeout(Duration::from_millis(20), other.is_given_up());
        assert!(waited.await.is_err(), "nobody signalled it");
        drop((known, early, other));
        assert!(interrupts.table().waiting.is_empty());
    }
}
