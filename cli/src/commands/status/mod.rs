//! `quarry status`.

mod show;
mod summary;
#[cfg(test)]
pub mod tests;

use crate::context::{Context, connect, interruptible};
use crate::failure::{Interrupted, Reported};
use crate::leaderless::{Leaderless, or_leaderless};
use anyhow::Result;
use quarry_client::{Client, ClientFile, Options};
use quarry_common::wire::meta::{MetaserverStatus, Status as Report};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use summary::Summary;

#[cfg(feature = "servers")]
pub use summary::role;

/// `--watch` asks this often: as often as disks report.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Show the health of the cluster on one screen
///
/// Exit code 1 if no metaserver leads: then it shows which of them answer.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Show it again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

impl Status {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says; [`Reported`] if nobody leads.
    pub async fn run(self, context: &Context) -> Result<()> {
        let found = ClientFile::find(context.cluster.as_deref())?;
        let shown = interruptible(Box::pin(self.show(context, found))).await;
        match shown {
            // That is how watching ends.
            Err(error) if self.watch && error.is::<Interrupted>() => Ok(()),
            shown => shown,
        }
    }

    async fn show(&self, context: &Context, found: (PathBuf, ClientFile)) -> Result<()> {
        let mut client = None;
        loop {
            let seen = or_leaderless(&found.1, async {
                let client = match &client {
                    Some(client) => client,
                    None => client.insert(connect(found.clone(), Options::default()).await?),
                };
                Seen::of(client).await
            });
            match seen.await {
                Ok(seen) if context.json => context.print_json(&json(&seen)?)?,
                Ok(seen) => context.print(&self.screen(context, &text(&seen)))?,
                Err(error) => self.show_failed(context, error)?,
            }
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }

    /// Whoever watches waits for the cluster to come back.
    fn show_failed(&self, context: &Context, error: anyhow::Error) -> Result<()> {
        match error.downcast_ref::<Leaderless>() {
            Some(nobody) if context.json => context.print_json(&leaderless_json(nobody))?,
            Some(nobody) => context.print(&self.screen(context, &nobody.text()))?,
            None if self.watch => {
                context.print(&self.screen(context, &format!("{error}\n")))?;
            }
            None => return Err(error),
        }
        match self.watch {
            true => Ok(()),
            false => Err(Reported.into()),
        }
    }

    /// The text, in place of the one before on a terminal.
    fn screen(&self, context: &Context, text: &str) -> String {
        match (self.watch, context.terminal) {
            // To the upper left corner, each line cleared, and what is below.
            (true, true) => format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")),
            (true, false) => format!("{text}\n"),
            (false, _) => text.to_owned(),
        }
    }
}

/// What the leader says.
pub struct Seen {
    /// Of the cluster.
    pub report: Report,
    /// Of all metaservers, those that are only invited too.
    pub metaservers: Vec<MetaserverStatus>,
    /// What else people must know.
    warnings: Vec<String>,
    /// After so long what is doomed is deleted.
    doom_grace: Duration,
}

impl Seen {
    /// As it is now.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn of(client: &Client) -> Result<Seen> {
        let (report, metaservers, warnings, settings) = tokio::try_join!(
            client.status(),
            client.metaservers(),
            client.warnings(),
            client.settings()
        )?;
        Ok(Seen {
            report,
            metaservers,
            warnings,
            doom_grace: Duration::from_secs(settings.doom_grace_seconds),
        })
    }
}

/// The screen.
pub fn text(seen: &Seen) -> String {
    show::text(&Summary::of(seen))
}

/// The same for programs.
///
/// # Errors
/// None today.
pub fn json(seen: &Seen) -> Result<Value> {
    Ok(serde_json::to_value(Summary::of(seen))?)
}

/// What programs are told where nobody leads.
pub fn leaderless_json(nobody: &Leaderless) -> Value {
    json!({
        "healthy": false,
        "problems": [nobody.to_string()],
        "leader": null,
        "metaservers": nobody.json(),
    })
}
