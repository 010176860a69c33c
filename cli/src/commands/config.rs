//! `quarry config`.

use super::{dataserver, metaserver};
use crate::context::Context;
use crate::server::load_identity;
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use quarry_client::ClientFile;
use std::path::{Path, PathBuf};

/// Configuration files
#[derive(Debug, clap::Args)]
pub struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a server's configuration file or a client file, and the files that it names
    Check {
        /// The file
        file: PathBuf,
    },
}

impl Config {
    /// Runs it.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn run(self, context: &Context) -> Result<()> {
        let Action::Check { file } = self.action;
        let what = check(&file)?;
        context.print(&format!(
            "{}: a good configuration of a {what}\n",
            file.display()
        ))
    }
}

/// Checks a file; returns what it configures, told from its keys.
///
/// # Errors
/// What is wrong with it, or with a file that it names.
pub fn check(path: &Path) -> Result<&'static str> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: can not be read", path.display()))?;
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => bail!(
            "{}: is no TOML: {}",
            path.display(),
            error.to_string().trim_end()
        ),
    };
    let has = |key: &str| table.contains_key(key);
    if has("cluster") && has("user") {
        ClientFile::load(path)?;
        Ok("client")
    } else if has("dir") || has("authority") {
        let settings = metaserver::Run::of_file(path.to_path_buf()).settings()?;
        load_identity(&settings.identity)?;
        metaserver::read_authority(&settings.authority)?;
        settings
            .seed
            .as_deref()
            .map(metaserver::read_seed)
            .transpose()?;
        Ok("metaserver")
    } else if has("disks") || has("metaservers") {
        let settings = dataserver::Run::of_file(path.to_path_buf()).settings()?;
        load_identity(&settings.identity)?;
        Ok("dataserver")
    } else {
        bail!(
            "{}: is no configuration of Quarry: a dataserver's has 'disks', a metaserver's 'dir', a client file 'cluster' and 'user'",
            path.display()
        )
    }
}
