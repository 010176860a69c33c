//! What is open: the numbers that the kernel uses for it.

use fuser::{Errno, FileHandle};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Things by the numbers that the kernel uses for them. A number is never used twice.
#[derive(Debug)]
pub struct Handles<T> {
    open: Mutex<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles {
            open: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }
}

impl<T> Handles<T> {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<T>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens something.
    pub fn add(&self, thing: T) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open().insert(number, Arc::new(thing));
        FileHandle(number)
    }

    /// What is open under a number.
    ///
    /// # Errors
    /// `EBADF`: nothing is, which the kernel does not ask for.
    pub fn get(&self, handle: FileHandle) -> Result<Arc<T>, Errno> {
        self.open().get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    /// Closes it.
    pub fn remove(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.open().remove(&handle.0)
    }
}
