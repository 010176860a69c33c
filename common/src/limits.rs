//! Limits, each with its reason, and the relations between them checked by the compiler.

use std::time::Duration;

/// A checksum covers this many bytes (the last one of a chunk may cover fewer): small enough
/// that a small read verifies little, large enough that checksums are 1/16,384 of the data.
pub const BLOCK_LEN: usize = 64 << 10;

/// A frame of a bulk stream holds at most this much data: the size of one disk write.
pub const FRAME_LEN_MAX: usize = 1 << 20;

/// A chunk is at most this long, and no extent crosses a multiple of it in its file.
pub const CHUNK_LEN_MAX: u32 = 64 << 20;

/// A chunk up to this long goes in one message and is packed into a segment (DESIGN §4.2.5).
pub const SMALL_CHUNK_LEN_MAX: usize = BLOCK_LEN;

/// A chunk may be flushed this often before it is sealed; each flush record is a sector of its own.
pub const FLUSHES_MAX: u32 = 15;

/// Pieces in which a chunk may stand in its file: a flush can end one.
pub const FILE_RUNS_MAX: usize = FLUSHES_MAX as usize + 1;

/// A file up to this long lives inline in the metadata.
pub const INLINE_LEN_MAX: usize = 256;

/// The length of a file: offsets fit a signed 64-bit integer, as in POSIX.
pub const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// A name in a directory, in bytes, as in POSIX.
pub const NAME_LEN_MAX: usize = 255;

/// A path, in bytes, as in POSIX (PATH_MAX counts a NUL that we do not send).
pub const PATH_LEN_MAX: usize = 4096;

/// Directories one in the other: more than any path names, since each takes two bytes of it. Each change is counted in all
/// of them.
pub const DIRECTORY_DEPTH_MAX: usize = 4_096;

/// Symbolic links followed in one resolution, as in Linux.
pub const SYMLINKS_MAX: u32 = 40;

/// The value of an extended attribute, and the list of all names of an inode, as in Linux.
pub const XATTR_LEN_MAX: usize = 64 << 10;

/// Extended attributes that come with a new file: the list of their names, each with a NUL, has room for no more.
pub const XATTRS_MAX: usize = XATTR_LEN_MAX / 2;

/// Hard links of one inode, as in ext4.
pub const LINKS_MAX: u32 = 65_000;

/// Operations in one atomic list (DESIGN §5.2).
pub const LIST_OPS_MAX: usize = 1_000;

/// Extents in one command: about half a megabyte with three receipts each.
pub const EXTENTS_PER_COMMAND_MAX: usize = 1_000;

/// Open request numbers of a session (DESIGN §5.2).
pub const OPEN_REQUESTS_MAX: u64 = 1_024;

/// Chunks that a renewal of a session names as open below its marks: each is a key of the state.
pub const OPEN_CHUNKS_MAX: usize = 1_024;

/// Chunk ids in one range of a session.
pub const RANGE_CHUNKS_MAX: u32 = 65_536;

/// Groups of one user, as Linux allows.
pub const GROUPS_MAX: usize = 65_536;

/// One entry of the Raft log.
pub const RAFT_ENTRY_LEN_MAX: usize = 4 << 20;

/// One message on a request stream, either way: an entry of the Raft log with its head fits.
pub const MESSAGE_LEN_MAX: usize = RAFT_ENTRY_LEN_MAX + (64 << 10);

/// A mutating request: fits a Raft entry with room for what the leader adds.
pub const MUTATION_LEN_MAX: usize = 2 << 20;

/// Requests of one connection that a server works on at a time; more wait on the stream.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1_024;

/// Entries of one directory page.
pub const PAGE_ENTRIES_MAX: usize = 4_096;

/// Bulk streams of one connection open at a time.
pub const BULK_STREAMS_MAX: u32 = 256;

/// Members of a placement group.
pub const REPLICAS_MAX: usize = 8;

/// Placement groups of one pool: rows are fetched whole by a new client (1 M × 40 B).
pub const PG_COUNT_MAX: u32 = 1 << 20;

/// Chunks in one request, reply or command of collection: some milliseconds of looking each up.
pub const COLLECT_CHUNKS_MAX: usize = 1_000;

/// A stream that writes a chunk and on which nothing arrives for so long is given up: it holds a thread and buffers.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_secs(300);

