//! One placement group's row in the table of actual members.

use crate::ids::{DiskId, Epoch};
use serde::{Deserialize, Serialize};

/// The members of a placement group, as the cluster agreed on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The epoch at which the members last changed: the `pg_epoch` of writes and receipts.
    pub epoch: Epoch,
    /// The epoch at which anything in the row last changed; never older than `epoch`.
    pub changed_at: Epoch,
    /// One position per replica, the first is the head; `None` where disks ran out.
    pub members: Vec<Option<Member>>,
    /// Disks beside the members that cover epochs of this group (DESIGN §4.5).
    pub holders: Vec<Holder>,
}

/// One position of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The disk.
    pub disk: DiskId,
    /// Whether it has everything.
    pub state: MemberState,
    /// The epoch at which it joined.
    pub since: Epoch,
}

/// Whether a member has all chunks of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It still fetches what was sealed before it joined.
    Filling,
    /// It has everything.
    Complete,
}

/// A disk that has every chunk sealed in some epochs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The disk.
    pub disk: DiskId,
    /// The epochs, ascending, not touching each other.
    pub covers: Vec<EpochRange>,
}

/// The epochs from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRange {
    /// The first.
    pub first: Epoch,
    /// The last.
    pub last: Epoch,
}

impl Row {
    /// The disks of the pipeline, head first.
    pub fn chain(&self) -> impl Iterator<Item = DiskId> {
        self.members.iter().flatten().map(|member| member.disk)
    }

    /// Members there are.
    pub fn present(&self) -> usize {
        self.members.iter().flatten().count()
    }

    /// The disk after `disk` in the pipeline; `Err` if `disk` is no member.
    pub fn next_after(&self, disk: DiskId) -> Result<Option<DiskId>, NotInRow> {
        let mut chain = self.chain();
        chain.find(|member| *member == disk).ok_or(NotInRow)?;
        Ok(chain.next())
    }

    /// Every disk that may have chunks of this group: members that are complete first.
    pub fn sources(&self) -> Vec<DiskId> {
        let of = |state| {
            self.members
                .iter()
                .flatten()
                .filter(move |m| m.state == state)
                .map(|m| m.disk)
        };
        let holders = self.holders.iter().map(|holder| holder.disk);
        let mut all: Vec<DiskId> = of(MemberState::Complete)
            .chain(holders)
            .chain(of(MemberState::Filling))
            .collect();
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|disk| seen.insert(*disk));
        all
    }
}

/// The disk is no member of that row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInRow;
