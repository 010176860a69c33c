//! `quarry dataserver`.

use crate::context::Context;
use crate::server;
use anyhow::Result;
use clap::Subcommand;
use quarry_common::config::ConfigFile;
use quarry_common::identity::{Identity, Role};
use quarry_dataserver::DataserverConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Value;

/// The keys of a dataserver's configuration file.
pub const KEYS: &[&str] = &[
    "identity",
    "listen",
    "advertise",
    "metaservers",
    "host",
    "rack",
    "zone",
    "disks",
    "direct_io",
    "replace_disk",
    "collect_every_seconds",
];

/// Run a dataserver: it keeps chunks on disks
#[derive(Debug, clap::Args)]
pub struct Dataserver {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run until SIGTERM or Ctrl-C
    Run(Run),
}

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
    /// Where to listen, UDP
    #[arg(long, value_name = "IP:PORT", env = "QUARRY_LISTEN")]
    listen: Option<String>,
    /// How others reach it
    #[arg(long, value_name = "HOST:PORT", env = "QUARRY_ADVERTISE")]
    advertise: Option<String>,
    /// The metaservers
    #[arg(long, value_name = "ID=HOST:PORT", value_delimiter = ',', env = "QUARRY_METASERVERS", value_parser = server::parse_metaserver)]
    metaservers: Vec<(u32, String)>,
    /// The failure domain: no two copies of a chunk are in one host [default: the host's name]
    #[arg(long, value_name = "LABEL", env = "QUARRY_HOST")]
    host: Option<String>,
    /// The rack of the host
    #[arg(long, value_name = "LABEL", env = "QUARRY_RACK")]
    rack: Option<String>,
    /// The zone of the rack
    #[arg(long, value_name = "LABEL", env = "QUARRY_ZONE")]
    zone: Option<String>,
    /// Data directories
    #[arg(long, value_name = "DIR", value_delimiter = ',', env = "QUARRY_DISKS")]
    disks: Vec<PathBuf>,
    /// Whether to write past the page cache
    #[arg(long, value_name = "BOOL", env = "QUARRY_DIRECT_IO")]
    direct_io: Option<bool>,
    /// The disk that was in this data directory is gone for good: the empty directory becomes a new disk
    #[arg(
        long,
        value_name = "DIR",
        value_delimiter = ',',
        env = "QUARRY_REPLACE_DISK"
    )]
    replace_disk: Vec<PathBuf>,
    /// How often, in seconds, each disk looks for chunks that the metaserver does not know
    #[arg(long, value_name = "SECONDS", env = "QUARRY_COLLECT_EVERY_SECONDS")]
    collect_every_seconds: Option<i64>,
}

/// Everything that a dataserver is started with.
#[derive(Debug)]
pub struct Settings {
    pub identity: PathBuf,
    pub server: DataserverConfig,
}

impl Settings {
    /// Reads the identity.
    ///
    /// # Errors
    /// It can not be read, nobody would talk to who has it, or it is no dataserver's.
    pub fn identity(&self) -> Result<Arc<Identity>> {
        server::fit_identity(&self.identity, Role::Dataserver)
    }
}

impl Dataserver {
    /// Runs it.
    ///
    /// # Errors
    /// The configuration can not work, or the server ends with an error.
    pub fn run(self, _context: &Context) -> Result<()> {
        let Action::Run(run) = self.action;
        let settings = run.settings()?;
        let identity = settings.identity()?;
        server::run(async move |mut stopped| {
            let starting = quarry_dataserver::Dataserver::start(settings.server, identity);
            let server = tokio::select! {
                started = Box::pin(starting) => started?,
                // It waits for the metaservers as long as it takes.
                () = &mut stopped => return Ok(()),
            };
            crate::server::say_ready(&format!("dataserver at {}", server.local_addr()))?;
            stopped.await;
            Ok(server.stop().await?)
        })
    }
}

impl Run {
    /// Flags over environment over file.
    ///
    /// # Errors
    /// `Configuration`: an unknown key, a missing one, a wrong type, or what can not work.
    pub fn settings(&self) -> Result<Settings> {
        let mut file = ConfigFile::read(self.config.as_deref(), KEYS)?;
        file.set("listen", self.listen.clone());
        file.set("advertise", self.advertise.clone());
        file.set("host", self.host.clone());
        file.set("rack", self.rack.clone());
        file.set("zone", self.zone.clone());
        file.set("direct_io", self.direct_io);
        server::set_metaservers(&mut file, &self.metaservers);
        file.set("collect_every_seconds", self.collect_every_seconds);
        let disks = self.disks.iter().map(|path| {
            Ok(Value::Table(
                [("path".to_owned(), Value::String(server::text(path)?))]
                    .into_iter()
                    .collect(),
            ))
        });
        let disks = disks.collect::<Result<Vec<Value>>>()?;
        let disks_are_flags = !disks.is_empty();
        file.set("disks", disks_are_flags.then_some(disks));
        let replaced = self
            .replace_disk
            .iter()
            .map(|path| Ok(Value::String(server::text(path)?)));
        let replaced = replaced.collect::<Result<Vec<Value>>>()?;
        let replaced_are_flags = !replaced.is_empty();
        file.set("replace_disk", replaced_are_flags.then_some(replaced));

        let identity = server::path(&mut file, "identity", &self.identity)?;
        let identity = server::needed(&file, "identity", identity)?;
        let mut server: DataserverConfig = file.decode()?;
        let resolve = |path: &mut PathBuf| *path = file.resolve(path);
        if !disks_are_flags {
            server
                .disks
                .iter_mut()
                .for_each(|disk| resolve(&mut disk.path));
        }
        // A path of a flag may name a disk as it stands in the file, or from the working directory.
        for path in &mut server.replace_disk {
            let in_file = file.resolve(path);
            if !replaced_are_flags || is_disk(&server.disks, &in_file) {
                *path = in_file;
            } else if let Ok(absolute) = std::path::absolute(&*path)
                && let Some(disk) = server
                    .disks
                    .iter()
                    .find(|disk| std::path::absolute(&disk.path).is_ok_and(|disk| disk == absolute))
            {
                *path = disk.path.clone();
            }
        }
        server.check().map_err(|error| file.wrong(&error.text))?;
        Ok(Settings { identity, server })
    }

