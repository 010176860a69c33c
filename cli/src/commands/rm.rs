//! `quarry rm`.

use super::for_each;
use crate::context::Context;
use crate::failure::{Failures, Misuse};
use crate::path::Remote;
use crate::target::lstat_if_there;
use anyhow::{Result, bail};
use quarry_common::Error;
use quarry_common::wire::meta::FileKind;
use std::ffi::OsString;

/// Remove files, or with -r whole trees
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Remove directories and all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// What is not there is fine
    #[arg(short, long)]
    force: bool,
    /// Files of the cluster
    #[arg(required_unless_present = "force", value_name = "FILE")]
    paths: Vec<OsString>,
}

impl Rm {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says; a directory without `-r`.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        for path in &paths {
            if path.name().is_none() {
                let text = format!(
                    "{}: refusing to remove '/', '.' or '..': name what is to go",
                    path.shown()
                );
                return Err(Misuse::new(text).into());
            }
        }
        context
            .with_client(async |client| {
                for_each(context, &paths, async |path| {
                    let Some(attr) = lstat_if_there(client, path).await? else {
                        if self.force {
                            return Ok(());
                        }
                        bail!("{}: there is no such file or directory", path.shown());
                    };
                    // What a link leads to is not removed through it, nor is the link then: as with rm(1).
                    if path.wants_directory() {
                        client.resolve_parent(path.bytes()).await?;
                    }
                    match (attr.kind, self.recursive) {
                        (FileKind::Directory, true) => {
                            let mut failures = Failures::new(context);
                            let failed = |error: Error| failures.report(&error.into());
                            client.remove_tree_with(path.bytes(), failed).await?;
                            return failures.end();
                        }
                        (FileKind::Directory, false) => bail!(
                            "{}: is a directory: use -r to remove it with all that is in it, or 'quarry rmdir' if it is empty",
                            path.shown()
                        ),
                        _ => client.unlink(path.bytes()).await?,
                    }
                    Ok(())
                })
                .await
            })
            .await
    }
}
