//! Work on disks: each has its own threads, so that one that hangs keeps nobody from the others.

use crate::disk::Disk;
use quarry_common::ids::DiskId;
use quarry_common::{Code, Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Work that a disk does at once; more waits for its turn.
const WORK_MAX: usize = 64;

/// How long work may take, with its turn: then the disk hangs, and whoever asked goes elsewhere.
const WORK_WAIT: Duration = Duration::from_secs(30);

/// The turns of each disk.
pub struct Turns(BTreeMap<DiskId, Arc<Semaphore>>);

impl Turns {
    /// Those of so many disks.
    pub fn of(disks: impl Iterator<Item = DiskId>) -> Turns {
        Turns(
            disks
                .map(|disk| (disk, Arc::new(Semaphore::new(WORK_MAX))))
                .collect(),
        )
    }

    /// Does work on a disk, on a thread for blocking work; it is finished though nobody waits any more.
    ///
    /// # Errors
    /// `Overloaded` if the disk does not answer in time; those of the work.
    pub async fn take<T: Send + 'static>(
        &self,
        disk: &Disk,
        work: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (id, disk) = (disk.identity().disk, disk.clone());
        self.take_within(WORK_WAIT, id, move || work(&disk)).await
    }

    async fn take_within<T: Send + 'static>(
        &self,
        wait: Duration,
        disk: DiskId,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let unknown = || Error::bug(format!("disk {disk} has no turns"));
        let turns = Arc::clone(self.0.get(&disk).ok_or_else(unknown)?);
        let working = async {
            let stopping = |_| Error::new(Code::Stopping, "this dataserver is stopping");
            let turn = turns.acquire_owned().await.map_err(stopping)?;
            // The turn ends with the work, not with whoever waits for it: there are no more threads than turns.
            let work = move || {
                let _turn = turn;
                work()
            };
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|error| {
                Err(Error::bug(format!("work on a disk was lost: {error}")))
            })
        };
        in_time(wait, disk, working).await
    }
}

/// Waits for work that has its own thread, not longer than a turn may take; it is finished though nobody waits any more.
///
/// # Errors
/// `Overloaded` if the disk does not answer in time; those of the work.
pub async fn wait_for<T>(disk: DiskId, working: impl Future<Output = Result<T>>) -> Result<T> {
    in_time(WORK_WAIT, disk, working).await
}

async fn in_time<T>(
    wait: Duration,
    disk: DiskId,
    working: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = |_| {
        let text = format!("disk {disk} does not answer");
        Err(Error::new(Code::Overloaded, text))
    };
    let done = tokio::time::timeout(wait, working).await;
    done.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_disk_that_hangs_keeps_nobody_from_another_and_has_so_many_threads() {
        let (bad, good) = (DiskId(1), DiskId(2));
        let turns = Turns::of([bad, good].into_iter());
        let (release, hanging) = mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        let soon = Duration::from_millis(10);
        for _ in 0..WORK_MAX {
            let hanging = Arc::clone(&hanging);
            let hang = move || Ok(hanging.lock().unwrap().recv().is_ok());
            let hung = turns.take_within(soon, bad, hang).await;
            assert_eq!(hung.unwrap_err().code, Code::Overloaded);
        }
        // It is not even begun.
        let hopeless = turns.take_within(soon, bad, || panic!("it has no turn"));
        let refused: Result<()> = hopeless.await;
        assert_eq!(refused.unwrap_err().code, Code::Overloaded);
        let long = Duration::from_secs(60);
        assert_eq!(turns.take_within(long, good, || Ok(7)).await.unwrap(), 7);
        drop(release);
        assert_eq!(turns.take_within(long, bad, || Ok(8)).await.unwrap(), 8);
    }
}
