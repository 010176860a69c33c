//! Buffers for reads of files, used again: the first touch of fresh memory is three times slower
//! than the page cache.

use crate::limits::{BLOCK_LEN, FRAME_LEN_MAX};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A buffer holds a frame of any alignment.
const BUFFER_LEN: usize = FRAME_LEN_MAX + BLOCK_LEN;

/// Buffers kept: those of what a reader has on its way, and of what it is at. More are given back to
/// the system.
const BUFFERS_KEPT: usize = 40;

/// A pool of buffers.
#[derive(Default)]
pub struct ReadBuffers(Mutex<Vec<Vec<u8>>>);

/// A buffer of a pool, to which it returns when it is dropped.
pub struct ReadBuffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<ReadBuffers>,
}

impl ReadBuffers {
    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `len` bytes, with whatever was in it. One longer than a frame is made afresh.
    pub fn take(pool: &Arc<ReadBuffers>, len: usize) -> ReadBuffer {
        let kept = if len > BUFFER_LEN {
            None
        } else {
            pool.kept().pop()
        };
        let bytes = kept.unwrap_or_else(|| vec![0; len.max(BUFFER_LEN)]);
        ReadBuffer {
            bytes,
            len,
            pool: Arc::clone(pool),
        }
    }

    /// Gives the memory of those that nobody uses back to the system.
    pub fn clear(&self) {
        self.kept().clear();
    }
}

impl ReadBuffer {
    /// To read into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let mut kept = self.pool.kept();
        if self.bytes.len() == BUFFER_LEN && kept.len() < BUFFERS_KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}
