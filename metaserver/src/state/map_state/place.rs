//! The controller's decision becomes the rows of the map.

use quarry_common::ids::{DiskId, Epoch, PgId, PoolId};
use quarry_common::map::{DiskState, EpochRange, Holder, Member, MemberState, Pool, Row, Topology};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeSet;

/// Whether the members that a command names for one group are possible.
///
/// # Errors
/// `Invalid`, with what is wrong with them.
pub fn check(
    topology: &Topology,
    id: PoolId,
    pool: &Pool,
    pg: PgId,
    members: &[Option<DiskId>],
) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::new(
            Code::Invalid,
            format!("group {id}.{pg} can not be placed: {what}"),
        ))
    };
    if pg.0 >= pool.pg_count {
        return refuse(format!("the pool has {} groups", pool.pg_count));
    }
    if members.len() != pool.redundancy.members() {
        return refuse(format!(
            "{} positions, the pool has {}",
            members.len(),
            pool.redundancy.members()
        ));
    }
    let mut seen = BTreeSet::new();
    for disk in members.iter().flatten() {
        match topology.disks.get(disk) {
            None => return refuse(format!("there is no disk {disk}")),
            Some(found) if found.state == DiskState::Out => {
                return refuse(format!("disk {disk} is out"));
            }
            Some(_) if !seen.insert(*disk) => return refuse(format!("disk {disk} twice")),
            Some(_) => {}
        }
    }
    Ok(())
}

/// The row after its members became `members` at `epoch`; `None` if they are what they were.
///
/// Before a pool is in use every member has everything there is. Afterwards a newcomer is filling,
/// and a member that leaves is a holder of the epochs that it covers (DESIGN §4.5).
pub fn place(row: &Row, members: &[Option<DiskId>], in_use: bool, epoch: Epoch) -> Option<Row> {
    let now: Vec<Option<DiskId>> = row
        .members
        .iter()
        .map(|member| member.map(|member| member.disk))
        .collect();
    if now == members {
        return None;
    }
    let staying = |disk: DiskId| {
        row.members
            .iter()
            .flatten()
            .find(|member| member.disk == disk)
            .copied()
    };
    let state = if in_use {
        MemberState::Filling
    } else {
        MemberState::Complete
    };
    let new = |disk: DiskId| {
        staying(disk).unwrap_or(Member {
            disk,
            state,
            since: epoch,
        })
    };
    let mut holders = row.holders.clone();
    if in_use {
        for leaver in row
            .members
            .iter()
            .flatten()
            .filter(|member| !members.contains(&Some(member.disk)))
        {
            let first = match leaver.state {
                MemberState::Complete => Epoch::ZERO,
                MemberState::Filling => leaver.since,
            };
            // Its part ends with the epoch before this one; `epoch` is never the first.
            cover(
                &mut holders,
                leaver.disk,
                EpochRange {
                    first,
                    last: Epoch(epoch.0 - 1),
                },
            );
        }
    }
    let members = members.iter().map(|disk| disk.map(new)).collect();
    Some(Row {
        epoch,
        changed_at: epoch,
        members,
        holders,
    })
}

/// Adds a range to what a disk covers; ranges that touch or overlap become one.
fn cover(holders: &mut Vec<Holder>, disk: DiskId, range: EpochRange) {
    let at = holders
        .iter()
        .position(|holder| holder.disk == disk)
        .unwrap_or_else(|| {
            holders.push(Holder {
                disk,
                covers: Vec::new(),
            });
            holders.len() - 1
        });
    let covers = &mut holders[at].covers;
    covers.push(range);
    covers.sort_by_key(|range| range.first);
    let mut merged: Vec<EpochRange> = Vec::with_capacity(covers.len());
    for range in covers.drain(..) {
        match merged.last_mut() {
            Some(last) if range.first.0 <= last.last.0.saturating_add(1) => {
                last.last = last.last.max(range.last)
            }
            _ => merged.push(range),
        }
    }
    *covers = merged;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(ids: &[u32]) -> Vec<Option<DiskId>> {
        ids.iter()
            .map(|id| (*id != 0).then_some(DiskId(*id)))
            .collect()
    }

    #[test]
    fn before_the_pool_is_in_use_members_are_complete_and_leave_nothing_behind() {
        let row = place(&Row::default(), &disks(&[1, 2, 0]), false, Epoch(5)).unwrap();
        assert!(
            row.members
                .iter()
                .flatten()
                .all(|member| member.state == MemberState::Complete && member.since == Epoch(5))
        );
        assert_eq!(
            (row.epoch, row.changed_at, row.present()),
            (Epoch(5), Epoch(5), 2)
        );
        let next = place(&row, &disks(&[3, 2, 1]), false, Epoch(6)).unwrap();
        assert!(next.holders.is_empty());
        assert_eq!(
            next.members[1].unwrap().since,
            Epoch(5),
            "who stays has been there since then"
        );
    }

    #[test]
    fn the_same_members_are_no_change() {
        let row = place(&Row::default(), &disks(&[1, 2, 0]), false, Epoch(5)).unwrap();
        assert_eq!(place(&row, &disks(&[1, 2, 0]), true, Epoch(6)), None);
    }

    #[test]
    fn in_use_a_newcomer_is_filling_and_a_leaver_holds_what_it_covers() {
        let row = place(&Row::default(), &disks(&[1, 2, 3]), false, Epoch(5)).unwrap();
        let second = place(&row, &disks(&[1, 4, 3]), true, Epoch(8)).unwrap();
        assert_eq!(
            second.members[1].unwrap(),
            Member {
                disk: DiskId(4),
                state: MemberState::Filling,
                since: Epoch(8)
            }
        );
        let whole = EpochRange {
            first: Epoch(0),
            last: Epoch(7),
        };
        assert_eq!(
            second.holders,
            [Holder {
                disk: DiskId(2),
                covers: vec![whole]
            }]
        );
        let third = place(&second, &disks(&[1, 2, 3]), true, Epoch(9)).unwrap();
        let part = EpochRange {
            first: Epoch(8),
            last: Epoch(8),
        };
        assert_eq!(
            third.holders[1],
            Holder {
                disk: DiskId(4),
                covers: vec![part]
            }
        );
        assert_eq!(
            third.members[1].unwrap().state,
            MemberState::Filling,
            "who was away lacks something"
        );
        let fourth = place(&third, &disks(&[1, 5, 3]), true, Epoch(11)).unwrap();
        let parts = vec![
            whole,
            EpochRange {
                first: Epoch(9),
                last: Epoch(10),
            },
        ];
        assert_eq!(fourth.holders[0].covers, parts, "away at 8");
    }
}
