//! Every key of the state (DESIGN §5.1), built and parsed side by side.
//!
//! Numbers are big-endian, so that the order of the keys is the order of the numbers. A parser
//! returns `Malformed` for a key that its builder did not make: damage, or a newer program.

use quarry_common::ids::{
    ChunkId, DiskId, FileOffset, InodeId, KeyNumber, PgId, PoolId, ServerId, SessionId, Slot,
    Version,
};
use quarry_common::map::hash_of;
use quarry_common::{Error, Result};

/// Joins the parts of a key.
fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// Reads the parts of a key one after the other.
struct Parser<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn new(what: &'static str, key: &'a [u8]) -> Parser<'a> {
        Parser { what, rest: key }
    }

    fn wrong(&self) -> Error {
        Error::malformed(format!(
            "a key of {} is damaged or of a newer format",
            self.what
        ))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (part, rest) = self.rest.split_first_chunk().ok_or_else(|| self.wrong())?;
        self.rest = rest;
        Ok(*part)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn end<T>(self, value: T) -> Result<T> {
        if self.rest.is_empty() {
            Ok(value)
        } else {
            Err(self.wrong())
        }
    }
}

/// `inodes`, `atimes`, `usage`: the inode. Also the prefix of all keys of an inode in `dentries`,
/// `names`, `extents` and `xattrs`.
pub fn inode(inode: InodeId) -> Vec<u8> {
    inode.0.to_be_bytes().to_vec()
}

/// Reads [`inode`].
pub fn parse_inode(key: &[u8]) -> Result<InodeId> {
    let mut parser = Parser::new("an inode", key);
    let inode = InodeId(parser.u64()?);
    parser.end(inode)
}

/// `dentries`: a name in a directory.
pub fn dentry(parent: InodeId, name: &[u8]) -> Vec<u8> {
    join(&[&parent.0.to_be_bytes(), name])
}

/// Reads [`dentry`].
pub fn parse_dentry(key: &[u8]) -> Result<(InodeId, &[u8])> {
    let mut parser = Parser::new("a directory entry", key);
    Ok((InodeId(parser.u64()?), parser.rest))
}

/// `names`: one name of an inode with several.
pub fn name(inode: InodeId, parent: InodeId, name: &[u8]) -> Vec<u8> {
    join(&[&inode.0.to_be_bytes(), &parent.0.to_be_bytes(), name])
}

/// Reads [`name`].
pub fn parse_name(key: &[u8]) -> Result<(InodeId, InodeId, &[u8])> {
    let mut parser = Parser::new("a name of an inode", key);
    Ok((InodeId(parser.u64()?), InodeId(parser.u64()?), parser.rest))
}

/// `extents`: the extent that begins at an offset.
pub fn extent(inode: InodeId, offset: FileOffset) -> Vec<u8> {
    join(&[&inode.0.to_be_bytes(), &offset.0.to_be_bytes()])
}

/// Reads [`extent`].
pub fn parse_extent(key: &[u8]) -> Result<(InodeId, FileOffset)> {
    let mut parser = Parser::new("an extent", key);
    let parts = (InodeId(parser.u64()?), FileOffset(parser.u64()?));
    parser.end(parts)
}

/// `xattrs`: an extended attribute.
pub fn xattr(inode: InodeId, name: &[u8]) -> Vec<u8> {
    join(&[&inode.0.to_be_bytes(), name])
}

/// Reads [`xattr`].
pub fn parse_xattr(key: &[u8]) -> Result<(InodeId, &[u8])> {
    let mut parser = Parser::new("an extended attribute", key);
    Ok((InodeId(parser.u64()?), parser.rest))
}

/// `chunks`: pool, the bits of the chunk's hash in reverse, the chunk. A placement group is
/// what the low bits of the hash say, so it is one range of keys however many groups there are.
pub fn chunk(pool: PoolId, chunk: ChunkId) -> Vec<u8> {
    let hash = hash_of(chunk).reverse_bits();
    join(&[
        &pool.0.to_be_bytes(),
        &hash.to_be_bytes(),
        &chunk.0.to_be_bytes(),
    ])
}

/// Reads [`chunk`].
pub fn parse_chunk(key: &[u8]) -> Result<(PoolId, ChunkId)> {
    let mut parser = Parser::new("a chunk", key);
    let pool = PoolId(parser.u16()?);
    let hash = parser.u64()?;
    let chunk = ChunkId(parser.u64()?);
    if hash != hash_of(chunk).reverse_bits() {
        return Err(parser.wrong());
    }
    parser.end((pool, chunk))
}

