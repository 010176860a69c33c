//! `quarry metaserver run`.

use crate::server::{self, load_identity};
use anyhow::{Context as _, Result};
use quarry_common::config::ConfigFile;
use quarry_common::identity::Authority;
use quarry_metaserver::{ClusterSeed, MetaserverConfig};
use std::path::PathBuf;

/// The keys of a metaserver's configuration file.
pub const KEYS: &[&str] = &[
    "identity",
    "authority",
    "seed",
    "listen",
    "advertise",
    "dir",
    "metaservers",
    "cache_mib",
    "doom_grace_seconds",
    "out_after_seconds",
];

/// A flag wins over its environment variable, and that over the file. Relative paths in the file
/// start at its folder.
#[derive(Debug, Default, clap::Args)]
pub struct Run {
    /// The TOML file, as 'quarry cluster init' writes it
    #[arg(long, value_name = "FILE", env = "QUARRY_CONFIG")]
    config: Option<PathBuf>,
    /// Certificate and key of this server
    #[arg(long, value_name = "FILE", env = "QUARRY_IDENTITY")]
    identity: Option<PathBuf>,
    /// Certificate and key of the cluster's authority
    #[arg(long, value_name = "FILE", env = "QUARRY_AUTHORITY")]
    authority: Option<PathBuf>,
    /// What a new cluster begins with
    #[arg(long, value_name = "FILE", env = "QUARRY_SEED")]
    seed: Option<PathBuf>,
    /// Where to listen, UDP
    #[arg(long, value_name = "IP:PORT", env = "QUARRY_LISTEN")]
    listen: Option<String>,
    /// How others reach it
    #[arg(long, value_name = "HOST:PORT", env = "QUARRY_ADVERTISE")]
    advertise: Option<String>,
    /// The metaservers of the cluster that a new one joins
    #[arg(long, value_name = "ID=HOST:PORT", value_delimiter = ',', env = "QUARRY_METASERVERS", value_parser = server::parse_metaserver)]
    metaservers: Vec<(u32, String)>,
    /// The directory of its state
    #[arg(long, value_name = "DIR", env = "QUARRY_DIR")]
    dir: Option<PathBuf>,
    /// Memory for the state's block cache, in MiB
    #[arg(long, value_name = "MIB", env = "QUARRY_CACHE_MIB")]
    cache_mib: Option<i64>,
    /// After how many seconds data is deleted that nothing refers to any more
    #[arg(long, value_name = "SECONDS", env = "QUARRY_DOOM_GRACE_SECONDS")]
    doom_grace_seconds: Option<i64>,
    /// A disk that was down for so many seconds is out: its data is rebuilt on others
    #[arg(long, value_name = "SECONDS", env = "QUARRY_OUT_AFTER_SECONDS")]
    out_after_seconds: Option<i64>,
}

/// Everything that a metaserver is started with.
pub struct Settings {
    pub identity: PathBuf,
    pub authority: PathBuf,
    pub seed: Option<PathBuf>,
    pub server: MetaserverConfig,
}

impl Run {
    /// Runs it.
    ///
    /// # Errors
    /// The configuration can not work, or the server ends with an error.
    pub fn run(self) -> Result<()> {
        let settings = self.settings()?;
        let seed = settings.seed.as_deref().map(read_seed).transpose()?;
        let identity = load_identity(&settings.identity)?;
        let authority = read_authority(&settings.authority)?;
        server::run(async move |mut stopped| {
            let starting =
                quarry_metaserver::Metaserver::start(settings.server, identity, authority, seed);
            let server = tokio::select! {
                started = Box::pin(starting) => started?,
                // It may have to wait until it leads; what it had begun is as after a crash.
                () = &mut stopped => return Ok(()),
            };
            crate::server::say_ready(&format!("metaserver at {}", server.local_addr()?))?;
            stopped.await;
            Ok(server.stop().await?)
        })
    }

