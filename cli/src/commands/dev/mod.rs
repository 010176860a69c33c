//! `quarry dev`: a whole cluster in one process.

mod home;
mod lock;
mod run;
mod stop;

use crate::context::Context;
use crate::failure::Misuse;
use anyhow::{Context as _, Result};
use clap::Subcommand;
use home::Home;
use std::path::PathBuf;

/// Run a whole cluster in one process, for trying and developing
///
/// Metaservers and dataservers with their state in DIR; it starts again on that state. Ready
/// within seconds, and says so. Ctrl-C or 'quarry dev stop' stops it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dev {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    start: Start,
}

#[derive(Debug, clap::Args)]
pub struct Start {
    #[command(flatten)]
    place: Place,
    /// Metaservers of a new cluster [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    metaservers: Option<u32>,
    /// Dataservers of a new cluster [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    dataservers: Option<u32>,
    /// Disks of each dataserver of a new cluster [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    disks: Option<u32>,
    /// In the background, with its log in DIR/log; returns when the cluster is ready
    #[arg(long)]
    detach: bool,
    /// This is the process that --detach starts
    #[arg(long, hide = true, conflicts_with = "detach")]
    detached: bool,
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// Where the cluster's state is [default: quarry/dev in the XDG data directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Stop the cluster and wait until it has ended
    Stop(Place),
    /// Show whether the cluster runs, and how it is
    ///
    /// Exit code 1 if it does not run.
    Status(Place),
}

impl Dev {
    /// Runs it.
    ///
    /// # Errors
    /// The cluster runs already, can not start, or ends with an error.
    pub fn run(self, context: &Context) -> Result<()> {
        match self.action {
            Some(Action::Stop(place)) => stop::stop(context, &place.home()?),
            Some(Action::Status(place)) => stop::status(context, &place.home()?),
            None => {
                let home = self.start.place.home()?;
                let wanted = home::Wanted {
                    metaservers: self.start.metaservers,
                    dataservers: self.start.dataservers,
                    disks: self.start.disks,
                };
                match (self.start.detach, self.start.detached) {
                    (true, _) => run::detach(context, &home, wanted),
                    (false, detached) => run::foreground(context, &home, wanted, detached),
                }
            }
        }
    }
}

impl Place {
    fn home(&self) -> Result<Home> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => usual_dir()?,
        };
        let dir = std::path::absolute(&dir).with_context(|| format!("{}", dir.display()))?;
        if dir.to_str().is_none() {
            return Err(Misuse::new(format!(
                "{}: the directory's path must be UTF-8: choose another",
                dir.display()
            ))
            .into());
        }
        Ok(Home::new(dir))
    }
}

/// `$XDG_DATA_HOME/quarry/dev`, or the same under `~/.local/share`.
fn usual_dir() -> Result<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let data =
        folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    match data {
        Some(data) => Ok(data.join("quarry/dev")),
        None => Err(Misuse::new(
            "neither XDG_DATA_HOME nor HOME is set: say where the state goes with --dir",
        )
        .into()),
    }
}
