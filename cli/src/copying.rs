//! One put, get or cp as its user sees it: a bar, each failure when it happens, the figures at the end.

use crate::context::Context;
use crate::failure::{Interrupted, Reported, report_one};
use crate::path::escaped;
use crate::progress::Shown;
use anyhow::Result;
use quarry_client::{Progress, Told, Transfer, TreeOptions};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a command copies, and how it goes.
pub struct Copying {
    /// What its files share.
    pub transfer: Arc<Transfer>,
    account: Arc<Account>,
}

/// What is told, and what is counted for the end.
struct Account {
    command: &'static str,
    shown: Shown,
    failed: AtomicUsize,
    skipped: AtomicUsize,
}

impl Account {
    fn fail(&self, error: &anyhow::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.shown.above(|| report_one(self.command, error));
    }

    fn say(&self, text: &str) {
        let command = self.command;
        self.shown.above(|| eprintln!("quarry: {command}: {text}"));
    }

    fn handle(&self, told: Told<'_>) {
        let shown = |path: &Path| escaped(path.as_os_str().as_bytes());
        match told {
            Told::Failed(path, error) => {
                self.fail(&anyhow::Error::new(error.clone()).context(shown(path)));
            }
            Told::Skipped(path, why) => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                self.say(&format!("left out {}: {why}", shown(path)));
            }
            Told::Warning(path, text) => self.say(&format!("{}: {text}", shown(path))),
        }
    }
}

impl Copying {
    /// Begins.
    pub fn start(context: &Context, options: TreeOptions) -> Copying {
        let progress = Arc::new(Progress::default());
        let account = Arc::new(Account {
            command: context.command,
            shown: Shown::start(progress.clone(), !context.json, context.command),
            failed: AtomicUsize::new(0),
            skipped: AtomicUsize::new(0),
        });
        let listener = account.clone();
        let transfer = Transfer::new(options, progress).telling(move |told| listener.handle(told));
        Copying {
            transfer: Arc::new(transfer),
            account,
        }
    }

    /// Tells that something failed that has no source of its own.
    pub fn fail(&self, error: &anyhow::Error) {
        self.account.fail(error);
    }

    /// Tells how a file or a whole tree went, if it failed.
    pub fn handle<T>(&self, from: &[u8], to: &[u8], done: quarry_common::Result<T>) {
        if let Err(error) = done {
            let names = format!("{} to {}", escaped(from), escaped(to));
            self.fail(&anyhow::Error::new(error).context(names));
        }
    }

    /// Whether the next file is to be begun with; tells once why not.
    pub fn goes_on(&self) -> bool {
        match self.transfer.given_up() {
            None => true,
            Some(error) => {
                self.fail(&error.into());
                false
            }
        }
    }
}

/// Ends a command that may have begun to copy: programs get the figures in any case, people when it was
/// interrupted, when something was not copied, and on a terminal. `word` is what was done.
///
/// # Errors
/// Those of the command; [`Reported`] if anything failed.
pub fn finish(
    context: &Context,
    copying: Option<Copying>,
    done: Result<()>,
    word: &str,
) -> Result<()> {
    let Some(copying) = copying else {
        return done;
    };
    let account = &copying.account;
    account.shown.clear();
    let failed = account.failed.load(Ordering::Relaxed);
    let skipped = account.skipped.load(Ordering::Relaxed);
    let several = copying
        .transfer
        .progress()
        .files_total
        .load(Ordering::Relaxed)
        > 1;
    let is_odd = failed + skipped > 0 && several;
    let interrupted = done.as_ref().is_err_and(|error| error.is::<Interrupted>());
    if context.json {
        context.print_json(&account.shown.json(failed, skipped))?;
    } else if interrupted || is_odd || (context.terminal && failed == 0) {
        let mut line = account.shown.summary(word);
        if failed > 0 {
            line.push_str(&format!(", {failed} failed"));
        }
        if skipped > 0 {
            line.push_str(&format!(", {skipped} left out"));
        }
        if interrupted {
            line.push_str("; nothing half-done is visible");
        }
        eprintln!("{line}");
    }
    done?;
    match failed {
        0 => Ok(()),
        _ => Err(Reported.into()),
    }
}