    /// Flags over environment over file.
    ///
    /// # Errors
    /// `Configuration`: an unknown key, a missing one, a wrong type.
    pub fn settings(&self) -> Result<Settings> {
        let mut file = ConfigFile::read(self.config.as_deref(), KEYS)?;
        file.set("listen", self.listen.clone());
        file.set("advertise", self.advertise.clone());
        file.set("cache_mib", self.cache_mib);
        server::set_metaservers(&mut file, &self.metaservers);
        file.set("doom_grace_seconds", self.doom_grace_seconds);
        file.set("out_after_seconds", self.out_after_seconds);
        let identity = server::path(&mut file, "identity", &self.identity)?;
        let authority = server::path(&mut file, "authority", &self.authority)?;
        let seed = server::path(&mut file, "seed", &self.seed)?;
        let dir = server::path(&mut file, "dir", &self.dir)?;
        let dir = server::needed(&file, "dir", dir)?;
        file.set("dir", Some(server::text(&dir)?));
        Ok(Settings {
            identity: server::needed(&file, "identity", identity)?,
            authority: server::needed(&file, "authority", authority)?,
            seed,
            server: file.decode()?,
        })
    }

    /// With a file and no flags.
    pub fn of_file(config: PathBuf) -> Run {
        Run {
            config: Some(config),
            ..Run::default()
        }
    }
}

/// Reads what a new cluster begins with.
///
/// # Errors
/// The file can not be read or understood.
pub fn read_seed(path: &std::path::Path) -> Result<ClusterSeed> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{}: the seed of the cluster can not be read",
            path.display()
        )
    })?;
    toml::from_str(&text).with_context(|| format!("{}: is no seed of a cluster", path.display()))
}

/// Reads the cluster's authority.
///
/// # Errors
/// The file can not be read or understood.
pub fn read_authority(path: &std::path::Path) -> Result<Authority> {
    let pem = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{}: the cluster's authority can not be read; 'quarry cluster init' makes it",
            path.display()
        )
    })?;
    Ok(Authority::from_pem(&pem).map_err(|error| error.context(path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metaserver.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    const GOOD: &str =
        "identity = 'i'\nauthority = 'a'\nlisten = '127.0.0.1:7410'\ndir = 'state'\n";

    #[test]
    fn unknown_and_missing_keys_are_named_with_the_file() {
        let (_folder, path) = file(&format!("{GOOD}colour = 1\n"));
        let error = Run::of_file(path).settings().err().unwrap().to_string();
        for part in ["colour", "metaserver.toml", "cache_mib"] {
            assert!(error.contains(part), "{error}");
        }
        let (_folder, path) = file("identity = 'i'\nauthority = 'a'\nlisten = '127.0.0.1:7410'\n");
        let error = Run::of_file(path).settings().err().unwrap().to_string();
        assert!(error.contains("'dir'"), "{error}");
    }

    #[test]
    fn every_key_of_the_type_is_a_known_key_and_a_flag() {
        use clap::Args;
        let (folder, path) = file(GOOD);
        let mut settings = Run::of_file(path).settings().unwrap();
        assert_eq!(settings.server.dir, folder.path().join("state"));
        settings.server.advertise = Some("a:1".into());
        settings.server.metaservers = vec![(quarry_common::ids::ServerId(1), "b:1".into())];
        let table: toml::Table = toml::to_string(&settings.server).unwrap().parse().unwrap();
        let command = Run::augment_args(clap::Command::new("run"));
        for key in table
            .keys()
            .map(String::as_str)
            .chain(["identity", "authority", "seed"])
        {
            assert!(KEYS.contains(&key), "{key}");
            let flag = command.get_arguments().find(|arg| arg.get_id() == key);
            let flag = flag.unwrap_or_else(|| panic!("{key} is no flag"));
            assert_eq!(
                flag.get_env().unwrap(),
                format!("QUARRY_{}", key.to_uppercase()).as_str()
            );
        }
        assert_eq!(KEYS.len(), table.len() + 3);
    }
}
