//! Where the bytes of a chunk stand in its file.
//!
//! Data starts at [`DATA_AT`]. After a flush that fills no whole sector, the data goes on
//! in the next sector: a sector that holds acknowledged bytes is never written again, so no torn
//! write can damage it (DESIGN §4.4). Such a length is a *cut*; there are at most as many as flushes.

use quarry_common::limits::{BLOCK_LEN, CHUNK_LEN_MAX, FLUSHES_MAX};

/// The unit of direct IO and of what a power cut can tear.
pub const SECTOR_LEN: usize = 4096;

/// Data starts here; before it are the header and the flush records, a sector each.
pub const DATA_AT: u64 = BLOCK_LEN as u64;

const _: () = assert!((1 + FLUSHES_MAX as u64) * SECTOR_LEN as u64 <= DATA_AT);

/// `at` rounded up to a whole sector.
pub fn sector_end(at: u64) -> u64 {
    at.next_multiple_of(SECTOR_LEN as u64)
}

/// The sector of the flush record with number `sequence`, from 0.
pub fn flush_record_at(sequence: u32) -> u64 {
    u64::from(1 + sequence) * SECTOR_LEN as u64
}

/// A run of chunk bytes that stand together in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Position of its first byte in the file.
    pub file_at: u64,
    /// Length in bytes.
    pub len: u32,
}

/// Whether `cuts` can be those of a chunk of `len` bytes: ascending, within it, not too many.
pub fn cuts_are_valid(cuts: &[u32], len: u32) -> bool {
    len <= CHUNK_LEN_MAX
        && cuts.len() <= FLUSHES_MAX as usize
        && cuts.iter().all(|cut| *cut > 0 && *cut <= len)
        && cuts.is_sorted_by(|a, b| a < b)
}

/// The position in the file of the chunk byte at `offset`, or of the end if it is the length.
///
/// A cut belongs to the run before it when `offset` is an end, see [`runs`].
fn position(cuts: &[u32], offset: u32) -> u64 {
    let mut file_at = DATA_AT;
    let mut chunk_at = 0;
    for cut in cuts.iter().take_while(|cut| **cut <= offset) {
        file_at = sector_end(file_at + u64::from(cut - chunk_at));
        chunk_at = *cut;
    }
    file_at + u64::from(offset - chunk_at)
}

/// The position in the file of the first sector after a chunk of `len` bytes.
pub fn data_end(cuts: &[u32], len: u32) -> u64 {
    sector_end(position(cuts, len))
}

/// The runs that hold the chunk bytes `offset..offset + len`, in order.
pub fn runs(cuts: &[u32], offset: u32, len: u32) -> Vec<Run> {
    let end = offset + len;
    let mut runs = Vec::with_capacity(1);
    let mut from = offset;
    while from < end {
        let to = cuts
            .iter()
            .copied()
            .find(|cut| *cut > from)
            .map_or(end, |cut| cut.min(end));
        runs.push(Run {
            file_at: position(cuts, from),
            len: to - from,
        });
        from = to;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cuts_the_data_is_one_run() {
        assert_eq!(
            runs(&[], 10, 20),
            [Run {
                file_at: DATA_AT + 10,
                len: 20
            }]
        );
        assert_eq!(data_end(&[], 5000), DATA_AT + 8192);
        assert_eq!(data_end(&[], 0), DATA_AT);
    }

    #[test]
    fn after_a_cut_the_data_goes_on_in_the_next_sector() {
        let cuts = [100, 5000];
        assert_eq!(
            runs(&cuts, 50, 6000),
            [
                Run {
                    file_at: DATA_AT + 50,
                    len: 50
                },
                Run {
                    file_at: DATA_AT + 4096,
                    len: 4900
                },
                Run {
                    file_at: DATA_AT + 4096 + 8192,
                    len: 1050
                },
            ]
        );
        assert_eq!(data_end(&cuts, 5000), DATA_AT + 4096 + 8192);
        assert_eq!(data_end(&[100], 100), DATA_AT + 4096);
    }

    #[test]
    fn no_two_runs_of_different_flushes_share_a_sector() {
        let cuts = [1, 2, 4097, 70_001, 70_002];
        assert!(cuts_are_valid(&cuts, 80_000));
        let all = runs(&cuts, 0, 80_000);
        assert_eq!(all.iter().map(|run| run.len).sum::<u32>(), 80_000);
        for pair in all.windows(2) {
            assert_eq!(
                sector_end(pair[0].file_at + u64::from(pair[0].len)),
                pair[1].file_at
            );
        }
    }

    #[test]
    fn impossible_cuts_are_refused() {
        assert!(!cuts_are_valid(&[5, 5], 10));
        assert!(!cuts_are_valid(&[7, 5], 10));
        assert!(!cuts_are_valid(&[11], 10));
        assert!(!cuts_are_valid(&[0], 10));
        assert!(!cuts_are_valid(&[], CHUNK_LEN_MAX + 1));
        assert!(!cuts_are_valid(&(1..=16).collect::<Vec<_>>(), 100));
    }
}