/// The first key of a placement group in `chunks`, and the first after it (`None`: the end of
/// the family). `pg_count` is a power of two, and `pg` below it.
pub fn chunks_of_pg(pool: PoolId, pg: PgId, pg_count: u32) -> (Vec<u8>, Option<Vec<u8>>) {
    let width = pg_count.trailing_zeros();
    let from = u64::from(pg.0).reverse_bits();
    let start = |pool: u16, hash: u64| join(&[&pool.to_be_bytes(), &hash.to_be_bytes()]);
    let to = match (1u128 << (64 - width)) + u128::from(from) {
        next if next >> 64 == 0 => Some(start(pool.0, next as u64)),
        _ => pool.0.checked_add(1).map(|next| start(next, 0)),
    };
    (start(pool.0, from), to)
}

/// `removed`: a name that can be restored. Names have no NUL, so that one ends them.
pub fn removed(parent: InodeId, name: &[u8], version: Version) -> Vec<u8> {
    join(&[
        &parent.0.to_be_bytes(),
        name,
        &[0],
        &version.0.to_be_bytes(),
    ])
}

/// Reads [`removed`].
pub fn parse_removed(key: &[u8]) -> Result<(InodeId, &[u8], Version)> {
    let mut parser = Parser::new("a removed name", key);
    let parent = InodeId(parser.u64()?);
    let wrong = || Parser::new("a removed name", key).wrong();
    let (rest, version) = parser.rest.split_last_chunk::<8>().ok_or_else(wrong)?;
    let name = rest.strip_suffix(&[0]).ok_or_else(wrong)?;
    Ok((parent, name, Version(u64::from_be_bytes(*version))))
}

/// What a key of `sessions` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKey {
    /// The session itself.
    Record,
    /// A range of chunk ids, by pool and first id.
    Range(PoolId, ChunkId),
    /// The answers to its requests.
    Answers,
    /// An inode without a name that it holds.
    Unnamed(InodeId),
    /// A chunk below the mark that is still to be committed.
    OpenChunk(PoolId, ChunkId),
}

const SESSION_RECORD: u8 = 0;
const SESSION_RANGE: u8 = 1;
const SESSION_UNNAMED: u8 = 3;
const SESSION_OPEN_CHUNK: u8 = 4;
// 2 was the answer to one request.
const SESSION_ANSWERS: u8 = 5;

/// `sessions`: something of a session. The record comes first, then everything else by kind.
pub fn session(session: SessionId, part: SessionKey) -> Vec<u8> {
    let id = session.0.to_be_bytes();
    match part {
        SessionKey::Record => join(&[&id, &[SESSION_RECORD]]),
        SessionKey::Range(pool, first) => join(&[
            &id,
            &[SESSION_RANGE],
            &pool.0.to_be_bytes(),
            &first.0.to_be_bytes(),
        ]),
        SessionKey::Answers => join(&[&id, &[SESSION_ANSWERS]]),
        SessionKey::Unnamed(inode) => join(&[&id, &[SESSION_UNNAMED], &inode.0.to_be_bytes()]),
        SessionKey::OpenChunk(pool, chunk) => join(&[
            &id,
            &[SESSION_OPEN_CHUNK],
            &pool.0.to_be_bytes(),
            &chunk.0.to_be_bytes(),
        ]),
    }
}

/// The prefix of all keys of a session.
pub fn session_prefix(session: SessionId) -> Vec<u8> {
    session.0.to_be_bytes().to_vec()
}

/// The prefix of all ranges, unnamed inodes, ... of a session: of the kind of `example`.
pub fn session_part_prefix(session: SessionId, example: SessionKey) -> Vec<u8> {
    let tag = match example {
        SessionKey::Record => SESSION_RECORD,
        SessionKey::Range(..) => SESSION_RANGE,
        SessionKey::Answers => SESSION_ANSWERS,
        SessionKey::Unnamed(_) => SESSION_UNNAMED,
        SessionKey::OpenChunk(..) => SESSION_OPEN_CHUNK,
    };
    join(&[&session.0.to_be_bytes(), &[tag]])
}

/// Reads [`session`].
pub fn parse_session(key: &[u8]) -> Result<(SessionId, SessionKey)> {
    let mut parser = Parser::new("a session", key);
    let session = SessionId(parser.u64()?);
    let part = match parser.byte()? {
        SESSION_RECORD => SessionKey::Record,
        SESSION_RANGE => SessionKey::Range(PoolId(parser.u16()?), ChunkId(parser.u64()?)),
        SESSION_ANSWERS => SessionKey::Answers,
        SESSION_UNNAMED => SessionKey::Unnamed(InodeId(parser.u64()?)),
        SESSION_OPEN_CHUNK => SessionKey::OpenChunk(PoolId(parser.u16()?), ChunkId(parser.u64()?)),
        _ => return Err(parser.wrong()),
    };
    parser.end((session, part))
}

