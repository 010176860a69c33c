//! In which steps a file shares the chunks of another.

use quarry_common::error::{Code, Result};
use quarry_common::limits::CHUNK_LEN_MAX;

/// Bytes of a file that share their chunks in the first step: an extent is at most a chunk long, so usual
/// files stay well below what one command may hold. Where extents are shorter, steps are; in holes they grow.
pub const STEP_LEN: u64 = 256 * CHUNK_LEN_MAX as u64;

/// The ranges in which the chunks of a file are shared, one after the other. One in which there is too much for a step is
/// halved; after each that was done the next one is twice as long.
pub struct Steps {
    size: u64,
    offset: u64,
    step: u64,
}

impl Steps {
    /// All of `size` bytes.
    pub fn new(size: u64) -> Steps {
        let (offset, step) = (0, STEP_LEN);
        Steps { size, offset, step }
    }

    /// The offset and length of the next step; `None` at the end.
    pub fn next(&self) -> Option<(u64, u64)> {
        let len = self.step.min(self.size - self.offset);
        (len > 0).then_some((self.offset, len))
    }

    /// How that step went.
    ///
    /// # Errors
    /// Its own, if shorter steps do not help.
    pub fn handle(&mut self, (offset, len): (u64, u64), done: Result<()>) -> Result<()> {
        match done {
            Ok(()) => {
                self.offset = offset + len;
                self.step = self.step.saturating_mul(2);
                Ok(())
            }
            // A power of two, so that chunks are cut at few places.
            Err(error) if error.code == Code::TooBig && len > 1 => {
                self.step = (len / 2).next_power_of_two();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::Error;

    #[test]
    fn a_file_of_many_extents_is_shared_in_shorter_steps_that_grow_again() {
        // Records of ten bytes, then long extents.
        let (records_end, size) = (50_000, 100 * STEP_LEN);
        let too_big = || Err(Error::new(Code::TooBig, "too many extents"));
        let mut done = Vec::new();
        let mut refused = 0;
        let mut steps = Steps::new(size);
        while let Some((offset, len)) = steps.next() {
            let records = records_end.min(offset + len).saturating_sub(offset) / 10;
            let outcome = match records > 1_000 {
                true => {
                    refused += 1;
                    too_big()
                }
                false => {
                    done.push((offset, len));
                    Ok(())
                }
            };
            steps.handle((offset, len), outcome).unwrap();
        }
        let mut end = 0;
        for (offset, len) in &done {
            assert_eq!(*offset, end);
            end += len;
        }
        assert_eq!(end, size);
        assert!(done.len() < 150, "{}", done.len());
        assert!(refused < 50);
        let mut never = Steps::new(1);
        let error = never.handle((0, 1), too_big()).unwrap_err();
        assert_eq!(error.code, Code::TooBig);
    }
}
