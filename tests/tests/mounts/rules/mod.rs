//! What each system call does, by comparison: the same calls in a directory of a local disk and in a mount must have the same
//! outcome, down to the errno.

mod contents;
mod names;
mod rights;

use anyhow::{Result, ensure};
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::Path;

/// What was found, a line each.
#[derive(Default)]
pub struct Found(String);

impl Found {
    /// Notes the outcome of a call: its value, or its errno.
    pub fn of<T: Debug, E: Into<std::io::Error>>(&mut self, what: &str, done: Result<T, E>) {
        let line = match done {
            Ok(value) => format!("{what}: {value:?}"),
            Err(error) => match error.into().raw_os_error() {
                Some(errno) => format!("{what}: errno {errno}"),
                None => format!("{what}: failed"),
            },
        };
        writeln!(self.0, "{line}").expect("a string takes everything");
    }

    pub fn is(&mut self, what: &str, value: impl Debug) {
        self.of::<_, std::io::Error>(what, Ok(value));
    }
}

type Rule = fn(&Path, &mut Found) -> Result<()>;

/// Runs all rules in both directories, each in one of its own.
pub fn rules(local: &Path, mount: &Path) -> Result<()> {
    let all: [(&str, Rule); 12] = [
        ("names", names::names),
        ("renames", names::renames),
        ("links", names::links),
        ("lengths", contents::lengths),
        ("holes", contents::holes),
        ("times", contents::times),
        ("nodes", names::nodes),
        ("xattrs", names::xattrs),
        ("opening", names::opening),
        ("permissions", rights::permissions),
        ("set-id", rights::set_id),
        ("copies", contents::copies),
    ];
    let mut differences = String::new();
    for (name, rule) in all {
        let run = |at: &Path| -> Result<String> {
            let dir = at.join(name);
            fs::create_dir(&dir)?;
            let mut found = Found::default();
            rule(&dir, &mut found)?;
            Ok(found.0)
        };
        let (here, there) = (run(local)?, run(mount)?);
        ensure!(here.lines().count() == there.lines().count(), "{name}");
        for (here, there) in here.lines().zip(there.lines()) {
            if here != there {
                writeln!(differences, "{name}: local {here}; mount {there}")?;
            }
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
