//! A dataserver starts and says which disks it has: which of them the cluster believes.

use quarry_common::ids::{DiskId, OpenNumber, ServerId};
use quarry_common::map::{Disk, DiskState, Server, Topology};
use quarry_common::wire::meta::{DiskReport, Registration};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeSet;

/// Data directories of one dataserver: more than any machine has.
pub const DISKS_PER_SERVER_MAX: usize = 256;
/// Bytes of an address, a label or a path.
const TEXT_LEN_MAX: usize = 4096;

/// Takes a registration over into `topology`, new disks with ids from `next_disk` on, and returns
/// the id of each disk in the order of the registration. On an error both are as they were.
///
/// A new disk has open number 0 until it registers its first start. A disk is believed only if the
/// start before this one is the recorded one: else it was rolled back, or it is a copy. The same registration twice
/// gives the same ids.
///
/// # Errors
/// `Configuration`; the text names disk, path and server, and what an operator can do.
pub fn register(
    topology: &mut Topology,
    next_disk: &mut u32,
    server: ServerId,
    registration: &Registration,
) -> Result<Vec<DiskId>> {
    check_texts(server, registration)?;
    let mut changed = topology.clone();
    let mut fresh = *next_disk;
    let mut ids = Vec::with_capacity(registration.disks.len());
    for report in &registration.disks {
        let id = match report.disk {
            Some(disk) => {
                known(topology, server, report, disk)?;
                disk
            }
            None => match unused(topology, server, registration, report)? {
                Empty::Again(disk) => disk,
                Empty::New { lost } => {
                    for lost in lost {
                        if let Some(lost) = changed.disks.get_mut(&lost) {
                            lost.state = DiskState::Out;
                        }
                    }
                    let id = DiskId(fresh);
                    fresh = fresh
                        .checked_add(1)
                        .ok_or_else(|| refuse("all disk ids are used up"))?;
                    id
                }
            },
        };
        let state = topology
            .disks
            .get(&id)
            .map_or(DiskState::In, |disk| disk.state);
        let open_number = report.disk.map_or(OpenNumber(0), |_| report.open_number);
        let disk = Disk {
            server,
            path: report.path.clone(),
            weight: weight(report.total),
            state,
            open_number,
        };
        changed.disks.insert(id, disk);
        ids.push(id);
    }
    let Registration {
        address,
        host,
        rack,
        zone,
        ..
    } = registration.clone();
    changed.servers.insert(
        server,
        Server {
            address,
            host,
            rack,
            zone,
        },
    );
    *topology = changed;
    *next_disk = fresh;
    Ok(ids)
}

/// The weight of a disk with `total` bytes: MiB, at least 1.
pub fn weight(total: u64) -> u32 {
    u32::try_from(total >> 20).unwrap_or(u32::MAX).max(1)
}

fn refuse(text: impl Into<String>) -> Error {
    Error::new(Code::Configuration, text)
}

/// Refuses what is too long, and what names one disk or path twice.
fn check_texts(server: ServerId, registration: &Registration) -> Result<()> {
    let Registration {
        address,
        host,
        rack,
        zone,
        disks,
    } = registration;
    let labels = [
        ("address", address),
        ("host", host),
        ("rack", rack),
        ("zone", zone),
    ];
    let paths = disks.iter().map(|report| ("data directory", &report.path));
    for (what, text) in labels.into_iter().chain(paths) {
        if text.len() > TEXT_LEN_MAX {
            let len = text.len();
            return Err(refuse(format!(
                "the {what} of dataserver {server} has {len} bytes, {TEXT_LEN_MAX} are the most"
            )));
        }
    }
    if address.is_empty() || host.is_empty() {
        let what = if host.is_empty() {
            "host label"
        } else {
            "address"
        };
        return Err(refuse(format!(
            "dataserver {server} has no {what}: set it in its configuration"
        )));
    }
    if disks.len() > DISKS_PER_SERVER_MAX {
        let count = disks.len();
        return Err(refuse(format!(
            "dataserver {server} has {count} data directories, {DISKS_PER_SERVER_MAX} are the most: start a second one"
        )));
    }
    let mut paths = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for report in disks {
        if !paths.insert(&report.path) {
            let path = &report.path;
            return Err(refuse(format!(
                "dataserver {server} names its data directory {path} twice: name it once"
            )));
        }
        if let Some(disk) = report.disk
            && !ids.insert(disk)
        {
            let path = &report.path;
            return Err(refuse(format!(
                "two data directories of dataserver {server} are disk {disk}, one of them {path}: one is a copy; take the copy out of the configuration"
            )));
        }
    }
    Ok(())
}

