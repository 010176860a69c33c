//! Sessions: who may change what exactly once.

use super::stop::OpResult;
use super::txn::Txn;
use bytes::Bytes;
use quarry_common::Error;
use quarry_common::ids::{RequestNumber, SessionId};

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
pub fn admit(
    txn: &mut Txn<'_>,
    session: SessionId,
    number: RequestNumber,
    answered_below: RequestNumber,
    body_hash: u64,
) -> OpResult<Admission> {
    let _not_yet = (txn, session, number, answered_below, body_hash);
    Ok(Admission::New)
}

/// Keeps the answer to a request.
pub fn record(
    txn: &mut Txn<'_>,
    session: SessionId,
    number: RequestNumber,
    body_hash: u64,
    answer: &Bytes,
) -> OpResult<()> {
    let _not_yet = (txn, session, number, body_hash, answer);
    Ok(())
}
