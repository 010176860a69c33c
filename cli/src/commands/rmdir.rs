//! `quarry rmdir`.

use super::for_each;
use crate::context::Context;
use crate::path::Remote;
use anyhow::{Result, bail};
use std::ffi::OsString;

/// Remove empty directories
#[derive(Debug, clap::Args)]
pub struct Rmdir {
    /// Directories of the cluster
    #[arg(required = true, value_name = "DIRECTORY")]
    paths: Vec<OsString>,
}

impl Rmdir {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        context
            .with_client(async |client| {
                for_each(context, &paths, async |path| {
                    if path.trimmed() == b"/" {
                        bail!("/: can not be removed: it is the root of the cluster");
                    }
                    Ok(client.rmdir(path.bytes()).await?)
                })
                .await
            })
            .await
    }
}
