//! Umounting, whether or not the mount or its cluster answer.

use crate::fs::PROCESS;
use crate::mountpoint::{HELPER, mounted_at, resolved};
use quarry_common::error::{Code, Error, Result};
use rustix::mount::UnmountFlags;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A mount that answers tells its process within this.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// A mount that was umounted still writes out what was left in mappings: it is waited for so long.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How to umount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmount {
    /// Out of sight at once; it ends when its last file is closed.
    pub lazy: bool,
    /// What waits for the cluster fails, and what was not synced is lost.
    pub force: bool,
}

/// Umounts what is at a place; returns the process that still ends, if it does.
///
/// # Errors
/// Nothing of ours is there; it is in use.
pub fn unmount(place: &Path, how: Unmount) -> Result<Option<u32>> {
    let shown = place.display();
    let failed = |text: String| Error::new(Code::Configuration, text);
    let at = resolved(place).map_err(|error| failed(format!("{shown}: {error}")))?;
    let there =
        mounted_at(&at).map_err(|error| failed(format!("/proc/self/mountinfo: {error}")))?;
    match there {
        Some(there) if there.is_ours() => {}
        Some(there) => {
            return Err(failed(format!(
                "{shown}: what is mounted there is {}, not a cluster: use umount(8)",
                there.kind
            )));
        }
        None => return Err(failed(format!("{shown}: nothing is mounted there"))),
    }
    let asked = process_of(&at);
    // Who asked hangs in it, and so does whoever else waits for the cluster: that does not keep it.
    let asked_in_vain = asked.is_err();
    let how = Unmount {
        lazy: how.lazy || asked_in_vain,
        ..how
    };
    let process = asked.unwrap_or_default();
    let mut flags = UnmountFlags::empty();
    flags.set(UnmountFlags::DETACH, how.lazy);
    flags.set(UnmountFlags::FORCE, how.force);
    match rustix::mount::unmount(&at, flags) {
        Ok(()) => {}
        Err(rustix::io::Errno::PERM) => unmount_by_helper(&at, how)?,
        Err(rustix::io::Errno::BUSY) => {
            return Err(Error::new(
                Code::Busy,
                format!(
                    "{shown}: is in use: close what is open in it ('fuser -vm {shown}' shows by whom), or take it out of \
                     sight with 'quarry umount --lazy {shown}'"
                ),
            ));
        }
        Err(error) => return Err(failed(format!("{shown}: can not be umounted: {error}"))),
    }
    if asked_in_vain {
        tracing::warn!(
            "{shown}: the mount or its cluster does not answer: it is out of sight, and what was not synced is tried to be written \
             for a minute"
        );
    }
    // A lazy one may live for as long as a file is open in it.
    Ok(process.filter(|process| !how.lazy && !ends(*process)))
}

/// The mount, or its cluster, does not answer.
struct Silent;

/// The process that answers for a mount, if that can be known.
fn process_of(place: &Path) -> std::result::Result<Option<u32>, Silent> {
    let (send, answer) = std::sync::mpsc::channel();
    let place = place.to_owned();
    std::thread::spawn(move || {
        let name = std::ffi::OsStr::from_bytes(PROCESS);
        // Nobody may wait for it any more.
        send.send(xattr::get(place, name)).ok();
    });
    let answer = answer.recv_timeout(ASK_PATIENCE).map_err(|_| Silent)?;
    // One that is dead has none.
    let value = answer.ok().flatten().unwrap_or_default();
    Ok(String::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok()))
}

/// Waits for a process to end; false if it does not.
fn ends(process: u32) -> bool {
    let begun = Instant::now();
    while is_running(process) {
        if begun.elapsed() > END_PATIENCE {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

/// One that has ended and that nobody has asked about does not run.
fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    let state = stat.ok().and_then(|stat| {
        let (_, after) = stat.rsplit_once(") ")?;
        after.chars().next()
    });
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn unmount_by_helper(place: &Path, how: Unmount) -> Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if how.lazy {
        command.arg("-z");
    }
    let failed = |text: String| {
        let text = format!("{}: can not be umounted: {text}", place.display());
        Error::new(Code::NotPermitted, text)
    };
    let done = command.arg("--").arg(place).output();
    let done = done.map_err(|error| failed(format!("{HELPER}: {error}")))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(failed(
            String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        )),
    }
}
