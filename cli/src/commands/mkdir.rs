//! `quarry mkdir`.

use super::for_each;
use crate::context::Context;
use crate::mode::{ModeChange, parse_mode};
use crate::path::Remote;
use crate::size::umask;
use anyhow::Result;
use std::ffi::OsString;

/// Make directories
#[derive(Debug, clap::Args)]
pub struct Mkdir {
    /// Make missing parents too; a directory that is there already is fine
    #[arg(short, long)]
    parents: bool,
    /// Permissions of the last directory, octal or symbolic [default: 777 less the umask]
    #[arg(short, long, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<ModeChange>,
    /// Directories of the cluster
    #[arg(required = true, value_name = "DIRECTORY")]
    paths: Vec<OsString>,
}

impl Mkdir {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        let mask = umask();
        let usual = 0o777 & !mask;
        let mode = self
            .mode
            .as_ref()
            .map_or(usual, |mode| mode.apply(usual, true, mask));
        context
            .with_client(async |client| {
                for_each(context, &paths, async |path| {
                    if self.parents {
                        let parent = path.trimmed().iter().rposition(|byte| *byte == b'/');
                        let parent = &path.trimmed()[..parent.unwrap_or(0)];
                        if !parent.is_empty() {
                            client.mkdir_all(parent, usual).await?;
                        }
                        client.mkdir_all(path.bytes(), mode).await?;
                    } else {
                        client.mkdir(path.bytes(), mode).await?;
                    }
                    Ok(())
                })
                .await
            })
            .await
    }
}
