//! Running commands and saying what they said when they fail.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The `quarry` binary beside this test.
pub fn quarry() -> PathBuf {
    let here = std::env::current_exe().expect("a process knows its executable");
    // target/release/deps/TEST -> target/release/quarry
    let folder = here
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests are built in a target folder");
    let binary = folder.join("quarry");
    assert!(
        binary.exists(),
        "{} is missing: build it first, as scripts/test.sh does",
        binary.display()
    );
    binary
}

/// Runs a command to its end; fails with its output unless it succeeds.
pub fn ok(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// Runs a program with arguments; fails with its output unless it succeeds. Returns its standard output.
pub fn tool<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
    let output = ok(Command::new(program).args(args))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end with this on its standard input; fails with its output unless it succeeds. Returns its
/// standard output.
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let mut pipe = child.stdin.take().context("a pipe was asked for")?;
    pipe.write_all(input.as_bytes())?;
    drop(pipe);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