/// Checks a directory that says it is `disk`.
fn known(topology: &Topology, server: ServerId, report: &DiskReport, disk: DiskId) -> Result<()> {
    let path = &report.path;
    let Some(recorded) = topology.disks.get(&disk) else {
        return Err(refuse(format!(
            "{path} of dataserver {server} says it is disk {disk}, which this cluster never made: it is of another cluster or newer than the metaservers' state; \
             name an empty directory instead, or restore the metaservers' newer state"
        )));
    };
    if recorded.server != server {
        let (owner, there) = (recorded.server, &recorded.path);
        return Err(refuse(format!(
            "{path} of dataserver {server} is disk {disk} of dataserver {owner} ({there} there): it was copied to a second server or moved; \
             remove the copy and name an empty directory, or start the disk under dataserver {owner}"
        )));
    }
    let known = recorded.open_number;
    // A retry of the same start's registration has been recorded already.
    let follows =
        known == OpenNumber(0) || known == report.previous_open || known == report.open_number;
    if !follows {
        return Err(refuse(format!(
            "disk {disk} in {path} of dataserver {server} was last opened as {}, the cluster recorded {known}: it was rolled back to an older copy or is a clone; \
             mount the original there, or, if it is lost, name an empty directory and say that the disk is lost (--replace-disk): its data is on other disks",
            report.previous_open
        )));
    }
    Ok(())
}

/// What an empty directory becomes.
enum Empty {
    /// A disk that was made for it before and never opened: the answer was lost.
    Again(DiskId),
    /// A new disk. Those that were at the path are lost.
    New { lost: Vec<DiskId> },
}

