//! Sessions: who may change what exactly once, and which chunks it may commit.

mod once;
mod ranges;
#[cfg(test)]
mod tests;

pub use once::{Admission, Kept, admit, record, settle};
pub use ranges::{OpenRanges, RANGES_MAX, add_range, check_own, mark};

use super::data_records::{AnswersRecord, LostSessionRecord, Present, SessionRecord};
use super::keys::{self, SessionKey, SystemKey};
use super::records::Record;
use super::stop::{OpResult, Stop};
use super::txn::{Txn, load};
use crate::kv::{Family, KvRead, after_prefix};
use quarry_common::ids::{Epoch, InodeId, RequestNumber, SessionId};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Inodes without a name that one session may hold: more uploads than one client has at a time.
pub const UNNAMED_MAX: usize = 4_096;

/// Lost sessions that are remembered. Of older ones every request is unknown.
pub const LOST_MAX: usize = 4_096;

/// An open session, for readers: its user, and the certificate to which its capabilities are bound.
pub fn find(state: &dyn KvRead, session: SessionId) -> Result<Option<SessionRecord>> {
    load(
        state,
        Family::Sessions,
        &keys::session(session, SessionKey::Record),
    )
}

/// All open sessions, for a new leader that gives each a full lease. Some microseconds each: not for an async thread.
pub fn all(state: &dyn KvRead) -> Result<Vec<(SessionId, SessionRecord)>> {
    let mut sessions = Vec::new();
    let mut from = Vec::new();
    // A session has many keys: one step a session, not one a key.
    loop {
        let mut found = None;
        state.scan(Family::Sessions, &from, None, &mut |key, value| {
            let parsed = keys::parse_session(key);
            found = Some(parsed.and_then(|key| Ok((key, SessionRecord::from_bytes(value)?))));
            ControlFlow::Break(())
        })?;
        let Some(found) = found else {
            return Ok(sessions);
        };
        // Its record is the first of its keys.
        let ((session, _), record) = found?;
        sessions.push((session, record));
        match after_prefix(&keys::session_prefix(session)) {
            Some(next) => from = next,
            None => return Ok(sessions),
        }
    }
}

/// Opens a session. Its id has the incarnation of the map on top, so that none is ever used again.
pub fn open(txn: &mut Txn<'_>, user: String, certificate: [u8; 32]) -> OpResult<SessionId> {
    let incarnation = Epoch(txn.number(SystemKey::Epoch)?).incarnation();
    let sequence = txn.number(SystemKey::NextSession)?.max(1);
    if sequence >= 1 << 48 {
        return Err(Error::new(Code::ClusterFull, "all session numbers are used up").into());
    }
    txn.set_number(SystemKey::NextSession, sequence + 1);
    let session = SessionId(u64::from(incarnation) << 48 | sequence);
    let opened = txn.version();
    let record = SessionRecord {
        user,
        certificate,
        opened,
    };
    txn.put(
        Family::Sessions,
        keys::session(session, SessionKey::Record),
        &record,
    );
    let answers = AnswersRecord {
        below: RequestNumber(1),
        answers: BTreeMap::new(),
    };
    txn.put(
        Family::Sessions,
        keys::session(session, SessionKey::Answers),
        &answers,
    );
    Ok(session)
}

/// Ends a session, if it is open: its unnamed inodes become orphans, its ranges and answers go. One
/// that was `lost` is remembered, so that what it had not finished is known to be unknown.
pub fn end(txn: &mut Txn<'_>, session: SessionId, lost: bool) -> OpResult<()> {
    if find(txn.state(), session).map_err(Stop::Broken)?.is_none() {
        return Ok(());
    }
    let mut all = Vec::new();
    let prefix = keys::session_prefix(session);
    let mut visited = Ok(());
    txn.state()
        .scan(
            Family::Sessions,
            &prefix,
            after_prefix(&prefix).as_deref(),
            &mut |key, _| match keys::parse_session(key) {
                Ok((_, part)) => {
                    all.push(part);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    visited = Err(error);
                    ControlFlow::Break(())
                }
            },
        )
        .and(visited)
        .map_err(Stop::Broken)?;
    let key = keys::session(session, SessionKey::Answers);
    let answers: Option<AnswersRecord> = txn.get(Family::Sessions, &key)?;
    for part in all {
        match part {
            SessionKey::Unnamed(inode) => {
                let mut record = txn.referred_inode(inode)?;
                txn.make_orphan(inode, &mut record);
                txn.put_inode(inode, &mut record);
            }
            SessionKey::Record
            | SessionKey::Answers
            | SessionKey::Range(..)
            | SessionKey::OpenChunk(..) => {}
        }
        txn.delete(Family::Sessions, keys::session(session, part));
    }
    if lost {
        let last = answers.map_or(RequestNumber(0), |answers| answers.last());
        remember_lost(txn, session, last)?;
    }
    Ok(())
}

