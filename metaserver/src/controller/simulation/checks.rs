//! What must hold after every step, and in the end.

use super::*;

impl Group {
    /// What is broken, if anything.
    fn broken(&self) -> Option<String> {
        for (number, chunk) in self.chunks.iter().enumerate() {
            let len = chunk.committed;
            if len == 0 {
                continue;
            }
            if !self.disks.iter().any(|disk| disk.durable[number] >= len) {
                return Some(format!("durable: nobody has x{number}[0,{len})"));
            }
            let lacks = |(disk, found): &(usize, &Disk)| {
                !found.lost && found.durable[number] < len && self.is_complete(*disk)
            };
            if let Some((disk, _)) = self.disks.iter().enumerate().find(lacks) {
                return Some(format!("complete: d{disk} lacks x{number}[0,{len})"));
            }
        }
        None
    }

    pub(super) fn check(&self) {
        if let Some(what) = self.broken() {
            panic!("{what}\n{}", self.trace.join("\n"));
        }
    }

    /// Faults end, clients end, and everything that can happen does.
    pub(super) fn settle(&mut self) {
        for disk in 0..self.bounds.disks {
            self.step(Step::Join(disk));
            self.step(Step::Restart(disk));
        }
        for chunk in &mut self.chunks {
            (chunk.writing, chunk.ended) = (false, true);
        }
        for _ in 0..12 {
            for disk in 0..self.bounds.disks {
                self.step(Step::Down(disk));
                self.step(Step::Out(disk));
                self.step(Step::Up(disk));
                self.step(Step::Heartbeat(disk));
                self.step(Step::TakeReport(disk));
                for source in 0..self.bounds.disks {
                    self.step(Step::List(disk, source));
                }
                for chunk in 0..self.bounds.chunks {
                    self.step(Step::Fetch(disk, chunk));
                }
                self.step(Step::Report(disk));
                self.step(Step::TakeReport(disk));
                self.step(Step::Heartbeat(disk));
                self.step(Step::Delete(disk));
            }
        }
        let here = self.disks.iter().filter(|disk| !disk.lost).count();
        if here < usize::from(self.bounds.min_members) {
            return;
        }
        let trace = || self.trace.join("\n");
        assert!(
            self.is_clean(),
            "never clean: {:?}\n{}",
            self.row(),
            trace()
        );
        let wanted = here.min(self.bounds.replicas.into());
        assert_eq!(self.row().present(), wanted, "{}", trace());
        for (number, chunk) in self.chunks.iter().enumerate() {
            for disk in self.members().into_iter().flatten() {
                let has = self.disks[disk].durable[number];
                assert!(
                    has >= chunk.committed,
                    "d{disk} lacks x{number}\n{}",
                    trace()
                );
            }
        }
    }
}