fn unused(
    topology: &Topology,
    server: ServerId,
    registration: &Registration,
    report: &DiskReport,
) -> Result<Empty> {
    let elsewhere = |disk: &DiskId| {
        registration
            .disks
            .iter()
            .any(|other| other.disk == Some(*disk))
    };
    let mut before: Vec<DiskId> = topology
        .disks
        .iter()
        .filter(|(id, disk)| {
            disk.server == server
                && disk.path == report.path
                && disk.state != DiskState::Out
                && !elsewhere(id)
        })
        .map(|(id, _)| *id)
        .collect();
    let never_opened = |disk: &DiskId| {
        topology
            .disks
            .get(disk)
            .is_some_and(|disk| disk.open_number == OpenNumber(0))
    };
    if let Some(again) = before.iter().copied().find(never_opened) {
        return Ok(Empty::Again(again));
    }
    match before.first() {
        Some(disk) if !report.replaces_lost => {
            let path = &report.path;
            Err(refuse(format!(
                "{path} of dataserver {server} is empty, but disk {disk} was there: mount its file system and start again; \
                 if the disk is gone for good, say so (--replace-disk), and the directory becomes a new disk"
            )))
        }
        _ => Ok(Empty::New {
            lost: std::mem::take(&mut before),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(disk: Option<u32>, path: &str, previous: u64, open: u64) -> DiskReport {
        DiskReport {
            disk: disk.map(DiskId),
            path: path.into(),
            replaces_lost: false,
            previous_open: OpenNumber(previous),
            open_number: OpenNumber(open),
            total: 10 << 30,
            free: 0,
            chunks: 0,
            failed: None,
            trash: 0,
            lost: 0,
            copied: 0,
        }
    }

    fn registration(disks: Vec<DiskReport>) -> Registration {
        let (rack, zone) = ("r".into(), "z".into());
        Registration {
            address: "127.0.0.1:1".into(),
            host: "h1".into(),
            rack,
            zone,
            disks,
        }
    }

    /// A cluster whose server 1 has disk 1 at `/a`, last opened as 5.
    fn cluster() -> (Topology, u32) {
        let (mut topology, mut next) = (Topology::default(), 1);
        register(
            &mut topology,
            &mut next,
            ServerId(1),
            &registration(vec![report(None, "/a", 0, 0)]),
        )
        .unwrap();
        register(
            &mut topology,
            &mut next,
            ServerId(1),
            &registration(vec![report(Some(1), "/a", 0, 5)]),
        )
        .unwrap();
        (topology, next)
    }

    fn refused(server: u32, reports: Vec<DiskReport>) -> String {
        let (mut topology, mut next) = cluster();
        let before = topology.clone();
        let error = register(
            &mut topology,
            &mut next,
            ServerId(server),
            &registration(reports),
        )
        .unwrap_err();
        assert_eq!(error.code, Code::Configuration);
        assert_eq!(
            (topology, next),
            (before, 2),
            "a refused registration changes nothing"
        );
        error.text
    }

    #[test]
    fn new_disks_get_ids_weight_and_no_open_number() {
        let (mut topology, mut next) = (Topology::default(), 1);
        let disks = vec![report(None, "/a", 0, 9), report(None, "/b", 0, 9)];
        let first = register(
            &mut topology,
            &mut next,
            ServerId(1),
            &registration(disks.clone()),
        )
        .unwrap();
        assert_eq!(first, [DiskId(1), DiskId(2)]);
        assert_eq!(topology.disks[&DiskId(2)].weight, 10 << 10);
        assert_eq!(topology.disks[&DiskId(2)].open_number, OpenNumber(0));
        // The answer was lost: the same ids, no third disk.
        assert_eq!(
            register(&mut topology, &mut next, ServerId(1), &registration(disks)).unwrap(),
            first
        );
        assert_eq!(next, 3);
    }

    #[test]
    fn a_start_that_follows_the_recorded_one_is_believed_and_recorded() {
        let (mut topology, mut next) = cluster();
        let start = registration(vec![report(Some(1), "/moved", 5, 6)]);
        for _ in 0..2 {
            register(&mut topology, &mut next, ServerId(1), &start).unwrap();
        }
        let disk = &topology.disks[&DiskId(1)];
        assert_eq!(
            (disk.open_number, disk.path.as_str()),
            (OpenNumber(6), "/moved")
        );
    }

    #[test]
    fn a_rolled_back_or_cloned_disk_is_refused() {
        let text = refused(1, vec![report(Some(1), "/a", 4, 7)]);
        assert!(
            ["disk 1", "/a", "dataserver 1", "rolled back", "clone"]
                .iter()
                .all(|word| text.contains(word)),
            "{text}"
        );
    }

    #[test]
    fn a_disk_of_another_server_is_refused() {
        let text = refused(2, vec![report(Some(1), "/x", 5, 6)]);
        assert!(
            [
                "disk 1",
                "/x",
                "dataserver 2",
                "dataserver 1",
                "copied to a second server"
            ]
            .iter()
            .all(|word| text.contains(word)),
            "{text}"
        );
    }

    #[test]
    fn a_disk_that_the_cluster_never_made_is_refused() {
        let text = refused(1, vec![report(Some(9), "/x", 5, 6)]);
        assert!(
            ["disk 9", "/x", "another cluster"]
                .iter()
                .all(|word| text.contains(word)),
            "{text}"
        );
    }

    #[test]
    fn two_directories_with_one_identity_are_refused() {
        let text = refused(
            1,
            vec![report(Some(1), "/a", 5, 6), report(Some(1), "/b", 5, 6)],
        );
        assert!(
            text.contains("disk 1") && text.contains("/b") && text.contains("copy"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_directory_where_a_disk_was_is_refused_unless_it_is_said_to_be_lost() {
        let text = refused(1, vec![report(None, "/a", 0, 6)]);
        assert!(
            text.contains("disk 1") && text.contains("/a") && text.contains("--replace-disk"),
            "{text}"
        );
        let (mut topology, mut next) = cluster();
        let new = DiskReport {
            replaces_lost: true,
            ..report(None, "/a", 0, 6)
        };
        let ids = register(
            &mut topology,
            &mut next,
            ServerId(1),
            &registration(vec![new]),
        )
        .unwrap();
        assert_eq!(ids, [DiskId(2)]);
        assert_eq!(topology.disks[&DiskId(1)].state, DiskState::Out);
    }

    #[test]
    fn an_empty_directory_at_the_old_path_of_a_disk_that_moved_is_a_new_disk() {
        let (mut topology, mut next) = cluster();
        let both = registration(vec![report(None, "/a", 0, 6), report(Some(1), "/b", 5, 6)]);
        assert_eq!(
            register(&mut topology, &mut next, ServerId(1), &both).unwrap(),
            [DiskId(2), DiskId(1)]
        );
        assert_eq!(topology.disks[&DiskId(1)].state, DiskState::In);
    }
}
