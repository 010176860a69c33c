//! `quarry dev`: a whole cluster on this machine, in one process or in one each.

mod act;
mod control;
mod home;
mod lock;
mod processes;
mod run;
mod servers;
mod stop;

use crate::context::Context;
use crate::failure::Misuse;
use anyhow::{Context as _, Result};
use clap::Subcommand;
use home::Home;
use std::path::PathBuf;

/// Run a whole cluster on this machine, for trying, developing and breaking
///
/// Metaservers and dataservers with their state in DIR; it starts again on that state. Ready
/// within seconds, and says so. Ctrl-C or 'quarry dev stop' stops it.
///
/// All servers run in one process, or with --processes each in its own, to be broken while you watch:
///
///   quarry dev --metaservers 3 --dataservers 5 --processes --detach
///   quarry dev status                  # meta-1 to meta-3, data-1 to data-5, and how the cluster is
///   quarry dev kill meta-2             # as a crash does; 'quarry metaserver status' shows who leads now
///   quarry dev start meta-2
///   quarry dev pause data-3            # as a machine that hangs; 'quarry dev resume data-3'
///
/// A disk that was down for 20 s is out; elsewhere that takes ten minutes. What is removed is on the disks for five
/// minutes more, as it is everywhere: whoever reads it has as long to finish.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, verbatim_doc_comment)]
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
    /// Each server in a process of its own, with its log in DIR/NAME.log
    ///
    /// They end with this command, however it ends. A server that ends by itself is reported and not
    /// started again.
    #[arg(long)]
    processes: bool,
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

#[derive(Debug, clap::Args)]
pub struct Named {
    /// The server's name, as 'quarry dev status' shows it: meta-2, data-3
    #[arg(value_name = "NAME")]
    server: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct Restart {
    #[command(flatten)]
    named: Named,
    /// The disk that was in this data directory is gone for good: the empty directory becomes a new disk
    ///
    /// Only for a dataserver, whose other disks stay as they are.
    #[arg(long, value_name = "DISK")]
    replace_disk: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Stop the cluster and wait until it has ended
    Stop(Place),
    /// Show whether the cluster runs, its servers, and how it is
    ///
    /// A server is running, starting (its process runs, and it has not said yet that it is ready), paused or
    /// dead. Exit code 1 if the cluster does not run, or no metaserver can lead it.
    Status(Place),
    /// Kill a server of a cluster that runs with --processes, and wait until it is dead
    ///
    /// By SIGKILL: as if it had crashed, or its machine had lost power. What was acknowledged is on its disks.
    /// 'quarry dev start NAME' starts it again.
    Kill(Named),
    /// Pause a server of a cluster that runs with --processes
    ///
    /// By SIGSTOP: as a machine that hangs, or whose network is cut. It does not answer, and does not know that it
    /// was away when 'quarry dev resume NAME' lets it go on.
    Pause(Named),
    /// Let a paused server go on
    Resume(Named),
    /// Start a server that was killed, or ended by itself, and wait until it is ready
    Start(Restart),
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
            Some(Action::Kill(named)) => named.act(context, servers::Action::Kill, &[]),
            Some(Action::Pause(named)) => named.act(context, servers::Action::Pause, &[]),
            Some(Action::Resume(named)) => named.act(context, servers::Action::Resume, &[]),
            Some(Action::Start(start)) => {
                let replaced = &start.replace_disk;
                start.named.act(context, servers::Action::Start, replaced)
            }
            None => {
                let home = self.start.place.home()?;
                let wanted = home::Wanted {
                    metaservers: self.start.metaservers,
                    dataservers: self.start.dataservers,
                    disks: self.start.disks,
                };
                let how = run::How {
                    processes: self.start.processes,
                    detached: self.start.detached,
                };
                match self.start.detach {
                    true => run::detach(context, &home, wanted, how.processes),
                    false => run::foreground(context, &home, wanted, how),
                }
            }
        }
    }
}

impl Named {
    fn act(&self, context: &Context, action: servers::Action, replaced: &[PathBuf]) -> Result<()> {
        act::act(context, &self.place.home()?, action, &self.server, replaced)
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
