//! The programs that mount(8) and umount(8) start for a file system of our type: `mount.quarry SOURCE DIR [-sfnv] [-N SPACE] [-t
//! TYPE] [-o OPTIONS]`, `umount.fuse.quarry DIR [-nlfvr] [-N SPACE] [-t TYPE]`. They are this program under other names.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Our names as a helper of mount(8).
const MOUNT_NAMES: [&str; 2] = ["mount.quarry", "mount.fuse.quarry"];

/// Our names as a helper of umount(8).
const UMOUNT_NAMES: [&str; 2] = ["umount.quarry", "umount.fuse.quarry"];

/// What mount(8) wants to have done.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// What these words of our own command line mean.
    Words(Vec<OsString>),
    /// Nothing: it only tries.
    Nothing,
}

/// What was asked for, if this program was started as a helper.
///
/// # Errors
/// It was not started as mount(8) does.
pub fn asked(words: &[OsString]) -> Option<Result<Asked, String>> {
    let (program, words) = words.split_first()?;
    let name = Path::new(program).file_name()?;
    let is_one_of = |names: [&str; 2]| names.iter().any(|known| name == OsStr::new(known));
    let name = name.to_string_lossy();
    if is_one_of(MOUNT_NAMES) {
        let usage = format!("usage: {name} CLIENT_FILE[:DIR] MOUNTPOINT [-o OPTIONS]");
        return Some(Given::of(words, &usage).and_then(|given| given.mount(&usage)));
    }
    is_one_of(UMOUNT_NAMES).then(|| {
        let usage = format!("usage: {name} MOUNTPOINT [-l] [-f]");
        Given::of(words, &usage).and_then(|given| given.umount(&usage))
    })
}

/// What a helper was given.
#[derive(Default)]
struct Given {
    places: Vec<OsString>,
    options: Vec<OsString>,
    flags: String,
}

impl Given {
    fn of(words: &[OsString], usage: &str) -> Result<Given, String> {
        let mut given = Given::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.to_string_lossy().as_ref() {
                "-o" => given.options.push(words.next().ok_or(usage)?.clone()),
                "-t" | "-N" => {
                    words.next().ok_or(usage)?;
                }
                flags if flags.len() > 1 && flags.starts_with('-') => {
                    if !flags[1..].chars().all(|flag| "sfnvrwl".contains(flag)) {
                        return Err(format!("'{flags}' is not understood; {usage}"));
                    }
                    given.flags.push_str(&flags[1..]);
                }
                _ => given.places.push(word.clone()),
            }
        }
        Ok(given)
    }

    fn mount(self, usage: &str) -> Result<Asked, String> {
        let [source, mountpoint] = &self.places[..] else {
            return Err(usage.to_owned());
        };
        // It only tries.
        if self.flags.contains('f') {
            return Ok(Asked::Nothing);
        }
        let mut line: Vec<OsString> = ["quarry", "mount", "--source"].map(OsString::from).into();
        line.push(source.clone());
        for list in self.options {
            line.push("-o".into());
            line.push(list);
        }
        if self.flags.contains('r') {
            line.push("--read-only".into());
        }
        line.push("--".into());
        line.push(mountpoint.clone());
        Ok(Asked::Words(line))
    }

    fn umount(self, usage: &str) -> Result<Asked, String> {
        let [mountpoint] = &self.places[..] else {
            return Err(usage.to_owned());
        };
        let mut line: Vec<OsString> = ["quarry", "umount"].map(OsString::from).into();
        for (flag, word) in [('l', "--lazy"), ('f', "--force")] {
            if self.flags.contains(flag) {
                line.push(word.into());
            }
        }
        line.push("--".into());
        line.push(mountpoint.clone());
        Ok(Asked::Words(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Result<String, String>> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let asked = asked(&words)?;
        Some(asked.map(|asked| match asked {
            Asked::Nothing => String::new(),
            Asked::Words(words) => {
                let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
                words.join(" ")
            }
        }))
    }

    #[test]
    fn what_mount_asks_for_is_understood() {
        assert_eq!(of("/usr/bin/quarry mount /mnt"), None);
        let mounts = |line, words: &str| assert_eq!(of(line), Some(Ok(words.to_owned())), "{line}");
        mounts(
            "/sbin/mount.quarry /etc/q.toml:/home /mnt -o rw,timeout=5",
            "quarry mount --source /etc/q.toml:/home -o rw,timeout=5 -- /mnt",
        );
        mounts(
            "mount.fuse.quarry quarry /mnt -n -sv -t fuse.quarry -N 7 -o ro",
            "quarry mount --source quarry -o ro -- /mnt",
        );
        mounts(
            "mount.quarry quarry /mnt",
            "quarry mount --source quarry -- /mnt",
        );
        mounts("mount.quarry quarry /mnt -f -o ro", "");
        mounts(
            "umount.fuse.quarry /mnt -l -v",
            "quarry umount --lazy -- /mnt",
        );
        for wrong in [
            "mount.quarry",
            "mount.quarry q",
            "mount.quarry q /mnt -o",
            "mount.quarry q /mnt -x",
            "umount.fuse.quarry",
        ] {
            assert!(of(wrong).unwrap().unwrap_err().contains("usage"), "{wrong}");
        }
    }
}
