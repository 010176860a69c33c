//! Secret keys: under which capabilities are made, and with which dataservers sign receipts.

use crate::kv::{Family, KvRead, after_prefix};
use crate::state::command::Reply;
use crate::state::data_records::SecretRecord;
use crate::state::keys::{self, SecretKey, SystemKey};
use crate::state::records::Record;
use crate::state::stop::{OpResult, Stop};
use crate::state::txn::{Txn, load};
use quarry_common::ids::{KeyNumber, ServerId};
use quarry_common::token::Key;
use quarry_common::wire::meta::admin::Keys;
use quarry_common::{Code, Error, Result};
use std::ops::ControlFlow;

/// Secrets of one purpose, by number.
fn scan(state: &dyn KvRead, example: SecretKey) -> Result<Vec<SecretRecord>> {
    let first = keys::secret(example);
    let prefix = &first[..1];
    let mut found = Vec::new();
    let mut failed = None;
    state.scan(
        Family::Secrets,
        prefix,
        after_prefix(prefix).as_deref(),
        &mut |_, value| match SecretRecord::from_bytes(value) {
            Ok(record) => {
                found.push(record);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    failed.map_or(Ok(found), Err)
}

/// All keys of capabilities that may be in use, the newest last.
pub fn capability_keys(state: &dyn KvRead) -> Result<Vec<Key>> {
    let found = scan(state, SecretKey::Capability(KeyNumber(0)))?;
    Ok(found.into_iter().map(|record| record.key).collect())
}

/// The secrets of one dataserver.
pub fn keys_of(state: &dyn KvRead, server: ServerId) -> Result<Keys> {
    let capability = capability_keys(state)?;
    let receipts = scan(state, SecretKey::Receipt(KeyNumber(0)))?;
    let own = receipts
        .into_iter()
        .rev()
        .find(|record| record.server == Some(server));
    Ok(Keys {
        capability,
        receipt: own.map(|record| record.key),
    })
}

/// The key of that number, if it is that dataserver's.
pub fn receipt_key(state: &dyn KvRead, server: ServerId, number: KeyNumber) -> Result<Option<Key>> {
    let found: Option<SecretRecord> = load(
        state,
        Family::Secrets,
        &keys::secret(SecretKey::Receipt(number)),
    )?;
    Ok(found
        .filter(|record| record.server == Some(server))
        .map(|record| record.key))
}

/// A dataserver without a key gets one with this secret.
pub(super) fn ensure_receipt_key(
    txn: &mut Txn<'_>,
    server: ServerId,
    secret: [u8; 32],
) -> OpResult<()> {
    if keys_of(txn.state(), server)
        .map_err(Stop::Broken)?
        .receipt
        .is_some()
    {
        return Ok(());
    }
    let next = txn.number(SystemKey::NextReceiptKey)?.max(1);
    let used_up = || {
        Stop::Refused(Error::new(
            Code::ClusterFull,
            "all numbers of receipt keys are used up",
        ))
    };
    let number = KeyNumber(u32::try_from(next).map_err(|_| used_up())?);
    txn.set_number(SystemKey::NextReceiptKey, next + 1);
    let record = SecretRecord {
        key: Key { number, secret },
        server: Some(server),
    };
    txn.put(
        Family::Secrets,
        keys::secret(SecretKey::Receipt(number)),
        &record,
    );
    Ok(())
}

/// Writes a key of capabilities.
pub(super) fn put_capability_key(txn: &mut Txn<'_>, key: Key) {
    let number = key.number;
    txn.put(
        Family::Secrets,
        keys::secret(SecretKey::Capability(number)),
        &SecretRecord { key, server: None },
    );
}

/// `AddCapabilityKey`: does nothing when repeated.
pub fn add_capability_key(txn: &mut Txn<'_>, key: Key, forget_below: KeyNumber) -> OpResult<Reply> {
    let known = capability_keys(txn.state()).map_err(Stop::Broken)?;
    if known.last() != Some(&key) {
        let next = known
            .last()
            .map_or(1, |last| last.number.0.saturating_add(1));
        if key.number.0 != next {
            let text = format!(
                "the next key of capabilities has number {next}, not {}",
                key.number
            );
            return Err(Error::new(Code::Invalid, text).into());
        }
        put_capability_key(txn, key.clone());
    }
    for old in known
        .iter()
        .filter(|old| old.number < forget_below && old.number != key.number)
    {
        txn.delete(
            Family::Secrets,
            keys::secret(SecretKey::Capability(old.number)),
        );
    }
    Ok(Reply::Nothing)
}
