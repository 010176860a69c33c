//! How a command ends: exit codes and the line that says why.

use crate::context::Context;
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
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Writes the reason to stderr and chooses the exit code: 1 failed, 2 used wrongly, 130 interrupted.
/// A reader that went away (`quarry ls | head`) is no failure.
pub fn report(command: &str, error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
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

/// Whether the reader of the output went away, however deep that is told.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Whether an error ends a command that otherwise goes on when a part of it fails: nobody waits for the rest.
pub fn ends_all(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>() || error.is::<std::io::Error>() || is_broken_pipe(error)
}

/// The text of an error with its causes, each once, and no name twice in a row.
pub fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        if text.is_empty() {
            text = part;
        } else if !text.contains(&part) {
            let mut rest = part.as_str();
            while let Some((name, after)) = rest.split_once(": ")
                && names(&text, name)
            {
                rest = after;
            }
            text = format!("{text}: {rest}");
        }
    }
    text
}

/// Whether a text ends with a name, or begins with it as what goes to another: `a to /b` names both.
fn names(text: &str, name: &str) -> bool {
    let name = name.trim_matches('\'');
    let before = text.strip_suffix(name);
    let after = text.strip_prefix(name);
    before.is_some_and(|before| before.is_empty() || before.ends_with(' '))
        || after.is_some_and(|after| after.starts_with(" to "))
}

/// Reports that one of several things failed; the others go on.
pub fn report_one(command: &str, error: &anyhow::Error) {
    if !error.is::<Reported>() {
        eprintln!("quarry: {command}: {}", text(error));
    }
}

/// What goes on when a part of it fails.
pub struct Failures<'a> {
    context: &'a Context,
    any: bool,
}

impl Failures<'_> {
    /// Nothing has failed yet.
    pub fn new(context: &Context) -> Failures<'_> {
        Failures {
            context,
            any: false,
        }
    }

    /// Reports that a part failed.
    pub fn report(&mut self, error: &anyhow::Error) {
        report_one(self.context.command, error);
        self.any = true;
    }

    /// The outcome of the whole.
    ///
    /// # Errors
    /// [`Reported`] if any part failed.
    pub fn end(&self) -> anyhow::Result<()> {
        match self.any {
            true => Err(Reported.into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_known_however_deep_it_is_told() {
        let broken = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let library = || quarry_common::Error::new(quarry_common::Code::Io, "the output");
        for error in [
            broken().into(),
            anyhow::Error::from(broken()).context("/file"),
            library().with_source(broken()).into(),
        ] {
            assert!(is_broken_pipe(&error) && ends_all(&error), "{error:?}");
            assert_eq!(report("cat", &error), ExitCode::SUCCESS);
        }
        assert!(!is_broken_pipe(&library().into()) && !ends_all(&library().into()));
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no space").context("a.txt: no space");
        assert_eq!(text(&error), "a.txt: no space");
        let error = anyhow::anyhow!("no space").context("a.txt");
        assert_eq!(text(&error), "a.txt: no space");
    }

    #[test]
    fn a_name_is_told_once() {
        let of = |cause: &'static str, context: &'static str| {
            text(&anyhow::anyhow!(cause).context(context))
        };
        assert_eq!(of("/x/wo: no space", "/x/wo"), "/x/wo: no space");
        assert_eq!(of("/wo: no space", "a to /wo"), "a to /wo: no space");
        assert_eq!(of("'/wo': not there", "/wo"), "/wo: not there");
        assert_eq!(of("/wo: a: is a pipe", "a to /wo"), "a to /wo: is a pipe");
        assert_eq!(of("b: is a pipe", "a to /wo"), "a to /wo: b: is a pipe");
        assert_eq!(of("wo: no space", "/x/wo"), "/x/wo: wo: no space");
        assert_eq!(of("/x: no space", "/x/wo"), "/x/wo: /x: no space");
    }
}