/// A session that was not renewed for this long is ended by the leader.
pub const SESSION_LEASE: Duration = Duration::from_secs(60);

/// Open sessions of one certificate, which each client process with it has one of: each is keys of the state, and is renewed.
pub const SESSIONS_PER_CERTIFICATE_MAX: usize = 4_096;

/// Inodes that a session has open: as many as some thousand programs. The leader remembers each.
pub const OPEN_INODES_MAX: usize = 65_536;

/// How often a client renews: several losses in a row do not end a session.
pub const SESSION_RENEW_EVERY: Duration = Duration::from_secs(10);

/// How often a dataserver sends a heartbeat.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// Clients stop writing to a disk when less than this many percent are free: what is left is for repair (down to
/// 2 %) and for compaction and deletion (down to 0.5 %), without which a full disk stays full (DESIGN §4.4).
pub const CLIENT_FREE_PERCENT: u8 = 5;

/// A dataserver is down after this long without a heartbeat (DESIGN §4.1).
pub const DOWN_AFTER: Duration = Duration::from_secs(5);

/// A dataserver that has not reached the metaservers for this long refuses writes (DESIGN §4.2.7).
pub const WRITE_LEASE: Duration = Duration::from_secs(4);

/// Disks delete a doomed chunk this long after it was doomed: whoever found its extents before is done
/// with it, or finds out that the file is gone (DESIGN §5.4).
pub const DOOM_GRACE: Duration = Duration::from_secs(300);

/// The room of a removed file is free within about this time, unless the metaservers are told another grace.
pub const FREED_AFTER: Duration = SESSION_LEASE.saturating_add(DOOM_GRACE);

/// A capability for an id range lives this long; ranges are renewed before.
pub const CAPABILITY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A ticket for the file of a chunk is good for this long: it is redeemed at once (DESIGN §4.3).
pub const TICKET_LIFE: Duration = Duration::from_secs(5);

/// Tickets that a dataserver has given out and nobody has redeemed; beyond, reads go over the network.
pub const TICKETS_MAX: usize = 1_024;

/// Tickets that a dataserver redeems at a time; more callers wait before they are listened to.
pub const REDEEMED_AT_ONCE_MAX: usize = 64;

/// A ticket is redeemed within this, or the socket is closed.
pub const REDEEM_WAIT: Duration = Duration::from_secs(1);

/// Chunk files that a client keeps open: far fewer than a process may have open.
pub const KEPT_FILES_MAX: usize = 64;

/// A client keeps a chunk file open for this long: a deleted chunk takes space until then.
pub const FILE_KEPT_FOR: Duration = Duration::from_secs(60);

const _: () = {
    assert!(FRAME_LEN_MAX.is_multiple_of(BLOCK_LEN));
    assert!((CHUNK_LEN_MAX as usize).is_multiple_of(FRAME_LEN_MAX));
    assert!(
        SMALL_CHUNK_LEN_MAX <= BLOCK_LEN,
        "a small chunk has one checksum"
    );
    assert!(INLINE_LEN_MAX < SMALL_CHUNK_LEN_MAX);
    assert!(DIRECTORY_DEPTH_MAX * 2 > PATH_LEN_MAX);
    assert!(MUTATION_LEN_MAX * 2 <= RAFT_ENTRY_LEN_MAX);
    assert!(XATTR_LEN_MAX * 2 < MUTATION_LEN_MAX);
    assert!(
        OPEN_INODES_MAX * 9 < MUTATION_LEN_MAX,
        "a renewal with all of them is a request"
    );
    assert!(PAGE_ENTRIES_MAX * (NAME_LEN_MAX + 256) < MESSAGE_LEN_MAX);
    assert!(SESSION_RENEW_EVERY.as_secs() * 3 < SESSION_LEASE.as_secs());
    assert!(
        WRITE_LEASE.as_secs() < DOWN_AFTER.as_secs(),
        "the lease ends before the substitute starts"
    );
    assert!(
        DOOM_GRACE.as_secs() > 2 * SESSION_LEASE.as_secs(),
        "longer than any lease"
    );
    assert!(HEARTBEAT_EVERY.as_secs() * 2 < WRITE_LEASE.as_secs());
    assert!(
        REDEEM_WAIT.as_secs() < TICKET_LIFE.as_secs(),
        "a ticket outlives the wait for the socket"
    );
};
