//! What a mount is asked to be: flags of the command, and `-o` as mount(8) hands it on.

use crate::ttl::Ttl;
use std::path::PathBuf;
use std::time::Duration;

/// What a mount is asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// The directory of the cluster that is mounted; `/` if left out.
    pub subdir: Option<Vec<u8>>,
    /// Nothing is changed through it. Not if left out.
    pub read_only: Option<bool>,
    /// Not only whoever mounts it may use it.
    pub allow_other: bool,
    /// After so long an operation that waits for the cluster fails; never if left out.
    pub timeout: Option<Duration>,
    /// How long the kernel may believe names and attributes.
    pub ttl: Ttl,
    /// Where the log of a mount in the background goes; to the system's log if left out.
    pub log: Option<PathBuf>,
    /// The client file.
    pub cluster: Option<PathBuf>,
    /// Set-user-id and set-group-id bits and capabilities of programs on it mean nothing. So it is if left out.
    pub no_suid: Option<bool>,
    /// Devices on it are none. They are if left out.
    pub no_dev: Option<bool>,
    /// No program on it is run. They are if left out.
    pub no_exec: Option<bool>,
    /// Each write is waited for until it is durable.
    pub sync: bool,
    /// What is mounted already becomes read-only, or writable again.
    pub remount: bool,
}

/// Options of mount(8) and fstab(5) that say nothing to a file system, or what is so in any case.
const OF_MOUNT: [&str; 21] = [
    "defaults",
    "auto",
    "noauto",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "silent",
    "default_permissions",
];

/// What may stand in `-o`, for an error.
const KNOWN: &str = "ro, allow_other, subdir=DIR, cluster=FILE, timeout=SECONDS, strict, ttl=SECONDS, log=FILE, suid, nodev, \
     noexec, sync, and what mount(8) understands itself";

impl MountOptions {
    /// Adds what a list of `-o` says: `ro,timeout=30`.
    ///
    /// # Errors
    /// What is not understood, with what would be.
    pub fn add(&mut self, list: &str) -> Result<(), String> {
        list.split(',')
            .filter(|option| !option.is_empty())
            .try_for_each(|option| self.add_one(option))
    }

    fn add_one(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("ro", None) => self.read_only = Some(true),
            ("allow_other", None) => self.allow_other = true,
            ("rw", None) => self.read_only = Some(false),
            ("suid", None) => self.no_suid = Some(false),
            ("nosuid", None) => self.no_suid = Some(true),
            ("dev", None) => self.no_dev = Some(false),
            ("nodev", None) => self.no_dev = Some(true),
            ("exec", None) => self.no_exec = Some(false),
            ("noexec", None) => self.no_exec = Some(true),
            ("async", None) => self.sync = false,
            ("sync", None) => self.sync = true,
            ("remount", None) => self.remount = true,
            ("subdir", Some(dir)) => self.set_subdir(dir.as_bytes())?,
            ("cluster", Some(file)) => self.cluster = Some(PathBuf::from(file)),
            ("log", Some(file)) => self.log = Some(PathBuf::from(file)),
            ("timeout", Some(text)) => self.timeout = Some(seconds(option, text)?),
            ("strict", None) => self.ttl = Ttl::NONE,
            ("ttl", Some(text)) => self.ttl = Ttl::of(seconds(option, text)?),
            (name, None) if OF_MOUNT.contains(&name) => {}
            // Comments of fstab(5), and what systemd reads there.
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            ("user", _) | ("comment" | "fsname" | "subtype", Some(_)) => {}
            // What /proc/mounts shows, which mount(8) gives back when it is to remount.
            ("user_id" | "group_id" | "max_read" | "blksize", Some(_)) => {}
            _ => {
                return Err(format!(
                    "'{option}' is no option of a mount; there are: {KNOWN}"
                ));
            }
        }
        Ok(())
    }

    /// Mounts a directory of the cluster.
    ///
    /// # Errors
    /// It is not absolute.
    pub fn set_subdir(&mut self, dir: &[u8]) -> Result<(), String> {
        if !dir.starts_with(b"/") {
            let shown = String::from_utf8_lossy(dir);
            return Err(format!(
                "'{shown}' is no directory of the cluster: these begin with '/'"
            ));
        }
        self.subdir = Some(dir.to_vec());
        Ok(())
    }
}

fn seconds(option: &str, text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.0..=1e9).contains(seconds));
    let seconds = seconds.map(Duration::from_secs_f64);
    seconds.ok_or_else(|| format!("'{option}': '{text}' is no number of seconds: 30 and 0.5 are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Result<MountOptions, String> {
        let mut options = MountOptions::default();
        options.add(list).map(|()| options)
    }

    #[test]
    fn a_line_of_fstab_is_understood() {
        let options = parsed(
            "defaults,_netdev,nofail,x-systemd.automount,ro,allow_other,subdir=/home,timeout=30,nosuid,suid,,noatime,user=ann",
        );
        let expected = MountOptions {
            subdir: Some(b"/home".to_vec()),
            read_only: Some(true),
            allow_other: true,
            no_suid: Some(false),
            timeout: Some(Duration::from_secs(30)),
            ..MountOptions::default()
        };
        assert_eq!(options, Ok(expected));
        let half = Ttl::of(Duration::from_millis(500));
        assert_eq!(parsed("ttl=0.5").unwrap().ttl, half);
        assert_eq!(parsed("strict").unwrap().ttl, Ttl::NONE);
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_would_be() {
        for (list, named) in [
            ("ro,frobnicate", "'frobnicate' is no option"),
            ("timeout", "'timeout' is no option"),
            ("timeout=soon", "'soon' is no number of seconds"),
            ("timeout=-1", "'-1' is no number of seconds"),
            ("timeout=nan", "'nan' is no number of seconds"),
            ("subdir=home", "begin with '/'"),
            ("ro=1", "'ro=1' is no option"),
        ] {
            let said = parsed(list).unwrap_err();
            assert!(said.contains(named), "{list}: {said}");
        }
    }
}
