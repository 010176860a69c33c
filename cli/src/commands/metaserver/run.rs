//! `quarry metaserver run`.

use super::begun::Begun;
use crate::server;
use anyhow::{Context as _, Result};
use quarry_common::config::ConfigFile;
use quarry_common::given_file;
use quarry_common::identity::{Authority, Identity, Role};
use quarry_metaserver::{ClusterSeed, MetaserverConfig};
use std::path::PathBuf;
use std::sync::Arc;

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

/// What is in the files that the settings name.
pub struct Files {
    pub identity: Arc<Identity>,
    pub authority: Authority,
    pub seed: Option<ClusterSeed>,
}

impl Settings {
    /// Reads the files.
    ///
    /// # Errors
    /// One can not be read or understood, nobody would talk to who has this identity, or they do not belong together.
    pub fn files(&self) -> Result<Files> {
        let files = Files {
            identity: server::fit_identity(&self.identity, Role::Metaserver)?,
            authority: Authority::load(&self.authority)?,
            seed: self.seed.as_deref().map(read_seed).transpose()?,
        };
        quarry_metaserver::check_identity(&files.identity, &files.authority, files.seed.as_ref())
            .map_err(|error| error.context(format_args!("the identity {}", self.identity.display())))?;
        Ok(files)
    }
}

impl Run {
    /// Runs it.
    ///
    /// # Errors
    /// The configuration can not work, or the server ends with an error.
    pub fn run(self) -> Result<()> {
        let settings = self.settings()?;
        let Files {
            identity,
            authority,
            seed,
        } = settings.files()?;
        let begun = match (&settings.seed, &seed) {
            (Some(path), Some(seed)) => {
                let server = identity.name().server_id()?;
                Some(Begun::of(server, path, seed, &settings.server.dir))
            }
            _ => None,
        };
        if let Some(begun) = &begun {
            begun.check()?;
        }
        server::run(async move |mut stopped| {
            let starting =
                quarry_metaserver::Metaserver::start(settings.server, identity, authority, seed);
            let server = tokio::select! {
                started = Box::pin(starting) => started?,
                // It may have to wait until it leads; what it had begun is as after a crash.
                () = &mut stopped => return Ok(()),
            };
            if let Some(begun) = begun {
                begun.note();
            }
            crate::server::say_ready(&format!("metaserver at {}", server.local_addr()?))?;
            stopped.await;
            Ok(server.stop().await?)
        })
    }

    /// Flags over environment over file.
    ///
    /// # Errors
    /// `Configuration`: an unknown key, a missing one, a wrong type, or what can not work.
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
        let server: MetaserverConfig = file.decode()?;
        server.check().map_err(|error| file.wrong(&error.text))?;
        Ok(Settings {
            identity: server::needed(&file, "identity", identity)?,
            authority: server::needed(&file, "authority", authority)?,
            seed,
            server,
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
fn read_seed(path: &std::path::Path) -> Result<ClusterSeed> {
    let file = given_file::read(path).with_context(|| {
        format!(
            "{}: the seed of the cluster can not be read",
            path.display()
        )
    })?;
    toml::from_str(&file.text)
        .with_context(|| format!("{}: is no seed of a cluster", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

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
        let (_folder, path) = file(&GOOD.replace("127.0.0.1:7410", "junk"));
        let error = Run::of_file(path).settings().err().unwrap().to_string();
        for part in ["metaserver.toml", "'junk'", "IP:PORT", "listen"] {
            assert!(error.contains(part), "{error}");
        }
        let (_folder, path) = file(&format!("{GOOD}advertise = 'junk'\n"));
        let error = Run::of_file(path).settings().err().unwrap().to_string();
        for part in ["metaserver.toml", "advertise 'junk'", "HOST:PORT"] {
            assert!(error.contains(part), "{error}");
        }
        let (_folder, path) = file("identity = 'i'\nauthority = 'a'\nlisten = '127.0.0.1:7410'\n");
        let error = Run::of_file(path).settings().err().unwrap().to_string();
        assert!(error.contains("'dir'"), "{error}");
    }

    #[test]
    fn an_expired_certificate_does_not_start_and_is_no_good_configuration() {
        use quarry_common::identity::PeerName;
        use quarry_common::ids::{ClusterId, ServerId};
        use std::time::Duration;
        let (folder, path) = file(GOOD);
        let at = |name: &str| folder.path().join(name);
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3_600));
        let authority = Authority::create(ClusterId([1; 16]), now - 48 * hour).unwrap();
        crate::founding::save_authority(&authority, &at("a")).unwrap();
        let name = PeerName::metaserver(authority.cluster(), ServerId(1));
        for (valid, good) in [(72 * hour, true), (24 * hour, false)] {
            let identity = authority.issue(&name, valid, now - 47 * hour).unwrap();
            identity.save(&at("i")).unwrap();
            let settings = Run::of_file(path.clone()).settings().unwrap();
            let checked = crate::commands::config::check(&path);
            assert_eq!((settings.files().is_ok(), checked.is_ok()), (good, good));
            if let Err(error) = checked {
                let text = format!("{error:#}");
                for part in [at("i").to_str().unwrap(), "expired 23 hours ago", "issued"] {
                    assert!(text.contains(part), "{text}");
                }
            }
        }
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
