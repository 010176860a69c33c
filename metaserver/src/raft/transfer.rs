//! Snapshots on their way to another member: file by file, each with its length and its CRC.
//!
//! The receiver writes into a directory of its own, syncs each file, and hands the whole to its state machine
//! only when all is there and right. What is cut off is removed and sent again from the beginning.

use super::snapshot::SnapshotCopy;
use super::types::{NodeId, Types, blocking};
use super::wire::{FileEnd, FileHead, SnapshotAnswer, SnapshotHead};
use crate::kv::{Room, io_error};
use bytes::Bytes;
use openraft::Vote;
use quarry_common::checksum::Crc;
use quarry_common::durable::sync_directory;
use quarry_common::ids::ShardId;
use quarry_common::net::{BulkReader, BulkWriter, RecvStream, SendStream};
use quarry_common::{Code, Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, watch};

/// Bytes read, sent and written at a time.
const PIECE_LEN: usize = 1 << 20;

/// Files of one snapshot at most: a table file holds 64 MiB, so that this is far beyond any state.
const FILES_MAX: u32 = 1 << 16;

/// A file name of RocksDB is shorter.
const NAME_LEN_MAX: usize = 64;

/// A transfer in which nothing moves for so long is given up.
const STALLED_AFTER: Duration = Duration::from_secs(15);

/// Checking and taking over a large state takes as long as reading it a few times.
const INSTALLED_WITHIN: Duration = Duration::from_secs(1_800);

/// Space that a received snapshot leaves free: the Raft log beside it must never meet a full disk.
const SPARE_LEN: u64 = 256 << 20;

async fn moving<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    let stalled = |_| {
        let text = format!("nothing moved for {} s", STALLED_AFTER.as_secs());
        Err(Error::new(Code::Disconnected, text))
    };
    tokio::time::timeout(STALLED_AFTER, step)
        .await
        .unwrap_or_else(stalled)
}

/// Sends a snapshot and returns the receiver's vote once it is installed there. Dropping the future ends it.
///
/// # Errors
/// Those of the disk and the stream; the receiver's refusal.
pub(super) async fn send(
    (send, recv): (SendStream, RecvStream),
    shard: ShardId,
    vote: Vote<NodeId>,
    snapshot: &openraft::Snapshot<Types>,
) -> Result<Vote<NodeId>> {
    let (mut writer, mut reader) = (BulkWriter::new(send), BulkReader::new(recv));
    let files = files_of(&snapshot.snapshot.copy_dir())?;
    let head = SnapshotHead {
        shard,
        vote,
        meta: snapshot.meta.clone(),
        files: files.len() as u32,
        len: files.iter().map(|(_, _, len)| len).sum(),
    };
    let sent = async {
        moving(writer.write_message(&head)).await?;
        for (path, name, len) in files {
            send_file(&mut writer, &path, FileHead { name, len }).await?;
        }
        writer.finish()
    };
    // A receiver that refuses says why at any time, and then reads no more.
    let refused = async {
        let answer = reader.read_message::<SnapshotAnswer>("the answer to a snapshot");
        let answer = tokio::time::timeout(INSTALLED_WITHIN, answer).await;
        let late = |_| {
            Err(Error::new(
                Code::Disconnected,
                "it was not taken over in time",
            ))
        };
        match answer.unwrap_or_else(late)? {
            Some(answer) => answer,
            None => Err(Error::malformed("a snapshot was not answered")),
        }
    };
    tokio::pin!(refused);
    tokio::select! {
        biased;
        answer = &mut refused => answer,
        sent = sent => match sent {
            Ok(()) => refused.await,
            // The reason may be on its way.
            Err(error) => match tokio::time::timeout(Duration::from_secs(1), refused).await {
                Ok(Err(reason)) if reason.code != Code::Disconnected => Err(reason),
                _ => Err(error),
            },
        },
    }
}

