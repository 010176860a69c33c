//! Which chunks a session may commit: ranges of ids, and in each a mark below which it will not.

use super::check_open;
use crate::kv::{Family, KvRead, after_prefix};
use crate::state::data_records::{Present, RangeRecord};
use crate::state::keys::{self, SessionKey};
use crate::state::records::Record;
use crate::state::stop::{OpResult, Stop};
use crate::state::txn::Txn;
use quarry_common::ids::{ChunkId, PoolId, SessionId};
use quarry_common::limits::OPEN_CHUNKS_MAX;
use quarry_common::{Code, Error, Result};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

/// Ranges of one session at a time; a range that is marked to its end goes.
pub const RANGES_MAX: usize = 256;

/// Gives the session a range.
///
/// # Errors
/// `Overloaded` if it has too many that are not marked to their end.
pub fn add_range(
    txn: &mut Txn<'_>,
    session: SessionId,
    pool: PoolId,
    first: ChunkId,
    count: u32,
) -> OpResult<()> {
    if ranges(txn.state(), session).map_err(Stop::Broken)?.len() >= RANGES_MAX {
        let text = format!(
            "the session has {RANGES_MAX} ranges of chunk ids: use them up, and renew the session with their marks"
        );
        return Err(Error::new(Code::Overloaded, text).into());
    }
    let record = RangeRecord { count, marked: 0 };
    txn.put(
        Family::Sessions,
        keys::session(session, SessionKey::Range(pool, first)),
        &record,
    );
    Ok(())
}

/// All ranges of a session, ascending.
fn ranges(state: &dyn KvRead, session: SessionId) -> Result<Vec<(PoolId, ChunkId, RangeRecord)>> {
    let mut all = Vec::new();
    let prefix = keys::session_part_prefix(session, SessionKey::Range(PoolId(0), ChunkId(0)));
    let mut read = |key: &[u8], value: &[u8]| {
        if let (_, SessionKey::Range(pool, first)) = keys::parse_session(key)? {
            all.push((pool, first, RangeRecord::from_bytes(value)?));
        }
        Ok(())
    };
    let mut outcome = Ok(());
    state.scan(
        Family::Sessions,
        &prefix,
        after_prefix(&prefix).as_deref(),
        &mut |key, value| {
            outcome = read(key, value);
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        },
    )?;
    outcome.map(|()| all)
}

/// What live sessions may still commit: the second of the two reasons that a deletion needs (DESIGN §5.4).
/// Whether a chunk is in it is a question to one state; a chunk that is not will never be again,
/// since ids are given out once and marks only rise.
pub struct OpenRanges<'a> {
    state: &'a dyn KvRead,
    /// By first chunk; read when it is first needed, one step a session and one a range.
    ranges: OnceCell<BTreeMap<(PoolId, ChunkId), (SessionId, RangeRecord)>>,
}

impl<'a> OpenRanges<'a> {
    /// Those of all sessions in a state.
    pub fn of(state: &'a dyn KvRead) -> OpenRanges<'a> {
        OpenRanges {
            state,
            ranges: OnceCell::new(),
        }
    }

    /// The state.
    pub fn state(&self) -> &'a dyn KvRead {
        self.state
    }

    /// Whether a live session may still commit the chunk.
    pub fn may_commit(&self, pool: PoolId, chunk: ChunkId) -> Result<bool> {
        let all = match self.ranges.get() {
            Some(all) => all,
            None => {
                let loaded = self.load()?;
                self.ranges.get_or_init(|| loaded)
            }
        };
        let below = all.range(..=(pool, chunk)).next_back();
        let Some(((in_pool, first), (session, range))) = below else {
            return Ok(false);
        };
        if *in_pool != pool {
            return Ok(false);
        }
        let at = chunk.0 - first.0;
        if at >= u64::from(range.count) {
            return Ok(false);
        }
        if at >= u64::from(range.marked) {
            return Ok(true);
        }
        let key = keys::session(*session, SessionKey::OpenChunk(pool, chunk));
        Ok(self.state.get(Family::Sessions, &key)?.is_some())
    }

    fn load(&self) -> Result<BTreeMap<(PoolId, ChunkId), (SessionId, RangeRecord)>> {
        let mut open = BTreeMap::new();
        for (session, _) in super::all(self.state)? {
            for (pool, first, range) in ranges(self.state, session)? {
                open.insert((pool, first), (session, range));
            }
        }
        Ok(open)
    }
}

