//! `quarry config`.

use super::{dataserver, metaserver};
use crate::context::Context;
use crate::server::load_identity;
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use quarry_client::ClientFile;
use quarry_common::given_file;
use quarry_common::identity::Identity;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
        // A client file that others may read is warned of.
        quarry_common::telemetry::init_from(false, tracing::level_filters::LevelFilter::WARN);
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
    let file =
        given_file::read(path).with_context(|| format!("{}: can not be read", path.display()))?;
    let table: toml::Table = match file.text.parse() {
        Ok(table) => table,
        Err(error) => bail!(
            "{}: is no TOML: {}",
            path.display(),
            error.to_string().trim_end()
        ),
    };
    let has = |key: &str| table.contains_key(key);
    if has("cluster") && has("user") {
        let identity = ClientFile::load(path)?.identity();
        let identity = identity.map_err(|error| error.context(path.display()))?;
        check_valid(&identity, path)?;
        Ok("client")
    } else if has("dir") || has("authority") {
        let settings = metaserver::Run::of_file(path.to_path_buf()).settings()?;
        settings.files()?;
        Ok("metaserver")
    } else if has("disks") || has("metaservers") {
        let settings = dataserver::Run::of_file(path.to_path_buf()).settings()?;
        check_valid(&*load_identity(&settings.identity)?, &settings.identity)?;
        Ok("dataserver")
    } else {
        bail!(
            "{}: is no configuration of Quarry: a dataserver's has 'disks', a metaserver's 'dir', a client file 'cluster' and 'user'",
            path.display()
        )
    }
}

fn check_valid(identity: &Identity, path: &Path) -> Result<()> {
    let checked = identity.check_valid(SystemTime::now());
    Ok(checked.map_err(|error| error.context(path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::founding;
    use quarry_common::ids::ServerId;

    #[test]
    fn a_client_file_is_good_only_with_an_identity_that_is_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.toml");
        let authority = founding::authority().unwrap();
        let metaservers = [(ServerId(1), "m:7410".to_owned())];
        let mut file = founding::client_file(&authority, "anna", &metaservers).unwrap();
        file.save(&path).unwrap();
        assert_eq!(check(&path).unwrap(), "client");
        file.identity.truncate(100);
        file.save(&path).unwrap();
        let text = format!("{:#}", check(&path).unwrap_err());
        for part in ["client.toml", "identity", "quarry user renew"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_has_no_end_is_no_configuration() {
        let text = format!("{:#}", check(Path::new("/dev/zero")).unwrap_err());
        assert!(
            text.contains("/dev/zero") && text.contains("a device"),
            "{text}"
        );
    }
}
