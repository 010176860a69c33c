//! The program that mount(8) starts for a file system of our type: `mount.quarry SOURCE DIR [-sfnv] [-N SPACE] [-t TYPE] [-o
//! OPTIONS]`. It is this program under another name.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Our names as a helper of mount(8).
const NAMES: [&str; 2] = ["mount.quarry", "mount.fuse.quarry"];

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
    let is_helper = NAMES.iter().any(|known| name == OsStr::new(known));
    is_helper.then(|| understood(&name.to_string_lossy(), words))
}

fn understood(name: &str, words: &[OsString]) -> Result<Asked, String> {
    let usage = || format!("usage: {name} CLIENT_FILE[:DIR] MOUNTPOINT [-o OPTIONS]");
    let mut places = Vec::new();
    let mut options = Vec::new();
    let mut only_tries = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.to_string_lossy().as_ref() {
            "-o" => options.push(words.next().ok_or_else(usage)?),
            "-t" | "-N" => drop(words.next().ok_or_else(usage)?),
            flags if flags.len() > 1 && flags.starts_with('-') => {
                if !flags[1..].chars().all(|flag| "sfnvrw".contains(flag)) {
                    return Err(format!("'{flags}' is not understood; {}", usage()));
                }
                only_tries |= flags.contains('f');
            }
            _ => places.push(word),
        }
    }
    let [source, mountpoint] = places[..] else {
        return Err(usage());
    };
    if only_tries {
        return Ok(Asked::Nothing);
    }
    let mut line: Vec<OsString> = ["quarry", "mount", "--source"].map(OsString::from).into();
    line.push(source.clone());
    for list in options {
        line.push("-o".into());
        line.push(list.clone());
    }
    line.push("--".into());
    line.push(mountpoint.clone());
    Ok(Asked::Words(line))
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
        for wrong in [
            "mount.quarry",
            "mount.quarry q",
            "mount.quarry q /mnt -o",
            "mount.quarry q /mnt -x",
        ] {
            assert!(of(wrong).unwrap().unwrap_err().contains("usage"), "{wrong}");
        }
    }
}
