//! Each step, if it can be done now.

use super::*;
use quarry_common::map::DiskState;
use quarry_common::wire::meta::Complete;

impl Group {
    pub(super) fn try_step(&mut self, step: Step) -> bool {
        match step {
            Step::Refresh(chunk) => {
                let row = self.row();
                let found = &mut self.chunks[chunk];
                let may = !found.writing && !found.ended && found.map.epoch < row.epoch;
                if may {
                    found.map = row;
                }
                may
            }
            Step::Write(chunk) => {
                let found = &mut self.chunks[chunk];
                let may = !found.writing && !found.ended;
                if may {
                    (found.writing, found.sent) = (true, 1);
                    found.row = found.map.clone();
                }
                may
            }
            Step::Seal(chunk) => {
                let found = &mut self.chunks[chunk];
                let may = found.writing && found.sent == 1;
                if may {
                    found.sent = FULL;
                }
                may
            }
            Step::GiveUp(chunk) => {
                let found = &mut self.chunks[chunk];
                let may = found.writing && found.sent > found.receipt;
                if may {
                    (found.writing, found.ended) = (false, true);
                }
                may
            }
            Step::Receive(chunk, hop) => self.receive(chunk, hop),
            Step::Acknowledge(chunk, hop) => self.acknowledge(chunk, hop),
            Step::Commit(chunk) => self.commit(chunk),
            Step::Crash(disk) => {
                let may = self.disks[disk].up && self.crashes < self.bounds.crashes;
                if may {
                    self.crashes += 1;
                    self.crash(disk);
                }
                may
            }
            Step::Restart(disk) => {
                let found = &mut self.disks[disk];
                let may = !found.up && !found.lost;
                found.up |= may;
                may
            }
            Step::Lose(disk) => {
                let may = !self.disks[disk].lost && self.losses < self.bounds.losses;
                if may {
                    self.losses += 1;
                    self.crash(disk);
                    let found = &mut self.disks[disk];
                    (found.lost, found.report) = (true, None);
                    found.durable.fill(0);
                    found.received.fill(0);
                }
                may
            }
            Step::Cut(disk) => {
                let found = &mut self.disks[disk];
                let may = !found.cut && !found.lost && self.cuts < self.bounds.cuts;
                if may {
                    found.cut = true;
                    self.cuts += 1;
                }
                may
            }
            Step::Join(disk) => std::mem::replace(&mut self.disks[disk].cut, false),
            Step::Heartbeat(disk) => {
                let may = self.disks[disk].up && !self.disks[disk].cut;
                if may {
                    self.heartbeat(disk);
                }
                may
            }
            Step::Down(disk) => {
                let reached = self.disks[disk].up && !self.disks[disk].cut;
                let may = !reached && self.lives[&id(disk)] == Life::Up;
                if may {
                    self.lives.insert(id(disk), Life::Down);
                    self.control();
                }
                may
            }
            Step::Up(disk) => {
                let reached = self.disks[disk].up && !self.disks[disk].cut;
                let may = reached && self.lives[&id(disk)] == Life::Down;
                if may {
                    self.lives.insert(id(disk), Life::Up);
                    self.world
                        .act(Action::SetDisks(vec![(id(disk), DiskState::In)]))
                        .unwrap();
                    self.control();
                }
                may
            }
            Step::Out(disk) => {
                let state = self.map().topology.disks[&id(disk)].state;
                let may = self.lives[&id(disk)] == Life::Down && state == DiskState::In;
                if may {
                    self.world
                        .act(Action::SetDisks(vec![(id(disk), DiskState::Out)]))
                        .unwrap();
                    self.control();
                }
                may
            }
            Step::List(disk, source) => self.list(disk, source),
            Step::Fetch(disk, chunk) => self.fetch(disk, chunk),
            Step::Report(disk) => {
                let may = self.has_everything(disk);
                if may {
                    let found = &mut self.disks[disk];
                    found.report = found.listing.as_ref().map(|listing| listing.epoch);
                }
                may
            }
            Step::TakeReport(disk) => {
                let Some(epoch) = self.disks[disk].report.take() else {
                    return false;
                };
                let report = Complete {
                    disk: id(disk),
                    pool: POOL,
                    pg: PG,
                    epoch,
                };
                self.world.act(Action::Complete(vec![report])).unwrap();
                self.control();
                true
            }
            Step::Delete(disk) => {
                let found = &mut self.disks[disk];
                let licensed = found.licence.is_some_and(|epoch| epoch == found.known);
                let may = found.up && licensed && found.durable.iter().any(|len| *len > 0);
                if may {
                    found.durable.fill(0);
                    found.received.fill(0);
                    found.broken.fill(true);
                }
                may
            }
        }
    }

    fn crash(&mut self, disk: usize) {
        let found = &mut self.disks[disk];
        found.up = false;
        found.received = found.durable.clone();
        for (joined, broken) in found.joined.iter().zip(&mut found.broken) {
            *broken |= joined;
        }
        (found.known, found.row) = (Epoch::ZERO, Row::default());
        (found.listing, found.licence) = (None, None);
    }
}
