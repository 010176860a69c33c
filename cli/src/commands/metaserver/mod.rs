//! `quarry metaserver`.

mod begun;
mod members;
mod run;

pub use begun::Begun;
pub use run::Run;

use crate::context::Context;
use anyhow::Result;
use clap::Subcommand;
use members::{Add, Remove, Status};

/// Metaservers: they keep the metadata
#[derive(Debug, clap::Args)]
pub struct Metaserver {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run until SIGTERM or Ctrl-C
    Run(Run),
    /// Invite another metaserver and make the folder that it is started with
    ///
    /// Copy DIR to its machine and run there 'quarry metaserver run --config metaserver.toml'. It gets the
    /// metadata from the others while they serve, and votes once it has everything. DIR holds the key of the
    /// cluster's authority: guard it.
    Add(Add),
    /// Remove a metaserver from the cluster
    ///
    /// It is refused if too few of the others run to go on without it. Afterwards stop the process and remove its
    /// directory; its number is not used again.
    Remove(Remove),
    /// Show all metaservers and how far each is
    Status(Status),
}

impl Metaserver {
    /// Runs it.
    ///
    /// # Errors
    /// Those of the action.
    pub fn run(self, context: &Context) -> Result<()> {
        match self.action {
            Action::Run(run) => run.run(),
            Action::Add(add) => crate::args::client(add.run(context)),
            Action::Remove(remove) => crate::args::client(remove.run(context)),
            Action::Status(status) => crate::args::client(status.run(context)),
        }
    }
}
