//! Promises of a disk, each named by a test.

mod chunks;
mod compaction;
mod delete;
mod model;
mod opening;
mod power;
mod recovery;
mod replica;
mod small;
mod speed;

use super::*;
use quarry_common::checksum;
use quarry_common::ids::DiskId;
use quarry_common::limits::{BLOCK_LEN, FRAME_LEN_MAX};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId([1; 16]);
const IDENTITY: DiskIdentity = DiskIdentity {
    cluster: CLUSTER,
    disk: DiskId(7),
};
const POOL: PoolId = PoolId(1);
const OPTIONS: DiskOptions = DiskOptions {
    direct_io: true,
    free_percent: 0,
};

/// A formatted directory.
fn formatted() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    Disk::format(dir.path(), IDENTITY).unwrap();
    dir
}

fn open(dir: &TempDir) -> Disk {
    Disk::open(dir.path(), CLUSTER, OPTIONS).unwrap()
}

/// A copy of a disk as it is this moment: what a crash would leave, if everything written were durable.
fn crashed(dir: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(dir.path(), copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_folder(&item.path(), &target);
        } else if let Err(error) = fs::copy(item.path(), &target) {
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::NotFound,
                "{}",
                item.path().display()
            );
        }
    }
}

/// Bytes that differ from place to place and from seed to seed.
fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// The CRCs of `data` at `offset` of its chunk, as a frame carries them.
fn frame_crcs(offset: usize, data: &[u8]) -> Vec<Crc> {
    let first = data.len().min(offset.next_multiple_of(BLOCK_LEN) - offset);
    let (head, rest) = data.split_at(first);
    let head = (!head.is_empty()).then(|| Crc::of(head));
    head.into_iter().chain(checksum::blocks(rest)).collect()
}

/// Appends `data`, which starts at `offset` of the chunk, in frames.
async fn append(writer: &ChunkWriter, mut offset: usize, mut data: Bytes) -> Result<()> {
    while !data.is_empty() {
        let frame_end = (offset / FRAME_LEN_MAX + 1) * FRAME_LEN_MAX;
        let frame = data.split_to(data.len().min(frame_end - offset));
        let crcs = frame_crcs(offset, &frame);
        offset += frame.len();
        // In two pieces, as they may come from the network.
        let mut rest = frame;
        let piece = rest.split_to(rest.len() / 3);
        writer.append(vec![piece, rest], &crcs).await?;
    }
    Ok(())
}

async fn write(disk: &Disk, chunk: u64, data: &Bytes) -> Result<()> {
    let writer = disk.create_chunk(POOL, ChunkId(chunk), data.len().max(1) as u32)?;
    append(&writer, 0, data.clone()).await?;
    writer.seal(data.len() as u32, Crc::of(data)).await
}

async fn write_small(disk: &Disk, chunk: u64, data: &Bytes) -> Result<()> {
    disk.write_small(POOL, ChunkId(chunk), data.clone(), Crc::of(data))
        .await
}

/// Reads a whole chunk as a client does: every block is checked, and the whole.
fn read(disk: &Disk, chunk: u64) -> Result<Vec<u8>> {
    let info = disk
        .stat(POOL, ChunkId(chunk))?
        .ok_or_else(|| Error::new(Code::ChunkMissing, "no stat"))?;
    if info.state == ChunkState::SetAside {
        return disk
            .read(POOL, ChunkId(chunk), 0, 0)
            .map(|_| panic!("a bad copy was served"));
    }
    let mut whole = Vec::new();
    while whole.len() < info.len as usize {
        let len = (info.len as usize - whole.len()).min(FRAME_LEN_MAX);
        let part = disk.read(POOL, ChunkId(chunk), whole.len() as u32, len as u32)?;
        check(&part)?;
        assert_eq!(part.offset as usize, whole.len());
        assert_eq!(part.chunk_len, info.len);
        whole.extend_from_slice(&part.data);
    }
    if Crc::of(&whole) != info.crc {
        return Err(Error::new(
            Code::ChecksumMismatch,
            "the whole is not what stat says",
        ));
    }
    Ok(whole)
}

/// That bytes are the expected ones, without printing them.
#[track_caller]
fn same(found: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
    let (found, expected) = (found.as_ref(), expected.as_ref());
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(
        (found.len(), differs),
        (expected.len(), None),
        "lengths, and the first place that differs"
    );
}

fn check(part: &ChunkData) -> Result<()> {
    match checksum::blocks(&part.data) == part.crcs {
        true => Ok(()),
        false => Err(Error::new(
            Code::ChecksumMismatch,
            "a block does not verify",
        )),
    }
}

/// Waits until every writer that was let go has ended.
async fn settled(disk: &Disk) {
    for _ in 0..5_000 {
        if disk.open_count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a writer did not end");
}

fn chunk_path(dir: &TempDir, chunk: u64) -> PathBuf {
    shared::chunk_path(
        &Rooms::of(dir.path()),
        ChunkName {
            pool: POOL,
            chunk: ChunkId(chunk),
        },
    )
}

fn segment_path(dir: &TempDir, segment: u32) -> PathBuf {
    shared::segment_path(&Rooms::of(dir.path()), segment_format::SegmentId(segment))
}

fn remove_index(dir: &TempDir) {
    fs::remove_dir_all(Rooms::of(dir.path()).index).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> Code {
    result.unwrap_err().code
}
