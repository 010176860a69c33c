//! How long disks have been down: noted by each leader for the next one, so that they go out though leaders change.
//!
//! It is time during which somebody led, not since when: a cluster that was switched off for a week is not to rebuild what its
//! slowest disk holds.

use crate::kv::{Family, KvRead, after_prefix};
use crate::state::command::Reply;
use crate::state::keys::{self, SystemKey};
use crate::state::records::{NumberRecord, Record};
use crate::state::stop::OpResult;
use crate::state::txn::Txn;
use quarry_common::Result;
use quarry_common::ids::DiskId;
use std::ops::ControlFlow;
use std::time::Duration;

/// `NoteDown`: a disk that does not exist is passed over.
pub fn note(txn: &mut Txn<'_>, disks: &[(DiskId, Option<u64>)]) -> OpResult<Reply> {
    let topology = super::topology(txn)?;
    for (disk, down_for_ms) in disks {
        let key = SystemKey::DownFor(*disk);
        match down_for_ms {
            Some(millis) if topology.disks.contains_key(disk) => txn.set_number(key, *millis),
            Some(_) => {}
            None => txn.delete(Family::System, keys::system(key)),
        }
    }
    Ok(Reply::Nothing)
}

/// How long each disk that is noted as down has been so.
pub fn downs(state: &dyn KvRead) -> Result<Vec<(DiskId, Duration)>> {
    let prefix = keys::downs();
    let end = after_prefix(&prefix);
    let (mut downs, mut failed) = (Vec::new(), None);
    state.scan(
        Family::System,
        &prefix,
        end.as_deref(),
        &mut |key, value| {
            let read =
                keys::parse_down(key).and_then(|disk| Ok((disk, NumberRecord::from_bytes(value)?)));
            match read {
                Ok((disk, NumberRecord(millis))) => {
                    downs.push((disk, Duration::from_millis(millis)));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        },
    )?;
    failed.map_or(Ok(downs), Err)
}