/// The range that has `chunk` in it, or ends with the id before.
fn range_of(
    txn: &Txn<'_>,
    session: SessionId,
    pool: PoolId,
    chunk: ChunkId,
) -> OpResult<Option<(ChunkId, RangeRecord)>> {
    let low = keys::session(session, SessionKey::Range(pool, ChunkId(0)));
    let high = keys::session(session, SessionKey::Range(pool, chunk));
    let found = txn.last_before::<RangeRecord>(Family::Sessions, &low, Bound::Included(&high))?;
    let Some((key, record)) = found else {
        return Ok(None);
    };
    match keys::parse_session(&key).map_err(Stop::Broken)? {
        (_, SessionKey::Range(_, first)) if chunk.0 - first.0 <= u64::from(record.count) => {
            Ok(Some((first, record)))
        }
        _ => Ok(None),
    }
}

fn is_open(txn: &Txn<'_>, session: SessionId, pool: PoolId, chunk: ChunkId) -> OpResult<bool> {
    Ok(txn
        .get_bytes(
            Family::Sessions,
            &keys::session(session, SessionKey::OpenChunk(pool, chunk)),
        )?
        .is_some())
}

/// Whether the session may commit the chunk: why not, if not.
fn may_commit(
    txn: &Txn<'_>,
    session: SessionId,
    pool: PoolId,
    chunk: ChunkId,
) -> OpResult<std::result::Result<(), &'static str>> {
    Ok(match range_of(txn, session, pool, chunk)? {
        Some((first, range)) if chunk.0 - first.0 < u64::from(range.count) => {
            if chunk.0 - first.0 >= u64::from(range.marked) || is_open(txn, session, pool, chunk)? {
                Ok(())
            } else {
                Err("is below the mark under which the session said it commits nothing new")
            }
        }
        _ => Err("is in no range of the session"),
    })
}

/// Refuses with `BadReceipt` a chunk that the session may not commit.
pub fn check_own(txn: &Txn<'_>, session: SessionId, pool: PoolId, chunk: ChunkId) -> OpResult<()> {
    check_open(txn, session)?;
    may_commit(txn, session, pool, chunk)?.map_err(|why| {
        let text = format!(
            "chunk {chunk} of pool {pool} {why}: write the bytes again to a chunk of its own"
        );
        Stop::Refused(Error::new(Code::BadReceipt, text))
    })
}

/// The session will commit nothing below the marks but the chunks named. Marks only rise; a
/// chunk below an old mark that was not named then can not be named now.
///
/// # Errors
/// `SessionLost`, `Malformed` for too many marks or open chunks.
pub fn mark(
    txn: &mut Txn<'_>,
    session: SessionId,
    marks: &[(PoolId, ChunkId)],
    open_chunks: &[(PoolId, ChunkId)],
) -> OpResult<()> {
    check_open(txn, session)?;
    if open_chunks.len() > OPEN_CHUNKS_MAX {
        let text = format!(
            "{} chunks are open below marks, {OPEN_CHUNKS_MAX} are the most",
            open_chunks.len()
        );
        return Err(Error::malformed(text).into());
    }
    if marks.len() > RANGES_MAX {
        let text = format!("{} marks, {RANGES_MAX} are the most", marks.len());
        return Err(Error::malformed(text).into());
    }
    let mut still_open = BTreeSet::new();
    for (pool, chunk) in open_chunks {
        if may_commit(txn, session, *pool, *chunk)?.is_ok() {
            still_open.insert((*pool, *chunk));
        }
    }
    for (pool, chunk) in marks {
        if let Some((first, mut range)) = range_of(txn, session, *pool, *chunk)? {
            // The length fits: it is at most the count of the range.
            range.marked = range.marked.max((chunk.0 - first.0) as u32);
            txn.put(
                Family::Sessions,
                keys::session(session, SessionKey::Range(*pool, first)),
                &range,
            );
        }
    }
    let prefix = keys::session_part_prefix(session, SessionKey::OpenChunk(PoolId(0), ChunkId(0)));
    let mut old = Vec::new();
    txn.scan(
        Family::Sessions,
        &prefix,
        after_prefix(&prefix).as_deref(),
        |key, _: Present| {
            old.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        },
    )?;
    old.into_iter()
        .for_each(|key| txn.delete(Family::Sessions, key));
    for (pool, first, range) in ranges(txn.state(), session).map_err(Stop::Broken)? {
        let ids = |count: u32| (pool, first)..(pool, ChunkId(first.0 + u64::from(count)));
        if range.marked == range.count && still_open.range(ids(range.count)).next().is_none() {
            txn.delete(
                Family::Sessions,
                keys::session(session, SessionKey::Range(pool, first)),
            );
        }
        // Above the mark a chunk needs no name.
        for (pool, chunk) in still_open.range(ids(range.marked)) {
            txn.put(
                Family::Sessions,
                keys::session(session, SessionKey::OpenChunk(*pool, *chunk)),
                &Present,
            );
        }
    }
    Ok(())
}