/// The files of a copy with their names and lengths.
fn files_of(copy: &Path) -> Result<Vec<(PathBuf, String, u64)>> {
    let failed = |error| io_error(copy, "can not be listed", error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(copy).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        match entry.file_name().into_string() {
            Ok(name) if metadata.is_file() && is_file_name(&name) => {
                files.push((entry.path(), name, metadata.len()));
            }
            _ => {
                let what = entry.path();
                return Err(Error::bug(format!("{} is in a snapshot", what.display())));
            }
        }
    }
    Ok(files)
}

async fn send_file(writer: &mut BulkWriter, path: &Path, head: FileHead) -> Result<()> {
    let failed = |error| io_error(path, "can not be read", error);
    let mut file = File::open(path).map_err(failed)?;
    let mut left = head.len;
    moving(writer.write_message(&head)).await?;
    let mut crc = Crc::default();
    while left > 0 {
        let mut piece = vec![0; PIECE_LEN.min(usize::try_from(left).unwrap_or(PIECE_LEN))];
        blocking(|| file.read_exact(&mut piece)).map_err(failed)?;
        crc = crc.then(Crc::of(&piece), piece.len() as u64);
        left -= piece.len() as u64;
        moving(writer.write(Bytes::from(piece))).await?;
    }
    moving(writer.write_message(&FileEnd { crc })).await
}

/// Snapshots that arrive: one at a time, since two would need the space of two. The latest takes the place of one that is
/// still on its way: that one's sender has given it up, or leads no more and may be cut off in the middle of it.
#[derive(Default)]
pub(super) struct Arrivals {
    /// The number of the latest.
    latest: watch::Sender<u64>,
    turn: Mutex<()>,
}

impl Arrivals {
    /// Ends the one that is on its way, if there is one, and waits until it is gone.
    pub(super) async fn begin(&self) -> Turn<'_> {
        let mut number = 0;
        self.latest.send_modify(|latest| {
            *latest += 1;
            number = *latest;
        });
        Turn {
            number,
            latest: self.latest.subscribe(),
            _only: self.turn.lock().await,
        }
    }
}

/// While this lives no other snapshot arrives.
pub(super) struct Turn<'a> {
    number: u64,
    latest: watch::Receiver<u64>,
    _only: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Writes all files of a snapshot, as [`Arriving::receive`] does.
    ///
    /// # Errors
    /// Those of it; `Overloaded` when a later snapshot takes its place.
    pub(super) async fn receive(
        &mut self,
        arriving: &mut Arriving,
        to: &SnapshotCopy,
    ) -> Result<()> {
        let number = self.number;
        tokio::select! {
            biased;
            _ = self.latest.wait_for(|latest| *latest != number) => Err(Error::new(
                Code::Overloaded,
                "this metaserver is sent another snapshot meanwhile",
            )),
            received = arriving.receive(to) => received,
        }
    }
}

/// A snapshot that arrives.
pub(super) struct Arriving {
    writer: BulkWriter,
    reader: BulkReader,
    /// What is said of it.
    pub(super) head: SnapshotHead,
}

impl Arriving {
    /// Reads what comes before the files.
    ///
    /// # Errors
    /// `Malformed`; those of the stream.
    pub(super) async fn begin(send: SendStream, recv: RecvStream) -> Result<Arriving> {
        let (writer, mut reader) = (BulkWriter::new(send), BulkReader::new(recv));
        let head = moving(reader.read_message::<SnapshotHead>("the head of a snapshot")).await?;
        let head = head.ok_or_else(|| Error::malformed("a snapshot ended before it began"))?;
        if head.files > FILES_MAX {
            return Err(Error::malformed(format!(
                "a snapshot of {} files",
                head.files
            )));
        }
        Ok(Arriving {
            writer,
            reader,
            head,
        })
    }