/// `users`: by name.
pub fn user(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// Reads [`user`].
pub fn parse_user(key: &[u8]) -> Result<&str> {
    std::str::from_utf8(key).map_err(|_| Parser::new("a user", key).wrong())
}

/// `servers`: a dataserver.
pub fn server(server: ServerId) -> Vec<u8> {
    server.0.to_be_bytes().to_vec()
}

/// Reads [`server`].
pub fn parse_server(key: &[u8]) -> Result<ServerId> {
    let mut parser = Parser::new("a server", key);
    let server = ServerId(parser.u32()?);
    parser.end(server)
}

/// What a secret key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKey {
    /// Capabilities are made under it.
    Capability(KeyNumber),
    /// A dataserver signs receipts with it.
    Receipt(KeyNumber),
}

/// `secrets`: the keys of each purpose by number.
pub fn secret(secret: SecretKey) -> Vec<u8> {
    let (tag, number) = match secret {
        SecretKey::Capability(number) => (0, number),
        SecretKey::Receipt(number) => (1, number),
    };
    join(&[&[tag], &number.0.to_be_bytes()])
}

/// Reads [`secret`].
pub fn parse_secret(key: &[u8]) -> Result<SecretKey> {
    let mut parser = Parser::new("a secret", key);
    let (tag, number) = (parser.byte()?, KeyNumber(parser.u32()?));
    match tag {
        0 => parser.end(SecretKey::Capability(number)),
        1 => parser.end(SecretKey::Receipt(number)),
        _ => Err(parser.wrong()),
    }
}

/// What a key of `map` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKey {
    /// The whole topology.
    Topology,
    /// One placement group's row.
    Row(PoolId, PgId),
}

/// `map`: the topology, then the rows.
pub fn map(part: MapKey) -> Vec<u8> {
    match part {
        MapKey::Topology => vec![0],
        MapKey::Row(pool, pg) => join(&[&[1], &pool.0.to_be_bytes(), &pg.0.to_be_bytes()]),
    }
}

/// Reads [`map`].
pub fn parse_map(key: &[u8]) -> Result<MapKey> {
    let mut parser = Parser::new("the cluster map", key);
    match parser.byte()? {
        0 => parser.end(MapKey::Topology),
        1 => {
            let row = MapKey::Row(PoolId(parser.u16()?), PgId(parser.u32()?));
            parser.end(row)
        }
        _ => Err(parser.wrong()),
    }
}

/// `doomed`: a chunk that waits for its deletion on dataservers. Ordered as `chunks` is, so that what a
/// disk is to delete are the ranges of its groups.
pub fn doomed(pool: PoolId, chunk: ChunkId) -> Vec<u8> {
    self::chunk(pool, chunk)
}

/// Reads [`doomed`].
pub fn parse_doomed(key: &[u8]) -> Result<(PoolId, ChunkId)> {
    parse_chunk(key)
}

/// What a key of `system` is about. Raft keeps keys of its own there, which begin with `raft/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemKey {
    /// The version of the last command.
    LastVersion,
    /// The sequence of the next new inode of a slot.
    NextInode(Slot),
    /// The sequence of the next new chunk of a slot.
    NextChunk(Slot),
    /// The next new disk.
    NextDisk,
    /// The sequence of the next new session.
    NextSession,
    /// The number of the next secret key for receipts.
    NextReceiptKey,
    /// The epoch of the map.
    Epoch,
    /// The rules by which commands are applied.
    FeatureLevel,
    /// An inode without a name that nobody but open files need, by when it lost its last name.
    Orphan(Version, InodeId),
    /// A file with extents beyond a truncation that wait to be removed.
    Trimmed(InodeId),
    /// A session that was lost.
    LostSession(SessionId),
    /// How many chunks nothing refers to.
    UnreferencedChunks,
    /// The next new metaserver.
    NextMetaserver,
    /// A chunk that lost its last reference and is not doomed yet.
    Unreferenced(PoolId, ChunkId),
    /// How many chunks are doomed.
    DoomedChunks,
    /// How long a disk has been down.
    DownFor(DiskId),
}

