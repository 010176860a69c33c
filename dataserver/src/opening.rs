//! The disks of a starting dataserver: from directories to registered disks.
//!
//! An empty directory becomes a disk only after the metaservers have said so: it may be the mount point of
//! a disk whose file system is not mounted. So: look at all, open those that are disks, register, format
//! the new ones with the ids that the registration gave, and register their first start.

use crate::config::DataserverConfig;
use crate::disk::{Disk, DiskIdentity, DiskOptions, Space, State};
use crate::disks::{Disks, report_of, share_capacity};
use quarry_common::ids::{ClusterId, DiskId, OpenNumber};
use quarry_common::wire::meta::DiskReport;
use quarry_common::{Code, Error, Result};
use std::path::{Path, PathBuf};

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
    /// Looks at every directory and opens those that are disks. Changes nothing else. Blocks for as long as
    /// recovery takes.
    ///
    /// # Errors
    /// What an operator must settle: another cluster's disk, a directory with other files in it, one in
    /// use, one without permission, a newer format. A disk with IO errors is none of these: the others
    /// serve without it.
    pub fn open(config: &DataserverConfig, cluster: ClusterId) -> Result<Directories> {
        let options = DiskOptions {
            direct_io: config.direct_io,
            ..DiskOptions::default()
        };
        let mut found = Vec::with_capacity(config.disks.len());
        let mut broken = Vec::new();
        for disk in &config.disks {
            match look(&disk.path, cluster, options) {
                Ok(Ok(one)) => found.push(one),
                Ok(Err(report)) => broken.push(report),
                Err(error) if is_breakage(&error) => {
                    tracing::error!(
                        "{} can not be read and is left out; the other disks serve on: {error}",
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

    /// Makes disks of the empty directories, with the ids that the registration gave, in its order. Blocks.
    ///
    /// # Errors
    /// Those of [`Disk::format`] and [`Disk::open`]; `Malformed` for an answer of another length.
    pub fn format_new(&mut self, ids: &[DiskId]) -> Result<()> {
        if ids.len() != self.found.len() {
            return Err(Error::malformed(format!(
                "{} disks were registered, the metaserver answered with {} ids",
                self.found.len(),
                ids.len()
            )));
        }
        for (found, disk) in self.found.iter_mut().zip(ids) {
            let Found::Empty(path) = found else {
                continue;
            };
            let identity = DiskIdentity {
                cluster: self.cluster,
                disk: *disk,
            };
            Disk::format(path, identity)?;
            tracing::info!("{} is now disk {disk}", path.display());
            *found = Found::Open(Disk::open(path, self.cluster, self.options)?);
        }
        Ok(())
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

/// What a directory is; the report of a disk that is broken.
fn look(
    path: &Path,
    cluster: ClusterId,
    options: DiskOptions,
) -> Result<Result<Found, DiskReport>> {
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
        State::Formatted(identity) => identity,
    };
    match Disk::open(path, cluster, options) {
        Ok(disk) => Ok(Ok(Found::Open(disk))),
        Err(error) if is_breakage(&error) => Ok(Err(broken(identity.disk, path, error))),
        Err(error) => Err(error),
    }
}

/// What is reported of a disk that does not serve.
fn broken(disk: DiskId, path: &Path, error: Error) -> DiskReport {
    tracing::error!("disk {disk} does not serve, the others do: {error}");
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

/// Whether an error means that the disk is broken, not that the configuration is.
fn is_breakage(error: &Error) -> bool {
    matches!(
        error.code,
        Code::Io | Code::DiskFailed | Code::ReadOnly | Code::ChecksumMismatch | Code::DiskFull
    )
}
