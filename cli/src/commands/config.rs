//! `quarry config`.

use super::{dataserver, metaserver};
use crate::context::Context;
use crate::path::put_json;
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use quarry_client::ClientFile;
use quarry_common::given_file;
use std::os::unix::ffi::OsStrExt;
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
        if context.json {
            let mut object = serde_json::Map::new();
            put_json(&mut object, "file", file.as_os_str().as_bytes());
            object.insert("good_configuration_of".to_owned(), what.into());
            return context.print_json(&object.into());
        }
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
        let valid = identity.check_valid(SystemTime::now());
        valid.map_err(|error| error.context(path.display()))?;
        Ok("client")
    } else if has("dir") || has("authority") {
        let settings = metaserver::Run::of_file(path.to_path_buf()).settings()?;
        let files = settings.files()?;
        if let (Some(path), Some(seed)) = (&settings.seed, files.seed) {
            seed.check()
                .map_err(|error| error.context(path.display()))?;
        }
        Ok("metaserver")
    } else if has("disks") || has("metaservers") {
        let settings = dataserver::Run::of_file(path.to_path_buf()).settings()?;
        settings.identity()?;
        Ok("dataserver")
    } else {
        bail!(
            "{}: is no configuration of Quarry: a dataserver's has 'disks', a metaserver's 'dir', a client file 'cluster' and 'user'",
            path.display()
        )
    }
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

    /// The folders of a new cluster with one metaserver and one dataserver.
    fn cluster(folder: &Path) {
        let words = "quarry cluster init --metaserver 127.0.0.1:7999 --dataservers 1";
        let words = words
            .split(' ')
            .map(std::ffi::OsString::from)
            .chain([folder.into()]);
        let parsed = <crate::args::Arguments as clap::Parser>::try_parse_from(words).unwrap();
        assert_eq!(parsed.run(), std::process::ExitCode::SUCCESS);
    }

    #[test]
    fn a_servers_files_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        cluster(&at("ours"));
        cluster(&at("other"));
        let good = |server: &str| check(&at(&format!("ours/{server}-1/{server}.toml")));
        for (into, from, said) in [
            (
                "dataserver-1/identity.pem",
                "ours/metaserver-1/identity.pem",
                "not of a dataserver",
            ),
            (
                "metaserver-1/identity.pem",
                "ours/dataserver-1/identity.pem",
                "not of a metaserver",
            ),
            (
                "metaserver-1/identity.pem",
                "other/metaserver-1/identity.pem",
                "whose authority it has",
            ),
            (
                "metaserver-1/authority.pem",
                "other/metaserver-1/authority.pem",
                "whose authority it has",
            ),
            (
                "metaserver-1/seed.toml",
                "other/metaserver-1/seed.toml",
                "the seed of cluster",
            ),
        ] {
            let (into, kept) = (at("ours").join(into), at("kept"));
            std::fs::rename(&into, &kept).unwrap();
            std::fs::copy(at(from), &into).unwrap();
            let server = if said.contains("dataserver") {
                "dataserver"
            } else {
                "metaserver"
            };
            let text = format!("{:#}", good(server).unwrap_err());
            assert!(
                text.contains(said) && text.contains("identity.pem"),
                "{text}"
            );
            std::fs::rename(&kept, &into).unwrap();
            good(server).unwrap();
        }
    }

    #[test]
    fn an_expired_dataserver_does_not_start_and_is_no_good_configuration() {
        use quarry_common::identity::{Authority, PeerName};
        use std::time::Duration;
        let folder = tempfile::tempdir().unwrap();
        cluster(&folder.path().join("ours"));
        let at = |name: &str| folder.path().join("ours").join(name);
        let authority = Authority::load(&at("metaserver-1/authority.pem")).unwrap();
        let name = PeerName::dataserver(authority.cluster(), ServerId(1));
        let day = Duration::from_secs(24 * 3_600);
        let expired = authority
            .issue(&name, day, SystemTime::now() - 3 * day)
            .unwrap();
        expired.save(&at("dataserver-1/identity.pem")).unwrap();
        let config = at("dataserver-1/dataserver.toml");
        let settings = dataserver::Run::of_file(config.clone()).settings().unwrap();
        for text in [
            settings.identity().unwrap_err(),
            check(&config).unwrap_err(),
        ] {
            let text = format!("{text:#}");
            for part in [
                "identity.pem",
                "expired 2 days ago",
                "have a new one issued",
            ] {
                assert!(text.contains(part), "{text}");
            }
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