    /// With a file and no flags.
    pub fn of_file(config: PathBuf) -> Run {
        Run {
            config: Some(config),
            ..Run::default()
        }
    }
}

fn is_disk(disks: &[quarry_dataserver::DiskConfig], path: &Path) -> bool {
    disks.iter().any(|disk| disk.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dataserver.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    const GOOD: &str =
        "identity = 'identity.pem'\nmetaservers = [[1, 'm:7410']]\n[[disks]]\npath = 'disk-1'\n";

    #[test]
    fn paths_in_the_file_start_at_its_folder_and_flags_win() {
        let (folder, path) = file(GOOD);
        let mut run = Run::of_file(path);
        let settings = run.settings().unwrap();
        assert_eq!(settings.identity, folder.path().join("identity.pem"));
        assert_eq!(settings.server.disks[0].path, folder.path().join("disk-1"));
        run.listen = Some("127.0.0.1:99".into());
        run.disks = vec!["/a".into(), "/b".into()];
        run.metaservers = vec![(2, "n:1".into())];
        let settings = run.settings().unwrap();
        assert_eq!(settings.server.listen, "127.0.0.1:99".parse().unwrap());
        assert_eq!(settings.server.disks.len(), 2);
        assert_eq!(settings.server.metaservers[0].1, "n:1");
    }

    #[test]
    fn a_disk_to_be_replaced_is_named_as_in_the_file_or_from_here() {
        let (folder, path) = file(GOOD);
        let mut run = Run::of_file(path);
        run.replace_disk = vec!["disk-1".into()];
        assert_eq!(
            run.settings().unwrap().server.replace_disk[0],
            folder.path().join("disk-1")
        );
        run.replace_disk = vec![folder.path().join("disk-1")];
        assert!(run.settings().is_ok());
        run.replace_disk = vec!["/elsewhere".into()];
        assert!(run.settings().is_err());
    }

    #[test]
    fn what_is_bad_in_a_flag_is_not_blamed_on_the_file() {
        let (_folder, path) = file(GOOD);
        let bad = [(); 6].map(|()| Run::of_file(path.clone()));
        let [
            mut listen,
            mut rack,
            mut metaservers,
            mut disks,
            mut replace_disk,
            mut collect,
        ] = bad;
        listen.listen = Some("junk".into());
        rack.rack = Some("a b".into());
        metaservers.metaservers = vec![(1, "junk".into())];
        disks.disks = vec!["/d".into(), "/d".into()];
        replace_disk.replace_disk = vec!["/elsewhere".into()];
        collect.collect_every_seconds = Some(-1);
        for (run, flag) in [
            (listen, "--listen (or QUARRY_LISTEN "),
            (rack, "--rack (or QUARRY_RACK "),
            (metaservers, "--metaservers (or QUARRY_METASERVERS "),
            (disks, "--disks (or QUARRY_DISKS "),
            (replace_disk, "--replace-disk (or QUARRY_REPLACE_DISK "),
            (collect, "--collect-every-seconds (or QUARRY_COLLECT_EVERY"),
        ] {
            let text = run.settings().unwrap_err().to_string();
            assert!(text.starts_with(flag), "{text}");
        }
    }

    #[test]
    fn every_key_of_the_type_is_a_known_key_and_a_flag() {
        use clap::Args;
        let (_folder, path) = file(GOOD);
        let mut server = Run::of_file(path).settings().unwrap().server;
        server.advertise = Some("a:1".into());
        server.host = Some("h".into());
        let text = toml::to_string(&server).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let command = Run::augment_args(clap::Command::new("run"));
        for key in table.keys().map(String::as_str).chain(["identity"]) {
            assert!(KEYS.contains(&key), "{key}");
            let flag = command.get_arguments().find(|arg| arg.get_id() == key);
            let flag = flag.unwrap_or_else(|| panic!("{key} is no flag"));
            assert_eq!(flag.get_long(), Some(key.replace('_', "-").as_str()));
            assert_eq!(
                flag.get_env().unwrap(),
                format!("QUARRY_{}", key.to_uppercase()).as_str()
            );
        }
        assert_eq!(KEYS.len(), table.len() + 1);
    }
}