const LAST_VERSION: &[u8] = b"last_version";
const NEXT_INODE: &[u8] = b"next_inode/";
const NEXT_CHUNK: &[u8] = b"next_chunk/";
const NEXT_DISK: &[u8] = b"next_disk";
const NEXT_SESSION: &[u8] = b"next_session";
const NEXT_RECEIPT_KEY: &[u8] = b"next_receipt_key";
const EPOCH: &[u8] = b"epoch";
const FEATURE_LEVEL: &[u8] = b"feature_level";
const ORPHAN: &[u8] = b"orphan/";
const TRIMMED: &[u8] = b"trimmed/";
const LOST_SESSION: &[u8] = b"lost_session/";
const UNREFERENCED_CHUNKS: &[u8] = b"unreferenced_chunks";
const NEXT_METASERVER: &[u8] = b"next_metaserver";
const UNREFERENCED: &[u8] = b"unreferenced/";
const DOOMED_CHUNKS: &[u8] = b"doomed_chunks";
const DOWN_FOR: &[u8] = b"down_for/";

/// `system`: what the state knows of itself.
pub fn system(part: SystemKey) -> Vec<u8> {
    match part {
        SystemKey::LastVersion => LAST_VERSION.to_vec(),
        SystemKey::NextInode(slot) => join(&[NEXT_INODE, &slot.0.to_be_bytes()]),
        SystemKey::NextChunk(slot) => join(&[NEXT_CHUNK, &slot.0.to_be_bytes()]),
        SystemKey::NextDisk => NEXT_DISK.to_vec(),
        SystemKey::NextSession => NEXT_SESSION.to_vec(),
        SystemKey::NextReceiptKey => NEXT_RECEIPT_KEY.to_vec(),
        SystemKey::Epoch => EPOCH.to_vec(),
        SystemKey::FeatureLevel => FEATURE_LEVEL.to_vec(),
        SystemKey::Orphan(at, inode) => {
            join(&[ORPHAN, &at.0.to_be_bytes(), &inode.0.to_be_bytes()])
        }
        SystemKey::Trimmed(inode) => join(&[TRIMMED, &inode.0.to_be_bytes()]),
        SystemKey::LostSession(session) => join(&[LOST_SESSION, &session.0.to_be_bytes()]),
        SystemKey::UnreferencedChunks => UNREFERENCED_CHUNKS.to_vec(),
        SystemKey::NextMetaserver => NEXT_METASERVER.to_vec(),
        SystemKey::Unreferenced(pool, chunk) => {
            join(&[UNREFERENCED, &pool.0.to_be_bytes(), &chunk.0.to_be_bytes()])
        }
        SystemKey::DoomedChunks => DOOMED_CHUNKS.to_vec(),
        SystemKey::DownFor(disk) => join(&[DOWN_FOR, &disk.0.to_be_bytes()]),
    }
}

/// The prefix of all chunks that lost their last reference and are not doomed yet.
pub fn unreferenced() -> Vec<u8> {
    UNREFERENCED.to_vec()
}

/// Reads the key of a chunk that lost its last reference.
pub fn parse_unreferenced(key: &[u8]) -> Result<(PoolId, ChunkId)> {
    let mut parser = Parser::new("an unreferenced chunk", key);
    let rest = key.strip_prefix(UNREFERENCED);
    parser.rest = rest.ok_or_else(|| parser.wrong())?;
    let parts = (PoolId(parser.u16()?), ChunkId(parser.u64()?));
    parser.end(parts)
}

/// The prefix of all orphans, the oldest first.
pub fn orphans() -> Vec<u8> {
    ORPHAN.to_vec()
}

/// Reads an orphan's key: since when, and which.
pub fn parse_orphan(key: &[u8]) -> Result<(Version, InodeId)> {
    let mut parser = Parser::new("an orphan", key);
    parser.rest = key.strip_prefix(ORPHAN).ok_or_else(|| parser.wrong())?;
    let parts = (Version(parser.u64()?), InodeId(parser.u64()?));
    parser.end(parts)
}

/// The prefix of all files with extents beyond a truncation.
pub fn trimmed() -> Vec<u8> {
    TRIMMED.to_vec()
}

/// Reads the key of a file with extents beyond a truncation.
pub fn parse_trimmed(key: &[u8]) -> Result<InodeId> {
    let mut parser = Parser::new("a truncated file", key);
    parser.rest = key.strip_prefix(TRIMMED).ok_or_else(|| parser.wrong())?;
    let inode = InodeId(parser.u64()?);
    parser.end(inode)
}

/// The prefix of all disks that are noted as down.
pub fn downs() -> Vec<u8> {
    DOWN_FOR.to_vec()
}

/// Reads the key of a disk that is noted as down.
pub fn parse_down(key: &[u8]) -> Result<DiskId> {
    let mut parser = Parser::new("a disk that is down", key);
    parser.rest = key.strip_prefix(DOWN_FOR).ok_or_else(|| parser.wrong())?;
    let disk = DiskId(parser.u32()?);
    parser.end(disk)
}

