//! The disks of a dataserver, together.

use crate::disk::Disk;
use quarry_common::ids::DiskId;
use quarry_common::wire::meta::DiskReport;
use quarry_common::{Code, Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The disks of a dataserver. A disk that failed stays among them: it may still serve reads.
pub struct Disks {
    open: BTreeMap<DiskId, Disk>,
    /// Disks that could not be opened, as they are reported.
    broken: Vec<DiskReport>,
}

impl Disks {
    /// Those that were opened and those that could not be.
    pub fn new(open: Vec<Disk>, broken: Vec<DiskReport>) -> Disks {
        let open = open
            .into_iter()
            .map(|disk| (disk.identity().disk, disk))
            .collect();
        Disks { open, broken }
    }

    /// The disk of that id.
    ///
    /// # Errors
    /// `NotMember` if it is not in this server, `DiskFailed` if it could not be opened.
    pub fn get(&self, disk: DiskId) -> Result<&Disk> {
        if let Some(found) = self.open.get(&disk) {
            return Ok(found);
        }
        let broken = self.broken.iter().find(|report| report.disk == Some(disk));
        Err(match broken.and_then(|report| report.failed.as_ref()) {
            Some(why) => Error::new(
                Code::DiskFailed,
                format!("disk {disk} is out of service: {why}"),
            ),
            None => Error::new(
                Code::NotMember,
                format!("disk {disk} is not in this dataserver"),
            ),
        })
    }

    /// All that are open.
    pub fn all(&self) -> impl Iterator<Item = &Disk> {
        self.open.values()
    }

    /// What the metaserver is told of each. Blocks: asks the file systems.
    pub fn reports(&self) -> Vec<DiskReport> {
        self.gather(self.open.values().map(look_at).collect())
    }

    /// What the metaserver is told of those that were looked at, and of those that could not be opened.
    pub fn gather(&self, looked: Vec<Looked>) -> Vec<DiskReport> {
        let devices: Vec<Option<u64>> = looked.iter().map(|looked| looked.device).collect();
        let mut reports: Vec<DiskReport> = looked.into_iter().map(|looked| looked.report).collect();
        share(&mut reports, &devices);
        reports.extend(self.broken.iter().cloned());
        reports
    }
}

/// What was seen of a disk.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What the metaserver is told, as if nobody shared its file system.
    pub report: DiskReport,
    /// Its file system.
    pub device: Option<u64>,
}

/// Looks at a disk. Blocks: asks the file system.
pub fn look_at(disk: &Disk) -> Looked {
    Looked {
        report: report_of(disk),
        device: device_of(disk.path()),
    }
}

impl Looked {
    /// What is told of a disk that has never answered.
    pub fn silent(disk: &Disk) -> Looked {
        Looked {
            report: DiskReport {
                disk: Some(disk.identity().disk),
                path: disk.path().display().to_string(),
                replaces_lost: false,
                previous_open: disk.previous_open_number(),
                open_number: disk.open_number(),
                total: 0,
                free: 0,
                chunks: 0,
                failed: None,
                trash: 0,
                lost: 0,
                copied: 0,
            },
            device: None,
        }
    }
}

/// What the metaserver is told of a disk that is open. Blocks.
pub fn report_of(disk: &Disk) -> DiskReport {
    let (space, failed) = match (disk.space(), disk.failure()) {
        (Ok(space), failure) => (Some(space), failure.map(str::to_owned)),
        (Err(error), failure) => (None, Some(failure.unwrap_or(&error.text).to_owned())),
    };
    DiskReport {
        disk: Some(disk.identity().disk),
        path: disk.path().display().to_string(),
        replaces_lost: false,
        previous_open: disk.previous_open_number(),
        open_number: disk.open_number(),
        total: space.map_or(0, |space| space.total),
        free: space.map_or(0, |space| space.free),
        chunks: disk.counts().files + disk.counts().small,
        failed,
        trash: disk.trash_len(),
        lost: 0,
        copied: 0,
    }
}

/// Divides the capacity of a file system among the disks on it: a cluster of many small disks on one
/// file system would else seem as large as many of them.
pub fn share_capacity(reports: &mut [DiskReport], paths: impl Iterator<Item = impl AsRef<Path>>) {
    let devices: Vec<Option<u64>> = paths.map(|path| device_of(path.as_ref())).collect();
    share(reports, &devices);
}

/// The file system of a path; one that is not there yet will be in its parent's.
fn device_of(path: &Path) -> Option<u64> {
    let found = path.ancestors().find_map(|path| path.metadata().ok());
    found.map(|metadata| metadata.dev())
}

fn share(reports: &mut [DiskReport], devices: &[Option<u64>]) {
    let mut sharers: HashMap<u64, u64> = HashMap::new();
    for device in devices.iter().flatten() {
        *sharers.entry(*device).or_default() += 1;
    }
    for (report, device) in reports.iter_mut().zip(devices) {
        let count = device.map_or(1, |device| sharers[&device]);
        report.total /= count;
        report.free /= count;
    }
}
