//! The controller's decision becomes the rows of the map.

use quarry_common::ids::{DiskId, Epoch, PgId, PoolId};
use quarry_common::map::fill::merged;
use quarry_common::map::{
    DiskState, EpochRange, Holder, Member, MemberState, Pool, Row, Topology, placement,
};
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

/// Adds a range to what a disk covers.
fn cover(holders: &mut Vec<Holder>, disk: DiskId, range: EpochRange) {
    match holders.iter_mut().find(|holder| holder.disk == disk) {
        Some(holder) => {
            holder.covers.push(range);
            holder.covers = merged(std::mem::take(&mut holder.covers));
        }
        None => holders.push(Holder {
            disk,
            covers: vec![range],
        }),
    }
}

/// The row after a member reported that it has everything; `None` if that changes nothing.
///
/// `listed` is the epoch of the row with which it listed. A report counts only if the member has not joined anew
/// since: one from before knows nothing of what was sealed while it was away. Its epoch stays: its members are the same.
pub fn complete(row: &Row, disk: DiskId, listed: Epoch, epoch: Epoch) -> Option<Row> {
    let mut after = row.clone();
    let member = after
        .members
        .iter_mut()
        .flatten()
        .find(|member| member.disk == disk)?;
    if member.state == MemberState::Complete || !(member.since..=row.epoch).contains(&listed) {
        return None;
    }
    member.state = MemberState::Complete;
    // It covers all epochs from now on.
    after.holders.retain(|holder| holder.disk != disk);
    after.changed_at = epoch;
    Some(after)
}

/// Whether a group's members are its target and all complete.
pub fn is_clean(topology: &Topology, id: PoolId, pool: &Pool, pg: PgId, row: &Row) -> bool {
    // A target takes a while to compute, of many disks.
    are_complete(row) && are_whole(row, &placement::target(topology, id, pool, pg))
}

/// Whether the members of a row are `target` and all complete. Positions do not matter: a substitute that stays keeps the
/// one that it took.
pub fn are_whole(row: &Row, target: &[Option<DiskId>]) -> bool {
    let target: BTreeSet<DiskId> = target.iter().copied().flatten().collect();
    are_complete(row) && row.chain().collect::<BTreeSet<DiskId>>() == target
}

fn are_complete(row: &Row) -> bool {
    let complete = |member: &Member| member.state == MemberState::Complete;
    row.present() > 0 && row.members.iter().flatten().all(complete)
}

/// Forgets the holders of a group that is clean: its members have everything, and who left may delete.
pub fn forget_holders(
    topology: &Topology,
    id: PoolId,
    pool: &Pool,
    pg: PgId,
    row: &mut Row,
    epoch: Epoch,
) {
    if !row.holders.is_empty() && is_clean(topology, id, pool, pg, row) {
        row.holders.clear();
        row.changed_at = epoch;
    }
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

    #[test]
    fn a_report_counts_once_and_only_since_the_member_joined() {
        let row = place(&Row::default(), &disks(&[1, 2, 3]), false, Epoch(5)).unwrap();
        let away = place(&row, &disks(&[1, 4, 3]), true, Epoch(8)).unwrap();
        let back = place(&away, &disks(&[1, 2, 3]), true, Epoch(9)).unwrap();
        let two = DiskId(2);
        for (disk, listed) in [
            (two, Epoch(8)),
            (two, Epoch(10)),
            (DiskId(4), Epoch(9)),
            (DiskId(1), Epoch(9)),
        ] {
            assert_eq!(complete(&back, disk, listed, Epoch(12)), None, "{disk}");
        }
        let after = complete(&back, two, Epoch(9), Epoch(12)).unwrap();
        assert_eq!(after.members[1].unwrap().state, MemberState::Complete);
        assert_eq!(after.members[1].unwrap().since, Epoch(9));
        assert_eq!((after.epoch, after.changed_at), (Epoch(9), Epoch(12)));
        let holders: Vec<DiskId> = after.holders.iter().map(|holder| holder.disk).collect();
        assert_eq!(holders, [DiskId(4)], "2 covers everything as a member");
        assert_eq!(complete(&after, two, Epoch(9), Epoch(13)), None);
    }

    #[test]
    fn a_member_that_joined_before_others_changed_reports_with_any_epoch_since() {
        let row = place(&Row::default(), &disks(&[1, 2, 3]), false, Epoch(5)).unwrap();
        let joined = place(&row, &disks(&[1, 4, 3]), true, Epoch(8)).unwrap();
        let later = place(&joined, &disks(&[5, 4, 3]), true, Epoch(11)).unwrap();
        for listed in [8, 9, 11] {
            let after = complete(&later, DiskId(4), Epoch(listed), Epoch(12));
            assert!(after.is_some(), "{listed}");
        }
    }
}