    /// Writes all files into the directory of `to`, durably.
    ///
    /// # Errors
    /// `DamagedOnTheWay` for a wrong CRC, `Malformed` for other files than were announced, `DiskFull`; those
    /// of disk and stream.
    async fn receive(&mut self, to: &SnapshotCopy) -> Result<()> {
        let dir = to.copy_dir();
        check_space(&dir, self.head.len)?;
        let mut left = self.head.len;
        for _ in 0..self.head.files {
            let head = moving(self.reader.read_message::<FileHead>("a file of a snapshot")).await?;
            let head = head.ok_or_else(|| Error::malformed("a snapshot ended early"))?;
            if !is_file_name(&head.name) {
                let text = format!("a snapshot with a file called {:?}", head.name);
                return Err(Error::malformed(text));
            }
            left = left
                .checked_sub(head.len)
                .ok_or_else(|| Error::malformed("a snapshot longer than it said"))?;
            self.receive_file(&dir.join(&head.name), head.len).await?;
        }
        if left > 0 {
            return Err(Error::malformed("a snapshot shorter than it said"));
        }
        moving(self.reader.read_end()).await?;
        blocking(|| sync_directory(&dir))
            .map_err(|error| io_error(&dir, "can not be synced", error))
    }

    async fn receive_file(&mut self, path: &Path, len: u64) -> Result<()> {
        let failed = |error| io_error(path, "can not be written", error);
        // Refused if it is there: two files of one name.
        let mut file = File::create_new(path).map_err(failed)?;
        let mut left = len;
        let mut crc = Crc::default();
        while left > 0 {
            let count = PIECE_LEN.min(usize::try_from(left).unwrap_or(PIECE_LEN));
            let pieces = moving(self.reader.read_exact_pieces(count)).await?;
            left -= count as u64;
            blocking(|| {
                pieces.iter().try_for_each(|piece| {
                    crc = crc.then(Crc::of(piece), piece.len() as u64);
                    file.write_all(piece)
                })
            })
            .map_err(failed)?;
        }
        let end = moving(self.reader.read_message::<FileEnd>("the end of a file")).await?;
        let end = end.ok_or_else(|| Error::malformed("a snapshot ended early"))?;
        if end.crc != crc {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = format!("the file {name} of a snapshot arrived with a wrong checksum");
            return Err(Error::new(Code::DamagedOnTheWay, text));
        }
        // Before it is taken over: a state that was answered for must survive a power cut.
        blocking(|| file.sync_all()).map_err(failed)
    }

    /// Tells the sender how it ended.
    pub(super) async fn answer(mut self, answer: &SnapshotAnswer) {
        let refused = answer.is_err();
        let told = async {
            self.writer.write_message(answer).await?;
            self.writer.finish()?;
            if refused {
                self.reader.stop(false);
            }
            self.writer.delivered().await
        };
        if let Err(error) = moving(told).await {
            tracing::debug!(%error, "the sender of a snapshot did not hear how it ended");
        }
    }
}

/// Whether a name is one of a plain file, and none that leads elsewhere.
fn is_file_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.')
}

fn check_space(dir: &Path, len: u64) -> Result<()> {
    let room = Room::of(dir).map_err(|error| io_error(dir, "has no figures", error))?;
    let free = room.free;
    // Twice: the state is built beside the copy when files can not be linked.
    if len.saturating_mul(2).saturating_add(SPARE_LEN) <= free {
        return Ok(());
    }
    let text = format!(
        "a snapshot of {len} bytes needs twice that and {SPARE_LEN} bytes more in {}, where {free} are free: make room",
        dir.display()
    );
    Err(Error::new(Code::DiskFull, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_files_stay_in_its_directory() {
        for name in [
            "000012.sst",
            "MANIFEST-000004",
            "CURRENT",
            "OPTIONS-000007",
            "dump",
        ] {
            assert!(is_file_name(name), "{name}");
        }
        let long = "x".repeat(NAME_LEN_MAX + 1);
        for name in [
            "",
            ".",
            "..",
            "../state",
            "a/b",
            "/etc/passwd",
            "a\0",
            ".hidden",
            &long,
        ] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_snapshot_that_does_not_fit_is_refused_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_space(dir.path(), 1), Ok(()));
        let error = check_space(dir.path(), u64::MAX / 4).unwrap_err();
        assert_eq!(error.code, Code::DiskFull);
    }
}
