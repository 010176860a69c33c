//! A chunk goes down its pipeline, and its receipt is committed by the law of publishing.

use super::*;
use crate::state::data_testing::commit;
use crate::state::map_state::keys::keys_of;
use quarry_common::checksum::Crc;
use quarry_common::token::Receipt;
use quarry_common::token::receipt::Durable;
use quarry_common::{Code, Result};

impl Group {
    /// Whether a hop may take part in a write of that epoch.
    fn hop_may(&self, disk: usize, epoch: Epoch) -> bool {
        let found = &self.disks[disk];
        let fenced = self.bounds.fences && (epoch < found.known || found.known == Epoch::ZERO);
        found.up && !fenced
    }

    fn chain(&self, chunk: usize) -> Vec<usize> {
        self.chunks[chunk].row.chain().map(at).collect()
    }

    pub(super) fn receive(&mut self, chunk: usize, hop: usize) -> bool {
        let chain = self.chain(chunk);
        let Some(disk) = chain.get(hop).copied() else {
            return false;
        };
        let here = &self.chunks[chunk];
        let epoch = here.row.epoch;
        let offered = match hop.checked_sub(1) {
            None if here.writing => here.sent,
            None => 0,
            Some(before) => {
                let before = &self.disks[chain[before]];
                match before.up && before.joined[chunk] && !before.broken[chunk] {
                    true => before.received[chunk],
                    false => 0,
                }
            }
        };
        let found = &self.disks[disk];
        if found.broken[chunk] || offered <= found.received[chunk] || !self.hop_may(disk, epoch) {
            return false;
        }
        if epoch > found.known {
            // It fetches the map first.
            self.heartbeat(disk);
        }
        let found = &mut self.disks[disk];
        (found.joined[chunk], found.received[chunk]) = (true, offered);
        true
    }

    pub(super) fn acknowledge(&mut self, chunk: usize, hop: usize) -> bool {
        let chain = self.chain(chunk);
        let Some(disk) = chain.get(hop).copied() else {
            return false;
        };
        let epoch = self.chunks[chunk].row.epoch;
        let after = chain.get(hop + 1);
        let after = after.map_or(FULL, |next| self.disks[*next].acknowledged[chunk]);
        let found = &self.disks[disk];
        let len = found.received[chunk].min(after);
        let in_pipeline = found.up && found.joined[chunk] && !found.broken[chunk];
        if !in_pipeline || len <= found.acknowledged[chunk] || !self.hop_may(disk, epoch) {
            return false;
        }
        let found = &mut self.disks[disk];
        found.durable[chunk] = found.durable[chunk].max(found.received[chunk]);
        found.acknowledged[chunk] = len;
        let here = &mut self.chunks[chunk];
        if hop == 0 && here.writing {
            here.receipt = len;
            if len == FULL {
                (here.writing, here.ended) = (false, true);
            }
        }
        true
    }

    /// Words of these disks that a chunk is durable.
    fn words(&self, chunk: usize, epoch: Epoch, len: u32, disks: &[DiskId]) -> Receipt {
        let id = self.chunks[chunk].id;
        let durable = Durable {
            pool: POOL,
            chunk: id,
            epoch,
            len,
            crc: Crc(id.0 as u32 ^ len),
        };
        let map = self.map();
        let word = |disk: &DiskId| {
            let server = map.topology.disks[disk].server;
            let keys = keys_of(&*self.world.kv, server).unwrap();
            durable.sign(&keys.receipt.unwrap(), *disk)
        };
        durable.receipt(disks.iter().map(word).collect())
    }

    /// The leader's part of the law is here as it is in `serve/publishing`; what is decided is the state machine's.
    pub(super) fn commit(&mut self, chunk: usize) -> bool {
        let found = self.chunks[chunk].clone();
        let len = found.receipt;
        if len <= found.committed {
            return false;
        }
        let disks: Vec<DiskId> = found.row.chain().collect();
        let receipt = self.words(chunk, found.row.epoch, len, &disks);
        let op = commit(found.inode, 0, len.into(), receipt);
        let plain = self.world.mutation(&root(), op.clone());
        let row = self.row();
        let mut result = self.world.act(plain).map(|_| ());
        let is_old = found.row.epoch < row.epoch;
        assert_eq!(
            result
                .as_ref()
                .is_err_and(|error| error.code == Code::OldReceipt),
            is_old,
            "{result:?}"
        );
        if is_old {
            match self.confirm(chunk, len, &row) {
                None => return false,
                Some(confirmed) => result = self.commit_confirmed(op, confirmed),
            }
        }
        match result {
            Ok(()) => self.chunks[chunk].committed = len,
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn commit_confirmed(&mut self, op: Op, confirmed: Receipt) -> Result<()> {
        let Action::Mutate {
            session,
            number,
            answered_below,
            caller,
            op,
        } = self.world.mutation(&root(), op)
        else {
            panic!("a mutation is one");
        };
        let action = Action::MutateConfirmed {
            session,
            number,
            answered_below,
            caller,
            op,
            confirmed: Ok(vec![confirmed]),
        };
        self.world.act(action).map(|_| ())
    }

    /// Every present member confirms, fetching what it lacks; `None` if one can not.
    fn confirm(&mut self, chunk: usize, len: u32, row: &Row) -> Option<Receipt> {
        let has = |disk: &Disk| disk.up && disk.durable[chunk] >= len;
        for disk in row.chain().map(at) {
            if !self.disks[disk].up || !self.disks.iter().any(has) {
                return None;
            }
            let found = &mut self.disks[disk];
            found.durable[chunk] = found.durable[chunk].max(len);
        }
        let disks: Vec<DiskId> = row.chain().collect();
        Some(self.words(chunk, row.epoch, len, &disks))
    }
}
