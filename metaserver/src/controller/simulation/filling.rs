//! A filling member lists, fetches, and has everything or not.

use super::*;
use quarry_common::map::fill::{all_before, covers, merged};

impl Group {
    /// Since when a disk is a filling member, by its own map.
    fn filling_since(&self, disk: usize) -> Option<Epoch> {
        let found = &self.disks[disk];
        let mut members = found.row.members.iter().flatten();
        let member = members.find(|m| m.disk == id(disk) && m.state == MemberState::Filling)?;
        (found.up && found.row.epoch == found.known).then_some(member.since)
    }

    pub(super) fn list(&mut self, disk: usize, source: usize) -> bool {
        let fences = self.bounds.fences;
        if disk == source || self.filling_since(disk).is_none() || !self.disks[source].up {
            return false;
        }
        let row = self.disks[disk].row.clone();
        let covered = covers(&row, id(source));
        let refuses =
            self.disks[source].known > row.epoch || self.disks[source].known == Epoch::ZERO;
        if covered.is_empty() || fences && refuses {
            return false;
        }
        let chunks = self.bounds.chunks;
        let found = &mut self.disks[source];
        if fences && found.known < row.epoch {
            (found.known, found.licence) = (row.epoch, None);
        }
        let lens = found.durable.clone();
        let listing = self.disks[disk].listing.take();
        let mut listing = listing
            .filter(|listing| listing.epoch == row.epoch)
            .unwrap_or_else(|| Listing {
                epoch: row.epoch,
                covered: Vec::new(),
                need: vec![0; chunks],
            });
        listing.covered = merged([listing.covered, covered].concat());
        for (need, len) in listing.need.iter_mut().zip(lens) {
            *need = len.max(*need);
        }
        self.disks[disk].listing = Some(listing);
        true
    }

    pub(super) fn fetch(&mut self, disk: usize, chunk: usize) -> bool {
        let need = self.need(disk, chunk);
        let has = |found: &Disk| found.up && found.durable[chunk] >= need;
        let lacks = self.disks[disk].durable[chunk] < need;
        let may = self.disks[disk].up && lacks && self.disks.iter().any(has);
        if may {
            self.disks[disk].durable[chunk] = need;
        }
        may
    }

    /// How much of a chunk a filling member needs: what was listed; once nobody can give that any more, what the metaserver
    /// says is committed: more than that is nobody's.
    fn need(&self, disk: usize, chunk: usize) -> u32 {
        let listing = &self.disks[disk].listing;
        let listed = listing.as_ref().map_or(0, |listing| listing.need[chunk]);
        let gives = |other: &Disk| !other.lost && other.durable[chunk] >= listed;
        match self.disks.iter().any(gives) {
            true => listed,
            false => listed.min(self.chunks[chunk].committed),
        }
    }

    /// Whether a filling member has listed every epoch before it joined and holds all of it.
    pub(super) fn has_everything(&self, disk: usize) -> bool {
        let found = &self.disks[disk];
        let (Some(since), Some(listing)) = (self.filling_since(disk), &found.listing) else {
            return false;
        };
        let own = covers(&found.row, id(disk));
        listing.epoch == found.row.epoch
            && all_before(&merged([own, listing.covered.clone()].concat()), since)
            && (0..self.chunks.len()).all(|chunk| found.durable[chunk] >= self.need(disk, chunk))
    }
}