/// The prefix of all sessions that were lost, the oldest first.
pub fn lost_sessions() -> Vec<u8> {
    LOST_SESSION.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::map::pg_of;

    #[test]
    fn a_key_reads_back_as_what_it_was_built_from() {
        let (i, j) = (InodeId(0x0102), InodeId(7));
        assert_eq!(parse_inode(&inode(i)).unwrap(), i);
        assert_eq!(parse_dentry(&dentry(i, b"a")).unwrap(), (i, &b"a"[..]));
        assert_eq!(parse_name(&name(i, j, b"a")).unwrap(), (i, j, &b"a"[..]));
        let at = FileOffset(1 << 40);
        assert_eq!(parse_extent(&extent(i, at)).unwrap(), (i, at));
        assert_eq!(
            parse_xattr(&xattr(i, b"user.a")).unwrap(),
            (i, &b"user.a"[..])
        );
        let place = (PoolId(3), ChunkId(99));
        assert_eq!(parse_chunk(&chunk(place.0, place.1)).unwrap(), place);
        assert_eq!(parse_doomed(&doomed(place.0, place.1)).unwrap(), place);
        let version = Version(0x00ff_0000);
        assert_eq!(
            parse_removed(&removed(i, b"a", version)).unwrap(),
            (i, &b"a"[..], version)
        );
        let s = SessionId(5);
        for part in [
            SessionKey::Record,
            SessionKey::Range(place.0, place.1),
            SessionKey::Answers,
            SessionKey::Unnamed(i),
            SessionKey::OpenChunk(place.0, place.1),
        ] {
            let key = session(s, part);
            assert_eq!(parse_session(&key).unwrap(), (s, part));
            assert!(key.starts_with(&session_part_prefix(s, part)));
            assert!(key.starts_with(&session_prefix(s)));
        }
        for part in [
            SecretKey::Capability(KeyNumber(1)),
            SecretKey::Receipt(KeyNumber(2)),
        ] {
            assert_eq!(parse_secret(&secret(part)).unwrap(), part);
        }
        for part in [MapKey::Topology, MapKey::Row(PoolId(1), PgId(70_000))] {
            assert_eq!(parse_map(&map(part)).unwrap(), part);
        }
        assert_eq!(parse_user(&user("ann")).unwrap(), "ann");
        assert_eq!(parse_server(&server(ServerId(4))).unwrap(), ServerId(4));
        let orphan = system(SystemKey::Orphan(version, i));
        assert!(orphan.starts_with(&orphans()));
        assert_eq!(parse_orphan(&orphan).unwrap(), (version, i));
        let down = system(SystemKey::DownFor(DiskId(7)));
        assert!(down.starts_with(&downs()));
        assert_eq!(parse_down(&down).unwrap(), DiskId(7));
        let unreferenced = system(SystemKey::Unreferenced(place.0, place.1));
        assert!(unreferenced.starts_with(&self::unreferenced()));
        assert_eq!(parse_unreferenced(&unreferenced).unwrap(), place);
    }

    #[test]
    fn a_placement_group_is_one_range_of_keys_at_any_pg_count() {
        for pg_count in [1, 2, 64, 1 << 20] {
            for sequence in 0..500 {
                let id = ChunkId(sequence * 77_777);
                let key = chunk(PoolId(2), id);
                let pg = pg_of(id, pg_count);
                let (from, to) = chunks_of_pg(PoolId(2), pg, pg_count);
                assert!(key >= from && to.is_none_or(|to| key < to));
                let other = PgId((pg.0 + 1) % pg_count);
                let (from, to) = chunks_of_pg(PoolId(2), other, pg_count);
                assert!(pg == other || key < from || to.is_some_and(|to| key >= to));
            }
        }
        let (_, end) = chunks_of_pg(PoolId(u16::MAX), PgId(0), 1);
        assert_eq!(end, None);
    }

    #[test]
    fn keys_of_another_shape_are_refused_and_never_panic() {
        for len in 0..40 {
            let key = vec![0xee; len];
            let refused = [
                parse_chunk(&key).is_err(),
                parse_session(&key).is_err(),
                parse_secret(&key).is_err(),
                parse_map(&key).is_err(),
                parse_orphan(&key).is_err(),
                parse_removed(&key).is_err(),
                parse_unreferenced(&key).is_err(),
                parse_down(&key).is_err(),
            ];
            assert_eq!(refused, [true; 8], "{len} bytes");
            assert_eq!(parse_inode(&key).is_ok(), len == 8);
            assert_eq!(parse_extent(&key).is_ok(), len == 16);
        }
    }
}
