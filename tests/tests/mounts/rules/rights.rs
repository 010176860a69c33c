//! Permissions: what other users may, and what becomes of set-id bits.

use super::Found;
use anyhow::Result;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// What a shell says that runs as another user, in a directory that is everybody's.
fn as_user(dir: &Path, user: &str, groups: &str, script: &str) -> Result<String> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    // Names of the directory differ, so that they are left out of what is compared.
    let output = command
        .args(["sh", "-c", script])
        .current_dir(dir)
        .env("LC_ALL", "C")
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok(format!(
        "{:?} {}",
        output.status.code(),
        String::from_utf8_lossy(&said)
    ))
}

pub fn permissions(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    let mode = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode));
    let owner = |name: &str, uid, gid| std::os::unix::fs::chown(at(name), Some(uid), Some(gid));
    // Everybody can come here, if anybody can.
    for above in dir
        .ancestors()
        .take_while(|above| *above != std::env::temp_dir())
    {
        let bits = fs::metadata(above)?.permissions().mode() | 0o111;
        fs::set_permissions(above, fs::Permissions::from_mode(bits))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for (name, bits, uid, gid) in [
        ("own", 0o600, 4321, 4321),
        ("roots", 0o600, 0, 0),
        ("groups", 0o040, 0, 77),
        ("not mine", 0o077, 4321, 0),
        ("others", 0o006, 0, 0),
    ] {
        fs::write(at(name), "text\n")?;
        mode(name, bits)?;
        owner(name, uid, gid)?;
        for (action, script) in [
            ("read", format!("cat '{name}'")),
            ("write", format!("echo x >> '{name}'")),
            ("chmod", format!("chmod u+r '{name}'")),
            ("touch", format!("touch -c '{name}'")),
            ("set times", format!("touch -c -d 2001-01-01 '{name}'")),
            ("give away", format!("chown 0 '{name}'")),
            ("to a group", format!("chgrp 77 '{name}'")),
            ("access", format!("test -r '{name}' && test -w '{name}'")),
            ("unlink", format!("rm -f '{name}'")),
        ] {
            found.is(
                &format!("{name}: {action}"),
                as_user(dir, "4321", "77", &script)?,
            );
        }
        found.is(
            &format!("{name}: without its group"),
            as_user(dir, "4321", "", &format!("cat '{name}'"))?,
        );
    }
    for (name, bits) in [
        ("open", 0o777),
        ("sticky", 0o1777),
        ("list only", 0o744),
        ("search only", 0o711),
        ("set-gid", 0o2777),
    ] {
        fs::create_dir(at(name))?;
        fs::write(at(name).join("file"), "text\n")?;
        owner(name, 0, 77)?;
        mode(name, bits)?;
        for (action, script) in [
            ("list", format!("ls '{name}'")),
            ("read", format!("cat '{name}/file'")),
            (
                "make",
                format!(
                    "umask 022; echo x > '{name}/new' && mkdir '{name}/sub' && stat -c '%a %u %g %n' '{name}/new' '{name}/sub'"
                ),
            ),
            ("remove another's", format!("rm -f '{name}/file'")),
            (
                "rename another's",
                format!("mv '{name}/file' '{name}/moved'"),
            ),
            ("remove one's own", format!("rm -f '{name}/new'")),
            ("go there", format!("cd '{name}'")),
        ] {
            found.is(
                &format!("{name}: {action}"),
                as_user(dir, "4321", "4321", &script)?,
            );
        }
    }
    Ok(())
}

pub fn set_id(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    for (action, script) in [
        ("write", "echo x >> file"),
        ("truncate", "truncate -s 1 file"),
        ("empty", ": > file"),
        ("chown", "chown 4321 file"),
        ("chgrp", "chgrp 77 file"),
        ("chmod", "chmod 6777 file"),
        ("allocate", "fallocate -l 10 file"),
    ] {
        for (bits, group) in [(0o6777, 4321), (0o2766, 4321), (0o6777, 5), (0o2766, 5)] {
            for user in ["4321", "4322", "0"] {
                fs::write(at("file"), "text")?;
                std::os::unix::fs::chown(at("file"), Some(4321), Some(group))?;
                fs::set_permissions(at("file"), fs::Permissions::from_mode(bits))?;
                let said = as_user(dir, user, "77", script)?;
                let after = fs::metadata(at("file"))?.mode();
                found.is(
                    &format!("{action} of {bits:o} {group} by {user}"),
                    (said, after),
                );
            }
        }
    }
    Ok(())
}
