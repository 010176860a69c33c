//! Each request exactly once: its answer is kept until the session has it for certain.
//!
//! The answers of a session are one record, written once an entry however many of its requests are in it. (A key for each
//! answer, and another write to take it away, were three of the five writes of a file that is made.)

use super::gone;
use crate::kv::Family;
use crate::state::data_records::{AnswersRecord, KeptAnswer};
use crate::state::keys::{self, SessionKey};
use crate::state::stop::{OpResult, Stop};
use crate::state::txn::Txn;
use bytes::Bytes;
use quarry_common::ids::{RequestNumber, SessionId};
use quarry_common::limits::OPEN_REQUESTS_MAX;
use quarry_common::{Code, Error};

/// Bytes of answers that a session may have waiting before only its oldest request is run: the record is written with
/// each entry.
pub const KEPT_LEN_MAX: usize = 256 << 10;

/// Whether a request is to be run.
#[derive(Debug)]
pub enum Admission {
    /// It was not seen before.
    New,
    /// It was answered: this is the answer.
    Answered(Bytes),
    /// It can not be run, and nothing is to be recorded.
    Refused(Error),
}

/// The answers of a session while an entry is applied.
pub struct Kept {
    record: AnswersRecord,
    /// Bytes in the answers.
    len: usize,
    changed: bool,
}

impl Kept {
    fn new(record: AnswersRecord) -> Kept {
        let len = record.answers.values().map(|kept| kept.answer.len()).sum();
        Kept {
            record,
            len,
            changed: false,
        }
    }

    fn forget_below(&mut self, below: RequestNumber) {
        if below <= self.record.below {
            return;
        }
        self.record.below = below;
        self.changed = true;
        while let Some(first) = self.record.answers.first_entry()
            && *first.key() < below
        {
            self.len -= first.remove().answer.len();
        }
    }
}

/// The answers of an open session.
fn kept<'a>(txn: &'a mut Txn<'_>, session: SessionId) -> OpResult<Option<&'a mut Kept>> {
    if !txn.answers.contains_key(&session) {
        let key = keys::session(session, SessionKey::Answers);
        let Some(record) = txn.get(Family::Sessions, &key)? else {
            return Ok(None);
        };
        txn.answers.insert(session, Kept::new(record));
    }
    Ok(txn.answers.get_mut(&session))
}

/// Writes the answers that have changed, for whoever reads them otherwise than through a request.
pub fn settle(txn: &mut Txn<'_>) {
    for (session, kept) in std::mem::take(&mut txn.answers) {
        if kept.changed {
            let key = keys::session(session, SessionKey::Answers);
            txn.put(Family::Sessions, key, &kept.record);
        }
    }
}

/// Looks a request up in its session and forgets the answers below `answered_below`.
///
/// Refused are: requests of a session that is not open (`SessionLost`, `UnknownOutcome`), a number
/// used before with another body or whose answer the session said it has (`NumberReused`), and more
/// open numbers, or more bytes of answers, than allowed (`Overloaded`: take up some answers first).
pub fn admit(
    txn: &mut Txn<'_>,
    session: SessionId,
    number: RequestNumber,
    answered_below: RequestNumber,
    body_hash: u64,
) -> OpResult<Admission> {
    let Some(kept) = kept(txn, session)? else {
        return Ok(Admission::Refused(gone(txn, session, number)?));
    };
    let refuse = |code, text: String| Ok(Admission::Refused(Error::new(code, text)));
    if number == RequestNumber(0) || answered_below > number {
        let text = format!(
            "request {number} of session {session} says that all below {answered_below} are answered: numbers begin at 1, and a request is not answered before it is sent"
        );
        return refuse(Code::Malformed, text);
    }
    if number < kept.record.below {
        let text = format!(
            "request {number} of session {session} was answered, and the session said it has the answers below {}",
            kept.record.below
        );
        return refuse(Code::NumberReused, text);
    }
    if number.0 - kept.record.below.max(answered_below).0 >= OPEN_REQUESTS_MAX {
        let text = format!(
            "session {session} has {OPEN_REQUESTS_MAX} requests open: wait for answers before sending request {number}"
        );
        return refuse(Code::Overloaded, text);
    }
    kept.forget_below(answered_below);
    match kept.record.answers.get(&number) {
        Some(found) if found.body_hash == body_hash => {
            return Ok(Admission::Answered(found.answer.clone().into()));
        }
        Some(_) => {
            let text = format!(
                "request {number} of session {session} was another operation before: every operation needs a new number"
            );
            return refuse(Code::NumberReused, text);
        }
        None => {}
    }
    // The oldest is always run, so that the session can go on.
    if kept.len >= KEPT_LEN_MAX && number > kept.record.below {
        let text = format!(
            "session {session} has {} bytes of answers that it did not say it has: wait for them before sending request {number}",
            kept.len
        );
        return refuse(Code::Overloaded, text);
    }
    Ok(Admission::New)
}

/// Keeps the answer to a request that was admitted.
pub fn record(
    txn: &mut Txn<'_>,
    session: SessionId,
    number: RequestNumber,
    body_hash: u64,
    answer: &Bytes,
) -> OpResult<()> {
    let Some(kept) = kept(txn, session)? else {
        let text = format!("request {number} ended its own session {session}");
        return Err(Stop::Broken(Error::bug(text)));
    };
    let answer = KeptAnswer {
        body_hash,
        answer: answer.to_vec(),
    };
    kept.len += answer.answer.len();
    kept.record.answers.insert(number, answer);
    kept.changed = true;
    Ok(())
}
