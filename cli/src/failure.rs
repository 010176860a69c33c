//! How a command ends: exit codes and the line that says why.

use std::fmt;
use std::process::ExitCode;

/// A command was used wrongly: exit code 2.
#[derive(Debug)]
pub struct Misuse(String);

impl Misuse {
    /// With what is wrong and what would be right.
    pub fn new(text: impl Into<String>) -> Misuse {
        Misuse(text.into())
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// Everything that went wrong was reported already, line by line: exit code 1.
#[derive(Debug)]
pub struct Reported;

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("some of it failed")
    }
}

impl std::error::Error for Reported {}

/// Ctrl-C or SIGTERM: the exit code of a shell for SIGINT.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; nothing half-done is visible")
    }
}

impl std::error::Error for Interrupted {}

/// Writes the reason to stderr and chooses the exit code: 1 failed, 2 used wrongly, 130 interrupted.
/// A reader that went away (`quarry ls | head`) is no failure.
pub fn report(command: &str, error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe);
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    if error.is::<Reported>() {
        return ExitCode::from(1);
    }
    eprintln!("quarry: {command}: {}", text(error));
    if error.is::<Misuse>() {
        ExitCode::from(2)
    } else if error.is::<Interrupted>() {
        ExitCode::from(130)
    } else {
        ExitCode::from(1)
    }
}

/// The text of an error with its causes, each once.
pub fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        if text.is_empty() {
            text = part;
        } else if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
    }
    text
}

/// Reports that one of several things failed; the others go on.
pub fn report_one(command: &str, error: &anyhow::Error) {
    eprintln!("quarry: {command}: {}", text(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no space").context("a.txt: no space");
        assert_eq!(text(&error), "a.txt: no space");
        let error = anyhow::anyhow!("no space").context("a.txt");
        assert_eq!(text(&error), "a.txt: no space");
    }
}
