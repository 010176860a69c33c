//! A power cut: a file system of its own on a loop device that forgets what was not synced.
//!
//! SIGKILL proves nothing about syncs, since the page cache survives it. `shutdown` of the
//! file system drops everything that did not reach the device, names included.

use crate::run::tool;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// An ext4 on a loop device, unmounted when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

impl LoopDisk {
    /// Makes one of `len` bytes below the folder `at`; the image is sparse.
    pub fn new(at: &Path, name: &str, len: u64) -> Result<LoopDisk> {
        let disk = LoopDisk {
            image: at.join(format!("{name}.img")),
            mount: at.join(name),
        };
        fs::File::create(&disk.image)?.set_len(len)?;
        fs::create_dir(&disk.mount)?;
        tool(
            "mkfs.ext4",
            [
                text("-q"),
                text("-F"),
                text("-m"),
                text("0"),
                disk.image.as_os_str().into(),
            ],
        )?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&self) -> Result<()> {
        let args = [
            text("-o"),
            text("loop"),
            self.image.as_os_str().into(),
            self.mount.as_os_str().into(),
        ];
        tool("mount", args).map(drop)
    }

    /// Nothing more is written to it.
    fn shut_down(&self) -> Result<()> {
        let words = [text("-x"), text("-c"), text("shutdown")];
        tool(
            "xfs_io",
            words.into_iter().chain([self.mount.as_os_str().into()]),
        )
        .map(drop)
    }

    /// Ends it for good. Nobody reads it any more: so it need not be written either.
    fn end(&self) -> Result<()> {
        self.shut_down()?;
        fs::File::create(&self.image)?;
        tool("umount", [&self.mount]).map(drop)
    }

    /// Drops everything that was not synced. All processes that used it must be dead.
    ///
    /// Fails if the cut did not take effect: the bytes of a file that was written just before, and never
    /// synced, must be gone. (Its name may stay: the journal may be written at any time.)
    pub fn cut_power(&self) -> Result<()> {
        let witness = self
            .mount
            .join(format!("not synced {:08x}", rand::random::<u32>()));
        let bytes = b"this must be lost";
        fs::write(&witness, bytes)?;
        self.shut_down()?;
        tool("umount", [&self.mount])?;
        self.mount()?;
        let is_lost = fs::read(&witness).map_or(true, |found| found != bytes);
        ensure!(is_lost, "the power cut lost nothing: it was none");
        Ok(())
    }
}

fn text(word: &str) -> std::ffi::OsString {
    word.into()
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Err(error) = self.end().context("unmount a loop disk") {
            eprintln!("{error:#}");
        }
    }
}