fn remember_lost(txn: &mut Txn<'_>, session: SessionId, last: RequestNumber) -> OpResult<()> {
    let prefix = keys::lost_sessions();
    let mut remembered = Vec::new();
    txn.state()
        .scan(
            Family::System,
            &prefix,
            after_prefix(&prefix).as_deref(),
            &mut |key, _| {
                remembered.push(key.to_vec());
                ControlFlow::Continue(())
            },
        )
        .map_err(Stop::Broken)?;
    let too_many = (remembered.len() + 1).saturating_sub(LOST_MAX);
    for key in remembered.into_iter().take(too_many) {
        txn.delete(Family::System, key);
    }
    txn.put(
        Family::System,
        keys::system(SystemKey::LostSession(session)),
        &LostSessionRecord { last },
    );
    Ok(())
}

/// Why a request of a session that is not open is refused: `UnknownOutcome` if it may have been
/// applied, `SessionLost` if it certainly was not.
fn gone(txn: &Txn<'_>, session: SessionId, number: RequestNumber) -> OpResult<Error> {
    let lost: Option<LostSessionRecord> = txn.get(
        Family::System,
        &keys::system(SystemKey::LostSession(session)),
    )?;
    let incarnation = Epoch(txn.number(SystemKey::Epoch)?).incarnation();
    let next = u64::from(incarnation) << 48 | txn.number(SystemKey::NextSession)?.max(1);
    let existed = session != SessionId::NONE && session.0 < next;
    let unknown = match lost {
        Some(lost) => number <= lost.last,
        None => existed,
    };
    Ok(if unknown {
        let text = format!(
            "session {session} has ended, and request {number} may have been done before: look at the result, and go on in a new session"
        );
        Error::new(Code::UnknownOutcome, text)
    } else {
        let text = format!(
            "session {session} is not open; request {number} was not done: repeat it in a new session"
        );
        Error::new(Code::SessionLost, text)
    })
}

/// Refuses with `SessionLost` what needs an open session.
pub fn check_open(txn: &Txn<'_>, session: SessionId) -> OpResult<SessionRecord> {
    let lost = || {
        let text = format!(
            "session {session} is not open: what it had not committed is to be written again in a new one"
        );
        Stop::Refused(Error::new(Code::SessionLost, text))
    };
    find(txn.state(), session)
        .map_err(Stop::Broken)?
        .ok_or_else(lost)
}

/// The session holds an inode without a name: it stays until the session ends or it gets a name.
///
/// # Errors
/// `Overloaded` if it holds too many already.
pub fn hold(txn: &mut Txn<'_>, session: SessionId, inode: InodeId) -> OpResult<()> {
    let prefix = keys::session_part_prefix(session, SessionKey::Unnamed(inode));
    let mut held = 0;
    txn.state()
        .scan(
            Family::Sessions,
            &prefix,
            after_prefix(&prefix).as_deref(),
            &mut |_, _| {
                held += 1;
                if held < UNNAMED_MAX {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )
        .map_err(Stop::Broken)?;
    if held >= UNNAMED_MAX {
        let text = format!(
            "the session holds {UNNAMED_MAX} files without a name: publish some of them first"
        );
        return Err(Error::new(Code::Overloaded, text).into());
    }
    txn.put(
        Family::Sessions,
        keys::session(session, SessionKey::Unnamed(inode)),
        &Present,
    );
    Ok(())
}

/// Whether the session holds that inode without a name.
pub fn holds(txn: &Txn<'_>, session: SessionId, inode: InodeId) -> OpResult<bool> {
    Ok(txn
        .get_bytes(
            Family::Sessions,
            &keys::session(session, SessionKey::Unnamed(inode)),
        )?
        .is_some())
}

/// The inode got a name: the session no longer holds it.
pub fn release(txn: &mut Txn<'_>, session: SessionId, inode: InodeId) {
    txn.delete(
        Family::Sessions,
        keys::session(session, SessionKey::Unnamed(inode)),
    );
}
