//! `quarry cat`.

use super::for_each;
use crate::context::Context;
use crate::path::Remote;
use anyhow::Result;
use std::ffi::OsString;
use tokio::io::AsyncWriteExt;

/// Write files to standard output
#[derive(Debug, clap::Args)]
pub struct Cat {
    /// Files of the cluster
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<OsString>,
}

impl Cat {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or standard output says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        context
            .with_client(async |client| {
                let mut out = tokio::io::stdout();
                for_each(context, &paths, async |path| {
                    client.read_to(path.bytes(), &mut out, None, None).await?;
                    Ok(out.flush().await?)
                })
                .await
            })
            .await
    }
}
