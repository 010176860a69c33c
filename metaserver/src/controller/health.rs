//! Which dataservers the leader has heard of lately, and what they said: soft state.

use quarry_common::ids::{DiskId, ServerId};
use quarry_common::limits::DOWN_AFTER;
use quarry_common::map::ClusterMap;
use quarry_common::wire::meta::{DiskReport, DiskStatus, ServerStatus};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What each dataserver last said, and when.
#[derive(Debug, Default)]
pub struct Health {
    heard: HashMap<ServerId, (Instant, Vec<DiskReport>)>,
}

impl Health {
    /// A dataserver gave a sign of life.
    pub fn handle_heartbeat(&mut self, server: ServerId, disks: Vec<DiskReport>, now: Instant) {
        self.heard.insert(server, (now, disks));
    }

    /// How long ago it was heard.
    pub fn silence(&self, server: ServerId, now: Instant) -> Option<Duration> {
        self.heard
            .get(&server)
            .map(|(at, _)| now.saturating_duration_since(*at))
    }

    /// Whether a disk serves: its server was heard lately and reported it healthy.
    pub fn is_up(&self, map: &ClusterMap, disk: DiskId, now: Instant) -> bool {
        let Some(server) = map.topology.disks.get(&disk).map(|disk| disk.server) else {
            return false;
        };
        let lately = self
            .silence(server, now)
            .is_some_and(|silence| silence < DOWN_AFTER);
        lately
            && self
                .report(server, disk)
                .is_some_and(|report| report.failed.is_none())
    }

    fn report(&self, server: ServerId, disk: DiskId) -> Option<&DiskReport> {
        self.heard
            .get(&server)?
            .1
            .iter()
            .find(|report| report.disk == Some(disk))
    }

    /// All servers of the map and their disks, for status pages.
    pub fn servers(&self, map: &ClusterMap, now: Instant) -> Vec<ServerStatus> {
        let mut groups: HashMap<DiskId, u32> = HashMap::new();
        for row in map.rows.values().flatten() {
            row.chain()
                .for_each(|disk| *groups.entry(disk).or_default() += 1);
        }
        let status = |(id, server): (&ServerId, &quarry_common::map::Server)| ServerStatus {
            server: *id,
            address: server.address.clone(),
            host: server.host.clone(),
            heard_ms_ago: self
                .silence(*id, now)
                .map(|silence| silence.as_millis() as u64),
            disks: map
                .disks_of(*id)
                .map(|(disk, known)| DiskStatus {
                    disk,
                    up: self.is_up(map, disk, now),
                    groups: groups.get(&disk).copied().unwrap_or_default(),
                    report: self
                        .report(*id, disk)
                        .cloned()
                        .unwrap_or_else(|| DiskReport {
                            disk: Some(disk),
                            path: known.path.clone(),
                            replaces_lost: false,
                            previous_open: known.open_number,
                            open_number: known.open_number,
                            total: 0,
                            free: 0,
                            chunks: 0,
                            failed: None,
                            trash: 0,
                            lost: 0,
                        }),
                })
                .collect(),
        };
        map.topology.servers.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::counts::tests::cluster;
    use quarry_common::ids::OpenNumber;

    #[test]
    fn a_disk_is_up_while_its_server_is_heard_and_says_it_is_well() {
        let map = cluster(3);
        let now = Instant::now();
        let mut health = Health::default();
        assert!(
            !health.is_up(&map, DiskId(1), now),
            "a new leader has heard nobody"
        );
        let mut report = DiskReport {
            disk: Some(DiskId(1)),
            path: "/d1".into(),
            replaces_lost: false,
            previous_open: OpenNumber(0),
            open_number: OpenNumber(1),
            total: 100,
            free: 50,
            chunks: 0,
            failed: None,
            trash: 0,
            lost: 0,
        };
        health.handle_heartbeat(ServerId(1), vec![report.clone()], now);
        assert!(health.is_up(&map, DiskId(1), now));
        assert!(!health.is_up(&map, DiskId(1), now + DOWN_AFTER));
        report.failed = Some("fsync: EIO".into());
        health.handle_heartbeat(ServerId(1), vec![report], now);
        assert!(!health.is_up(&map, DiskId(1), now));
        assert_eq!(health.servers(&map, now)[0].disks[0].groups, 16);
    }
}
