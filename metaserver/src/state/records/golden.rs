//! Bytes of every record as they are on disk: these never change. A changed record is a new
//! format version, with bytes of its own beside these.

use super::*;
use std::fmt::Debug;

/// The record has these bytes (hexadecimal, spaces between fields), and they read as it.
fn pinned<R: Record + PartialEq + Debug>(record: R, golden: &str) {
    let hex: String = record
        .to_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let golden: String = golden.split_whitespace().collect();
    assert_eq!(hex, golden, "{}", R::WHAT);
    assert_eq!(R::from_bytes(&record.to_bytes()).unwrap(), record);
}

fn inode() -> InodeRecord {
    InodeRecord {
        size: 300,
        stored: 250,
        links: 2,
        device: 3,
        target: b"to".to_vec(),
        flags: Flags::HAS_ATIME,
        parent: InodeId(17),
        name: b"name".to_vec(),
        data_version: Version(0x1_0000_0001),
        extents: 4,
        entries: 5,
        subdirectories: 6,
        past: vec![7, 8],
        policy: 9,
        project: 10,
        retain_until: Nanos(-1),
        trims: vec![Trim {
            from: FileOffset(11),
            at: Version(12),
        }],
        holes_at: Version(13),
        orphaned_at: Some(Version(14)),
        xattr_names_len: 15,
        ..InodeRecord::new(
            FileKind::Symlink,
            0o644,
            Uid(1000),
            Gid(7),
            Version(16),
            Nanos(1),
        )
    }
}

#[test]
fn an_inode_is_stored_as_ever() {
    pinned(inode(), INODE);
}

#[test]
fn other_records_are_stored_as_ever() {
    let version = Version(0x1_0000_0001);
    pinned(
        DentryRecord {
            inode: InodeId(17),
            kind: FileKind::Directory,
            modified_at: version,
        },
        "01 11 01 fd0100000001000000",
    );
    pinned(NameRecord, "01");
    let chunk = ExtentSource::Chunk {
        pool: PoolId(1),
        chunk: ChunkId(2),
        offset: ChunkOffset(3),
    };
    pinned(
        ExtentRecord {
            len: 300,
            source: chunk,
            modified_at: version,
        },
        "01 fb2c01 00 01 02 03 fd0100000001000000",
    );
    let inline = ExtentSource::Inline(b"ab".to_vec());
    pinned(
        ExtentRecord {
            len: 2,
            source: inline,
            modified_at: version,
        },
        "01 02 01 02 6162 fd0100000001000000",
    );
    pinned(
        XattrRecord {
            value: b"ab".to_vec(),
            modified_at: version,
        },
        "01 02 6162 fd0100000001000000",
    );
    pinned(AtimeRecord { atime: Nanos(-1) }, "01 01");
    pinned(
        ChunkRecord {
            references: 1,
            len: 300,
            crc: Crc(0x0102_0304),
            referenced: 2,
        },
        "01 01 fb2c01 fc04030201 02",
    );
    pinned(
        UsageRecord {
            bytes: 1,
            files: 2,
            directories: 3,
        },
        "01 01 02 03",
    );
    pinned(NumberRecord(300), "01 fb2c01");
    pinned(OrphanRecord, "01");
}

/// Version; kind, mode, uid, gid; size, stored, links; mtime, ctime, btime; device; target; flags;
/// parent, name; created, modified, data version; extents, entries, subdirectories; past; policy,
/// project, retain until; trims; holes at; orphaned at; length of attribute names.
const INODE: &str = "01 \
    02 fba401 fbe803 07 \
    fb2c01 fa 02 \
    02 02 02 \
    03 02 746f 10 \
    11 04 6e616d65 \
    10 10 fd0100000001000000 \
    04 05 06 02 07 08 \
    09 0a 01 \
    01 0b 0c 0d 01 0e 0f";

#[test]
fn fields_of_a_newer_program_are_kept_where_inodes_are_written_again() {
    let mut bytes = inode().to_bytes();
    bytes.extend_from_slice(b"newer");
    let mut record = InodeRecord::from_bytes(&bytes).unwrap();
    assert_eq!(record.unknown, b"newer");
    record.mode = 0o600;
    assert!(record.to_bytes().ends_with(b"newer"));
}

#[test]
fn fields_of_a_newer_program_are_refused_where_they_would_be_lost() {
    let mut bytes = NumberRecord(1).to_bytes();
    bytes.push(7);
    assert_eq!(
        NumberRecord::from_bytes(&bytes).unwrap_err().code,
        Code::TooNew
    );
}

#[test]
fn any_bytes_are_read_or_refused_without_a_panic() {
    let whole = inode().to_bytes();
    for len in 0..whole.len() {
        assert!(
            InodeRecord::from_bytes(&whole[..len]).is_err(),
            "{len} bytes of an inode were read"
        );
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        // Read as something else, or refused.
        let _either = InodeRecord::from_bytes(&bytes);
    }
}
