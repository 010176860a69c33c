//! `quarry umount`.

use crate::context::Context;
use anyhow::Result;
use quarry_mount::{Unmount, unmount};
use std::path::PathBuf;

/// Umount a cluster, whether or not it can be reached
///
/// Returns when the mount has ended. umount(8) does as well, but does not wait for that.
#[derive(Debug, clap::Args)]
pub struct Umount {
    /// Out of sight at once, though something in it is in use: it ends when the last file is closed
    #[arg(short, long)]
    lazy: bool,
    /// Let fail what waits for the cluster: what was not synced is lost
    #[arg(short, long)]
    force: bool,
    /// Where it is mounted
    mountpoint: PathBuf,
}

impl Umount {
    /// Runs it.
    ///
    /// # Errors
    /// Nothing of ours is mounted there; it is in use.
    pub fn run(self, _context: &Context) -> Result<()> {
        let how = Unmount {
            lazy: self.lazy,
            force: self.force,
        };
        if let Some(process) = unmount(&self.mountpoint, how)? {
            eprintln!(
                "quarry: umount: {}: process {process} still writes out what was left in memory",
                self.mountpoint.display()
            );
        }
        Ok(())
    }
}
