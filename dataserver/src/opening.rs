//! The disks of a starting dataserver: from directories to registered disks.
//!
//! An empty directory becomes a disk only after the metaservers have said so: it may be the mount point of
//! a disk whose file system is not mounted. So: look at all, open those that are disks, register, format
//! the new ones with the ids that the registration gave, and register their first start. A disk that is broken, or that
//! the metaservers refuse, keeps no other from serving.

use crate::config::DataserverConfig;
use crate::disk::{Disk, DiskIdentity, DiskOptions, Space, State, nameless, replacing};
use crate::disks::{Disks, report_of, share_capacity};
use quarry_common::ids::{ClusterId, DiskId, OpenNumber};
use quarry_common::wire::meta::DiskReport;
use quarry_common::{Code, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

/// The directories of a starting dataserver, in the order of its configuration.
pub struct Directories {
    found: Vec<Found>,
    /// Disks that can not be opened. They are not registered, since nothing was read of their last start,
    /// but heartbeats report them.
    broken: Vec<DiskReport>,
    cluster: ClusterId,
    options: DiskOptions,
    replace: Vec<PathBuf>,
}

enum Found {
    /// A disk, open.
    Open(Disk),
    /// Nothing yet.
    Empty(PathBuf),
}

impl Directories {
    /// Looks at every directory and opens those that are disks, all at the same time. Changes nothing else. Blocks for as
    /// long as recovery takes.
    ///
    /// # Errors
    /// What an operator must settle: another cluster's disk, a directory with other files in it, one in
    /// use, one without permission, a newer format. A disk that can not be opened for another reason is none of these: the
    /// others serve without it.
    pub fn open(config: &DataserverConfig, cluster: ClusterId) -> Result<Directories> {
        let options = DiskOptions {
            direct_io: config.direct_io,
            ..DiskOptions::default()
        };
        let mut found = Vec::with_capacity(config.disks.len());
        let mut broken = Vec::new();
        let looks = std::thread::scope(|scope| {
            let look = |path| {
                std::thread::Builder::new()
                    .name("disk-opener".into())
                    .spawn_scoped(scope, move || look(path, cluster, options))
            };
            let begun: Vec<_> = config.disks.iter().map(|disk| look(&disk.path)).collect();
            let end = |look: std::io::Result<ScopedJoinHandle<Result<Look>>>| {
                let look = look.map_err(|error| {
                    let text = format!("can not start a thread: {error}");
                    Error::new(Code::Overloaded, text)
                })?;
                let lost = |_| Err(Error::bug("a look at a disk was lost"));
                look.join().unwrap_or_else(lost)
            };
            begun.into_iter().map(end).collect::<Vec<_>>()
        });
        for (disk, look) in config.disks.iter().zip(looks) {
            match look {
                Ok(Ok(one)) => {
                    if let Found::Open(there) = &one
                        && config.replace_disk.contains(&disk.path)
                    {
                        tracing::warn!(
                            "replace_disk: {} is not gone: disk {} is there and goes on as it is",
                            disk.path.display(),
                            there.identity().disk
                        );
                    }
                    found.push(one);
                }
                Ok(Err(report)) => broken.push(report),
                Err(error) if is_breakage(&error) => {
                    tracing::error!(
                        "{} can not be read and is left out: {error}",
                        disk.path.display()
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Directories {
            found,
            broken,
            cluster,
            options,
            replace: config.replace_disk.clone(),
        })
    }

    /// What to tell the metaservers. Blocks.
    pub fn reports(&self) -> Vec<DiskReport> {
        let mut reports: Vec<DiskReport> = self
            .found
            .iter()
            .map(|found| match found {
                Found::Open(disk) => report_of(disk),
                Found::Empty(path) => self.report_of_empty(path),
            })
            .collect();
        let paths: Vec<PathBuf> = reports
            .iter()
            .map(|report| PathBuf::from(&report.path))
            .collect();
        share_capacity(&mut reports, paths.iter());
        reports
    }

    fn report_of_empty(&self, path: &Path) -> DiskReport {
        let existing = path.ancestors().find(|path| path.exists());
        let space = existing.and_then(|path| Space::of(path).ok());
        DiskReport {
            disk: None,
            path: path.display().to_string(),
            replaces_lost: self.replace.iter().any(|replaced| replaced == path),
            previous_open: OpenNumber(0),
            open_number: OpenNumber(0),
            total: space.map_or(0, |space| space.total),
            free: space.map_or(0, |space| space.free),
            chunks: 0,
            failed: None,
            trash: 0,
            lost: 0,
            copied: 0,
        }
    }

    /// Whether there are directories that are to become disks.
    pub fn has_new(&self) -> bool {
        let is_new = |found: &Found| matches!(found, Found::Empty(_));
        self.found.iter().any(is_new)
    }

    /// Makes disks of the empty directories, with the ids that the registration gave, in its order. One that can not be made
    /// is left out: the others serve without it. Blocks.
    ///
    /// # Errors
    /// Those of [`Disk::format`] and [`Disk::open`] that an operator must settle; `Malformed` for an answer of another length.
    pub fn format_new(&mut self, ids: &[DiskId]) -> Result<()> {
        if ids.len() != self.found.len() {
            return Err(Error::malformed(format!(
                "{} disks were registered, the metaserver answered with {} ids",
                self.found.len(),
                ids.len()
            )));
        }
        for (found, disk) in std::mem::take(&mut self.found).into_iter().zip(ids) {
            let Found::Empty(path) = found else {
                self.found.push(found);
                continue;
            };
            let identity = DiskIdentity {
                cluster: self.cluster,
                disk: *disk,
            };
            let opened = Disk::format(&path, identity).and_then(|()| {
                tracing::info!("{} is now disk {disk}", path.display());
                Disk::open(&path, self.cluster, self.options)
            });
            match opened {
                Ok(opened) => self.found.push(Found::Open(opened)),
                Err(error) if is_to_be_settled(&error) => return Err(error),
                Err(error) => self.broken.push(broken(*disk, &path, error)),
            }
        }
        Ok(())
    }

    /// Whether two directories say that they are the same disk: one is a copy, and an operator must say which.
    pub fn has_copies(&self) -> bool {
        let mut seen = BTreeSet::new();
        let mut ids = self.found.iter().filter_map(Found::id);
        !ids.all(|id| seen.insert(id))
    }

    /// Leaves out those that the metaservers refuse, by their place in the reports: the others serve without them. Blocks.
    pub fn leave_out(&mut self, mut refused: BTreeMap<usize, Error>) {
        for (at, found) in std::mem::take(&mut self.found).into_iter().enumerate() {
            match (refused.remove(&at), found) {
                (None, found) => self.found.push(found),
                (Some(error), Found::Open(disk)) => {
                    let report = broken(disk.identity().disk, disk.path(), error);
                    self.broken.push(report);
                }
                (Some(error), Found::Empty(path)) => {
                    let path = path.display();
                    tracing::error!("{path} is left out: {error}");
                }
            }
        }
    }

    /// Remembers on every disk that its start is registered. A disk that can not is left out: the others serve
    /// without it. Blocks.
    pub fn confirm(&mut self) {
        let found = std::mem::take(&mut self.found);
        for found in found {
            match &found {
                Found::Open(disk) => match disk.confirm_start() {
                    Ok(()) => self.found.push(found),
                    Err(error) => {
                        let path = disk.path();
                        self.broken.push(broken(disk.identity().disk, path, error));
                    }
                },
                Found::Empty(_) => self.found.push(found),
            }
        }
    }

    /// The disks, once there are no empty directories any more.
    pub fn into_disks(self) -> Disks {
        let open = self.found.into_iter().filter_map(|found| match found {
            Found::Open(disk) => Some(disk),
            Found::Empty(_) => None,
        });
        Disks::new(open.collect(), self.broken)
    }
}

impl Found {
    fn id(&self) -> Option<DiskId> {
        match self {
            Found::Open(disk) => Some(disk.identity().disk),
            Found::Empty(_) => None,
        }
    }
}

/// What a directory is; the report of a disk that is broken.
type Look = Result<Found, DiskReport>;

fn look(path: &Path, cluster: ClusterId, options: DiskOptions) -> Result<Look> {
    let identity = match Disk::inspect(path)? {
        State::Missing | State::Empty => return Ok(Ok(Found::Empty(path.to_path_buf()))),
        State::Foreign => {
            return Err(Error::new(
                Code::Configuration,
                format!(
                    "{} is not empty and is no disk of a cluster: name an empty directory, or mount the right file system there",
                    path.display()
                ),
            ));
        }
        State::Nameless => return Err(nameless(path)),
        State::Formatted(identity) => identity,
    };
    match Disk::open(path, cluster, options) {
        Ok(disk) => Ok(Ok(Found::Open(disk))),
        Err(error) if error.code == Code::NotFound => {
            let Error { text, source, .. } = error;
            let text = format!(
                "{text}: a part of the disk is missing; put it back; {}",
                replacing(path)
            );
            let error = Error {
                code: Code::NotFound,
                text,
                source,
            };
            Ok(Err(broken(identity.disk, path, error)))
        }
        Err(error) if is_to_be_settled(&error) => Err(error),
        Err(error) => Ok(Err(broken(identity.disk, path, error))),
    }
}

/// What is reported of a disk that does not serve.
fn broken(disk: DiskId, path: &Path, error: Error) -> DiskReport {
    tracing::error!("disk {disk} does not serve: {error}");
    DiskReport {
        disk: Some(disk),
        path: path.display().to_string(),
        replaces_lost: false,
        previous_open: OpenNumber(0),
        open_number: OpenNumber(0),
        total: 0,
        free: 0,
        chunks: 0,
        failed: Some(error.text),
        trash: 0,
        lost: 0,
        copied: 0,
    }
}

/// Whether an error of a disk whose identity is known is for an operator to settle; after any other the disk is broken.
fn is_to_be_settled(error: &Error) -> bool {
    matches!(
        error.code,
        Code::Configuration | Code::Busy | Code::AccessDenied | Code::TooNew
    )
}

/// Whether an error of a directory of which nothing is known means that it is broken, not that the configuration is.
fn is_breakage(error: &Error) -> bool {
    matches!(
        error.code,
        Code::Io
            | Code::DiskFailed
            | Code::ReadOnly
            | Code::ChecksumMismatch
            | Code::DiskFull
            | Code::Overloaded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiskConfig;
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    const CLUSTER: ClusterId = ClusterId([1; 16]);

    /// A configuration with disks 1 and 2, which are formatted.
    fn two_disks() -> (tempfile::TempDir, DataserverConfig) {
        let dir = tempfile::tempdir().unwrap();
        let config = DataserverConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            metaservers: Vec::new(),
            host: None,
            rack: String::new(),
            zone: String::new(),
            disks: Vec::from([1, 2].map(|disk| DiskConfig {
                path: dir.path().join(format!("disk-{disk}")),
            })),
            direct_io: true,
            replace_disk: Vec::new(),
            collect_every_seconds: 3_600,
        };
        for (disk, at) in [1, 2].map(DiskId).into_iter().zip(&config.disks) {
            let cluster = CLUSTER;
            Disk::format(&at.path, DiskIdentity { cluster, disk }).unwrap();
        }
        (dir, config)
    }

    fn served(directories: Directories) -> Vec<u32> {
        let disks = directories.into_disks();
        disks.all().map(|disk| disk.identity().disk.0).collect()
    }

    fn failed(directories: &Directories) -> Vec<Option<DiskId>> {
        let broken = directories.broken.iter();
        broken.map(|report| report.disk).collect()
    }

    #[test]
    fn a_disk_without_one_of_its_folders_keeps_no_other_from_serving() {
        for folder in ["chunks/ab", "segments", "trash", "aside"] {
            let (_dir, config) = two_disks();
            fs::remove_dir(config.disks[0].path.join(folder)).unwrap();
            let directories = Directories::open(&config, CLUSTER).unwrap();
            assert_eq!(failed(&directories), [Some(DiskId(1))], "{folder}");
            let why = directories.broken[0].failed.clone().unwrap();
            for part in [folder, "put it back", "--replace-disk", "/disk-1'"] {
                assert!(why.contains(part), "{part} in {why}");
            }
            assert_eq!(served(directories), [2], "{folder}");
        }
    }

    #[test]
    fn what_an_operator_must_settle_is_refused() {
        let (_dir, config) = two_disks();
        let in_use = Disk::open(&config.disks[0].path, CLUSTER, DiskOptions::default());
        let refused = Directories::open(&config, CLUSTER).err().unwrap();
        assert_eq!(refused.code, Code::Busy);
        drop(in_use);
        let other = Directories::open(&config, ClusterId([2; 16])).err();
        assert_eq!(other.unwrap().code, Code::Configuration);
        let directories = Directories::open(&config, CLUSTER).unwrap();
        assert!(!directories.has_copies());
        assert_eq!(served(directories), [1, 2]);
        let identity = config.disks[0].path.join("identity");
        fs::copy(identity, config.disks[1].path.join("identity")).unwrap();
        let directories = Directories::open(&config, CLUSTER).unwrap();
        assert!(directories.has_copies());
    }

    #[test]
    fn a_disk_without_its_identity_is_refused_with_what_to_do() {
        let (_dir, config) = two_disks();
        drop(Directories::open(&config, CLUSTER).unwrap());
        let path = &config.disks[0].path;
        fs::remove_file(path.join("identity")).unwrap();
        let refused = Directories::open(&config, CLUSTER).err().unwrap();
        assert_eq!(refused.code, Code::Configuration);
        let replaced = format!("--replace-disk {}'", path.display());
        for part in ["'identity' is gone", "backup", &replaced] {
            assert!(refused.text.contains(part), "{part} in {refused}");
        }
    }

    #[test]
    fn a_directory_that_can_not_be_made_a_disk_keeps_no_other_from_serving() {
        let (_dir, config) = two_disks();
        for disk in &config.disks {
            fs::remove_dir_all(&disk.path).unwrap();
        }
        // In the way of its identity.
        fs::create_dir_all(config.disks[0].path.join("identity.new")).unwrap();
        let mut directories = Directories::open(&config, CLUSTER).unwrap();
        directories.format_new(&[DiskId(1), DiskId(2)]).unwrap();
        assert_eq!(failed(&directories), [Some(DiskId(1))]);
        assert!(!directories.has_new());
        assert_eq!(served(directories), [2]);
    }

    /// The first one does not go on until the second one has begun its start.
    #[test]
    fn disks_are_opened_at_the_same_time() {
        let (_dir, config) = two_disks();
        drop(Directories::open(&config, CLUSTER).unwrap());
        let [slow, other] = [0, 1].map(|at| config.disks[at].path.join("open"));
        let (number, of_other) = (fs::read(&slow).unwrap(), fs::read(&other).unwrap());
        fs::remove_file(&slow).unwrap();
        fs::remove_file(&other).unwrap();
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, &slow, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let in_time = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let began = Instant::now();
                while !other.exists() && began.elapsed() < Duration::from_secs(5) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                in_time.store(other.exists(), Ordering::Release);
                fs::write(&slow, &number).unwrap();
            });
            let directories = Directories::open(&config, CLUSTER).unwrap();
            assert_eq!(served(directories), [1, 2]);
        });
        assert!(in_time.load(Ordering::Acquire));
        assert_ne!(fs::read(&other).unwrap(), of_other);
    }
}
