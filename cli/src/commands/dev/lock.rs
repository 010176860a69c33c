//! One process for a directory: a lock file that its process holds, with its number in it.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The lock, held until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Who holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// A process that has not written its number yet.
    Unknown,
    /// This process.
    Process {
        /// Its number.
        pid: u32,
        /// Whether its cluster is ready.
        ready: bool,
    },
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let opened = options.open(path);
    opened.with_context(|| format!("{}: can not be opened", path.display()))
}

impl Lock {
    /// Takes the lock and writes this process's number; `None` if another process holds it.
    ///
    /// # Errors
    /// The file can not be made.
    pub fn take(path: &Path) -> Result<Option<Lock>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error)
                    .with_context(|| format!("{}: can not be locked", path.display()));
            }
        }
        let mut lock = Lock { file };
        lock.write(&format!("{}\n", std::process::id()))?;
        Ok(Some(lock))
    }

    /// Notes for others that the cluster is ready.
    ///
    /// # Errors
    /// The file can not be written.
    pub fn set_ready(&mut self) -> Result<()> {
        self.write(&format!("{} ready\n", std::process::id()))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        Ok(self.file.set_len(text.len() as u64)?)
    }
}

/// Who holds the lock at `path`.
///
/// # Errors
/// The file can not be read.
pub fn holder(path: &Path) -> Result<Holder> {
    if !path.exists() {
        return Ok(Holder::Nobody);
    }
    let mut file = open(path)?;
    match file.try_lock_shared() {
        Ok(()) => return Ok(Holder::Nobody),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("{}: can not be locked", path.display()));
        }
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut words = text.split_whitespace();
    Ok(match words.next().and_then(|pid| pid.parse().ok()) {
        Some(pid) => Holder::Process {
            pid,
            ready: words.next() == Some("ready"),
        },
        None => Holder::Unknown,
    })
}

/// Asks the process that holds the lock to end, and waits until it has let go.
///
/// # Errors
/// The process that is written in the file is not the one that holds the lock, may not be asked, or
/// does not end in time.
pub fn end_holder(path: &Path, pid: u32, within: Duration) -> Result<()> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(number) = number else {
        bail!("{}: '{pid}' is no process", path.display());
    };
    // From here on the number can not come to mean another process.
    let process = pidfd_open(number, PidfdFlags::empty());
    let process = process.with_context(|| format!("process {pid} of {}", path.display()))?;
    if !has_open(pid, path)? {
        bail!(
            "{}: names process {pid}, which does not hold it: find out who does ('fuser {}') and end that",
            path.display(),
            path.display()
        );
    }
    pidfd_send_signal(&process, Signal::TERM)
        .with_context(|| format!("process {pid} can not be asked to stop"))?;
    let until = Instant::now() + within;
    while holder(path)? != Holder::Nobody {
        if Instant::now() > until {
            bail!(
                "process {pid} has not stopped within {} s: look into its log, or 'kill -9 {pid}': what was stored is safe",
                within.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether a process has a file open.
fn has_open(pid: u32, path: &Path) -> Result<bool> {
    let wanted = path.metadata()?;
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let entries = std::fs::read_dir(&folder).with_context(|| {
        format!(
            "process {pid} belongs to someone else: {} can not be read",
            folder.display()
        )
    })?;
    let same = |entry: std::io::Result<std::fs::DirEntry>| {
        let found = entry.and_then(|entry| std::fs::metadata(entry.path()));
        found.is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    Ok(entries.into_iter().any(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_the_lock_and_others_see_which() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder(&path).unwrap(), Holder::Nobody);
        let mut lock = Lock::take(&path).unwrap().unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        let pid = std::process::id();
        assert_eq!(
            holder(&path).unwrap(),
            Holder::Process { pid, ready: false }
        );
        lock.set_ready().unwrap();
        assert_eq!(holder(&path).unwrap(), Holder::Process { pid, ready: true });
        drop(lock);
        // The number is still in the file: only the lock counts.
        assert_eq!(holder(&path).unwrap(), Holder::Nobody);
    }

    #[test]
    fn a_process_that_does_not_hold_the_lock_is_not_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let _lock = Lock::take(&path).unwrap().unwrap();
        let mut innocent = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let refused = end_holder(&path, innocent.id(), Duration::from_secs(1));
        assert!(innocent.try_wait().unwrap().is_none(), "it was ended");
        innocent.kill().unwrap();
        innocent.wait().unwrap();
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("does not hold it")
        );
    }
}
