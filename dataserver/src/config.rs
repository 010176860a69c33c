//! What an operator says about a dataserver; the command line reads it from a TOML file.

use quarry_common::config::values;
use quarry_common::ids::ServerId;
use quarry_common::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The port of dataservers unless said otherwise (DESIGN §7).
pub const DEFAULT_PORT: u16 = 7420;

/// The configuration of a dataserver.
///
/// ```toml
/// listen = "[::]:7420"
/// advertise = "store-1.example.org:7420"
/// metaservers = [[1, "meta-1.example.org:7410"]]
/// rack = "r12"
///
/// [[disks]]
/// path = "/srv/quarry/disk-1"
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataserverConfig {
    /// The UDP address that it serves at.
    #[serde(default = "default_listen", deserialize_with = "values::listen")]
    pub listen: SocketAddr,
    /// `host:port` at which clients and other servers reach it; without it, `listen`, with the
    /// machine's name where that is every address.
    #[serde(default)]
    pub advertise: Option<String>,
    /// The metaservers and their addresses (`host:port`).
    pub metaservers: Vec<(ServerId, String)>,
    /// The failure domain: no two copies of a chunk are in one host. The host's name unless said otherwise.
    #[serde(default)]
    pub host: Option<String>,
    /// The rack of the host.
    #[serde(default)]
    pub rack: String,
    /// The zone of the rack.
    #[serde(default)]
    pub zone: String,
    /// The data directories.
    pub disks: Vec<DiskConfig>,
    /// Write past the page cache.
    #[serde(default = "yes")]
    pub direct_io: bool,
    /// Paths whose former disk is gone for good: the empty directory there becomes a new disk.
    #[serde(default)]
    pub replace_disk: Vec<PathBuf>,
    /// Each disk looks this often for chunks that the metaserver does not know.
    #[serde(default = "default_collect_every_seconds")]
    pub collect_every_seconds: u64,
}

/// One data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The directory.
    pub path: PathBuf,
}

fn default_listen() -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into()
}

/// Writes that were never committed are rare: a client died.
fn default_collect_every_seconds() -> u64 {
    3_600
}

fn yes() -> bool {
    true
}

impl DataserverConfig {
    /// Finds what can not work before anything is touched.
    ///
    /// # Errors
    /// `Configuration`, with what to change; begins with the key.
    pub fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::new(Code::Configuration, text));
        if self.metaservers.is_empty() {
            return refuse(
                "metaservers: none is named: add metaservers = [[1, \"host:7410\"]]".into(),
            );
        }
        values::check_metaservers(self.metaservers.iter().map(|(id, at)| (*id, at.as_str())))?;
        if let Some(address) = &self.advertise {
            values::check_address("advertise", address)?;
        }
        if let Some(host) = &self.host {
            values::check_label("host", host)?;
        }
        for (key, label) in [("rack", &self.rack), ("zone", &self.zone)] {
            // Without one, all hosts are in one.
            if !label.is_empty() {
                values::check_label(key, label)?;
            }
        }
        if self.disks.is_empty() {
            return refuse("disks: none is named: add [[disks]] with a path".into());
        }
        for (at, disk) in self.disks.iter().enumerate() {
            if self.disks[..at].contains(disk) {
                return refuse(format!("disks: {} is named twice", disk.path.display()));
            }
        }
        if self.collect_every_seconds == 0 {
            return refuse(
                "collect_every_seconds = 0 would ask the metaservers without a pause: 1 or more, 3600 is usual".into(),
            );
        }
        let is_disk = |path: &&PathBuf| self.disks.iter().any(|disk| disk.path == **path);
        match self.replace_disk.iter().find(|path| !is_disk(path)) {
            Some(path) => {
                let disks = self
                    .disks
                    .iter()
                    .map(|disk| disk.path.display().to_string());
                refuse(format!(
                    "replace_disk: {} is to be replaced, but is none of the disks, which are {}",
                    path.display(),
                    disks.collect::<Vec<_>>().join(", ")
                ))
            }
            None => Ok(()),
        }
    }

    /// The label of the host.
    pub fn host_label(&self) -> String {
        let name = || rustix::system::uname().nodename().to_string_lossy().into();
        self.host.clone().unwrap_or_else(name)
    }

    /// What others are told to dial, when it listens at `local`.
    pub fn advertised(&self, local: SocketAddr) -> String {
        match &self.advertise {
            Some(address) => address.clone(),
            None if local.ip().is_unspecified() => {
                let name = rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .into_owned();
                format!("{name}:{}", local.port())
            }
            None => local.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DataserverConfig {
        DataserverConfig {
            listen: default_listen(),
            advertise: None,
            metaservers: vec![(ServerId(1), "m:7410".into())],
            host: None,
            rack: String::new(),
            zone: String::new(),
            disks: vec![DiskConfig { path: "/d".into() }],
            direct_io: true,
            replace_disk: Vec::new(),
            collect_every_seconds: default_collect_every_seconds(),
        }
    }

    #[test]
    fn what_can_not_work_is_refused_with_the_remedy() {
        assert_eq!(config().check(), Ok(()));
        let mut bad = [(); 12].map(|()| config());
        bad[0].metaservers.clear();
        bad[1].disks.clear();
        bad[2].disks.push(DiskConfig { path: "/d".into() });
        bad[3].replace_disk.push("/e".into());
        bad[4].advertise = Some("junk".into());
        bad[5].metaservers[0].1 = "junk".into();
        bad[6].metaservers[0].0 = ServerId(0);
        bad[7].metaservers.push((ServerId(1), "n:7410".into()));
        bad[8].host = Some(String::new());
        bad[9].rack = "r/1".into();
        bad[10].zone = "a b".into();
        bad[11].collect_every_seconds = 0;
        let said = [
            "metaserver",
            "disk",
            "twice",
            "none of",
            "advertise 'junk'",
            "metaserver 1 'junk'",
            "no metaserver 0",
            "metaserver 1 is named twice",
            "host = ''",
            "rack = 'r/1'",
            "zone = 'a b'",
            "collect_every_seconds = 0",
        ];
        for (config, said) in bad.iter().zip(said) {
            let text = config.check().unwrap_err().text;
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn an_address_that_can_not_be_dialled_is_not_told_to_others() {
        let told = config().advertised("0.0.0.0:99".parse().unwrap());
        assert!(told.ends_with(":99") && !told.starts_with("0.0.0.0"));
        assert_eq!(
            config().advertised("127.0.0.1:99".parse().unwrap()),
            "127.0.0.1:99"
        );
    }
}
