//! Mounts of a cluster in processes of their own, to be killed and made again.

use crate::cluster::start_and_wait;
use crate::run::tool;
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A mount, umounted when dropped.
#[derive(Debug)]
pub struct Mount {
    place: PathBuf,
    process: Option<Child>,
}

impl Mount {
    /// Mounts at `place`, which is made if it is not there; `command` is `quarry mount` as far as the place.
    pub fn new(mut command: Command, place: &Path) -> Result<Mount> {
        if !place.exists() {
            std::fs::create_dir(place)?;
        }
        command.args(["--foreground", "--"]).arg(place);
        Ok(Mount {
            place: place.to_owned(),
            process: Some(start_and_wait(&mut command)?),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// A path in it.
    pub fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.place.join(name.as_ref())
    }

    /// The process that answers.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Kills the process and takes away what it leaves.
    pub fn kill(mut self) -> Result<()> {
        let mut process = self.process.take().context("the mount was ended")?;
        process.kill()?;
        process.wait()?;
        // Files may be open on it.
        tool("umount", [OsStr::new("-l"), self.place.as_os_str()]).map(drop)
    }

    /// Umounts as `umount(8)` does and waits until the process has ended.
    pub fn end(mut self) -> Result<()> {
        let mut process = self.process.take().context("the mount was ended")?;
        tool("umount", [&self.place])?;
        let status = process.wait()?;
        ensure!(status.success(), "the mount ended with {status}");
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A test has failed: whatever it left open may stay so.
            tool("umount", [OsStr::new("-l"), self.place.as_os_str()]).ok();
            process.kill().ok();
            process.wait().ok();
        }
    }
}
