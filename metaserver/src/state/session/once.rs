//! Each request exactly once: its answer is kept until the session has it for certain.

use super::gone;
use crate::kv::Family;
use crate::state::data_records::AnswerRecord;
use crate::state::keys::{self, SessionKey};
use crate::state::stop::{OpResult, Stop};
use crate::state::txn::Txn;
use bytes::Bytes;
use quarry_common::ids::{RequestNumber, SessionId};
use quarry_common::limits::OPEN_REQUESTS_MAX;
use quarry_common::{Code, Error};
use std::ops::ControlFlow;

/// So many numbers are removed without a look at which of them have answers.
const FORGOTTEN_BLINDLY_MAX: u64 = 64;

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

/// Looks a request up in its session and forgets the answers below `answered_below`.
///
/// Refused are: requests of a session that is not open (`SessionLost`, `UnknownOutcome`), a number
/// used before with another body or whose answer the session said it has (`NumberReused`), and more
/// open numbers than allowed (`Overloaded`: take up some answers first).
pub fn admit(
    txn: &mut Txn<'_>,
    session: SessionId,
    number: RequestNumber,
    answered_below: RequestNumber,
    body_hash: u64,
) -> OpResult<Admission> {
    let Some(mut record) = super::find(txn.state(), session).map_err(Stop::Broken)? else {
        return Ok(Admission::Refused(gone(txn, session, number)?));
    };
    let refuse = |code, text: String| Ok(Admission::Refused(Error::new(code, text)));
    if number == RequestNumber(0) || answered_below > number {
        let text = format!(
            "request {number} of session {session} says that all below {answered_below} are answered: numbers begin at 1, and a request is not answered before it is sent"
        );
        return refuse(Code::Malformed, text);
    }
    if number < record.answered_below {
        let text = format!(
            "request {number} of session {session} was answered, and the session said it has the answers below {}",
            record.answered_below
        );
        return refuse(Code::NumberReused, text);
    }
    if number.0 - record.answered_below.max(answered_below).0 >= OPEN_REQUESTS_MAX {
        let text = format!(
            "session {session} has {OPEN_REQUESTS_MAX} requests open: wait for answers before sending request {number}"
        );
        return refuse(Code::Overloaded, text);
    }
    if answered_below > record.answered_below {
        forget(txn, session, record.answered_below..answered_below)?;
        record.answered_below = answered_below;
        txn.put(
            Family::Sessions,
            keys::session(session, SessionKey::Record),
            &record,
        );
    }
    let answer: Option<AnswerRecord> = txn.get(
        Family::Sessions,
        &keys::session(session, SessionKey::Answer(number)),
    )?;
    match answer {
        None => Ok(Admission::New),
        Some(answer) if answer.body_hash == body_hash => {
            Ok(Admission::Answered(answer.answer.into()))
        }
        Some(_) => refuse(
            Code::NumberReused,
            format!(
                "request {number} of session {session} was another operation before: every operation needs a new number"
            ),
        ),
    }
}

/// Removes the answers to a range of numbers. It begins where the last call ended: a scan over
/// what was deleted before would visit every tombstone again (measured: 0.8 ms an operation
/// after ten thousand).
fn forget(
    txn: &mut Txn<'_>,
    session: SessionId,
    numbers: std::ops::Range<RequestNumber>,
) -> OpResult<()> {
    // Usually a few, all of them answered: to remove them costs less than to look for them.
    if numbers.end.0 - numbers.start.0 <= FORGOTTEN_BLINDLY_MAX {
        for number in (numbers.start.0..numbers.end.0).map(RequestNumber) {
            txn.delete(
                Family::Sessions,
                keys::session(session, SessionKey::Answer(number)),
            );
        }
        return Ok(());
    }
    let from = keys::session(session, SessionKey::Answer(numbers.start));
    let to = keys::session(session, SessionKey::Answer(numbers.end));
    let mut old = Vec::new();
    txn.state()
        .scan(Family::Sessions, &from, Some(&to), &mut |key, _| {
            old.push(key.to_vec());
            ControlFlow::Continue(())
        })
        .map_err(Stop::Broken)?;
    old.into_iter()
        .for_each(|key| txn.delete(Family::Sessions, key));
    Ok(())
}

/// Keeps the answer to a request.
pub fn record(
    txn: &mut Txn<'_>,
    session: SessionId,
    number: RequestNumber,
    body_hash: u64,
    answer: &Bytes,
) -> OpResult<()> {
    let record = AnswerRecord {
        body_hash,
        answer: answer.to_vec(),
    };
    txn.put(
        Family::Sessions,
        keys::session(session, SessionKey::Answer(number)),
        &record,
    );
    Ok(())
}
