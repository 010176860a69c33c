//! The directory of a development cluster: what is in it, and what it is made of.

use crate::account;
use crate::failure::Misuse;
use crate::founding;
use crate::path::escaped;
use crate::server::load_identity;
use crate::size::counted;
use anyhow::{Context as _, Result, bail};
use quarry_client::ClientFile;
use quarry_common::durable;
use quarry_common::given_file;
use quarry_common::identity::{Authority, Identity, PeerName, SERVER_VALID, USER_VALID};
use quarry_common::ids::{ClusterId, ServerId};
use quarry_common::limits::DOOM_GRACE;
use quarry_common::wire::meta::User;
use quarry_dataserver::{DataserverConfig, DiskConfig};
use quarry_metaserver::{ClusterSeed, MetaserverConfig};
use serde::{Deserialize, Deserializer, Serialize};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Dataservers of a new cluster, unless said otherwise.
const DATASERVERS: u32 = 3;

/// Metaservers of a new cluster, unless said otherwise.
const METASERVERS: u32 = 1;

/// Memory for a metaserver's block cache, in MiB: it shares the machine with everything else.
const CACHE_MIB: u64 = 128;

/// Its disks are small: they look often for what nobody committed.
const COLLECT_EVERY_SECONDS: u64 = 60;

/// Who tries things out does not want to wait ten minutes for a rebuild (DESIGN §4.1).
const OUT_AFTER_SECONDS: u64 = 20;

/// The directory.
///
/// ```text
/// dev.toml                 what the cluster is made of; written last, so it says that the rest is there
/// lock                     the number of the process that runs it, which holds a lock on it
/// log                      of a detached process
/// control                  the socket of a process whose servers are processes of their own
/// meta-1.log ...           of such servers, also dataservers' (data-1.log ...)
/// seed.toml                what such metaservers are started with
/// seed.toml.begun-1        the cluster was begun: it is not begun again without its state
/// making                   all this is being made for the first time
/// authority.pem            the cluster's authority
/// client.toml              the admin's client file
/// meta-1/ ...              identity.pem, and a metaserver's state; metaserver.toml of a process of its own
/// dataserver-1/ ...        identity.pem, and disk-1 ...; dataserver.toml of a process of its own
/// ```
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

/// What was asked for; nothing means what there is, or what is usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Metaservers.
    pub metaservers: Option<u32>,
    /// Dataservers.
    pub dataservers: Option<u32>,
    /// Disks of each.
    pub disks: Option<u32>,
}

/// What a development cluster is made of: `dev.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// Dataservers.
    pub dataservers: u32,
    /// Disks of each.
    pub disks: u32,
    /// Chosen once, one for each metaserver. Clusters of earlier versions have one, as a number.
    #[serde(alias = "metaserver_port", deserialize_with = "one_or_more")]
    pub metaserver_ports: Vec<u16>,
    /// Chosen once, one for each dataserver.
    pub dataserver_ports: Vec<u16>,
    /// The admin.
    pub admin: String,
}

fn one_or_more<'de, D: Deserializer<'de>>(ports: D) -> Result<Vec<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ports {
        One(u16),
        More(Vec<u16>),
    }
    Ok(match Ports::deserialize(ports)? {
        Ports::One(port) => vec![port],
        Ports::More(ports) => ports,
    })
}

impl Home {
    /// The directory at that absolute path.
    pub fn new(dir: PathBuf) -> Home {
        Home { dir }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// There from the first moment until dev.toml is.
    fn making(&self) -> PathBuf {
        self.dir.join("making")
    }

    /// The seed of the cluster, a file where its servers are processes of their own.
    pub fn seed(&self) -> PathBuf {
        self.dir.join("seed.toml")
    }

    /// The log of a detached process.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The socket at which the parent of servers that are processes of their own is asked.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// How a command names it, with a space before: ` --dir DIR`, or nothing if that is the usual one.
    pub fn place(&self) -> String {
        match self.dir == super::usual_dir().unwrap_or_default() {
            true => String::new(),
            false => format!(" --dir {}", self.dir.display()),
        }
    }

    /// The admin's client file.
    pub fn client_file(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    /// Makes the directory, for its owner alone: there are keys in it. There from before it must be a cluster's, or empty.
    ///
    /// # Errors
    /// It can not be made, or is somebody else's.
    pub fn make(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir);
        made.with_context(|| {
            format!(
                "{}: can not be made; choose another place with --dir",
                self.dir.display()
            )
        })?;
        let making = self.making();
        let is_made = || self.dir.join("dev.toml").exists();
        if is_made() {
            return Ok(());
        }
        if self.metaserver_dir(ServerId(1)).join("state").exists() && !is_made() {
            bail!(
                "{}: has the state of a cluster but no dev.toml: restore that file, or choose another place with --dir",
                self.dir.display()
            );
        }
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            // Another process may have begun it, now or before it was cut off.
            if name != "lost+found" && !making.exists() && !is_made() {
                bail!(
                    "{}: has something else in it ({}) and no development cluster: choose another place with --dir",
                    self.dir.display(),
                    escaped(name.as_encoded_bytes())
                );
            }
        }
        std::fs::write(&making, "")
            .with_context(|| format!("{}: can not be written", making.display()))
    }

    /// What the cluster there is made of; `None` if there is none yet.
    ///
    /// # Errors
    /// `dev.toml` can not be read or understood.
    pub fn plan(&self) -> Result<Option<Plan>> {
        let path = self.dir.join("dev.toml");
        let file = match given_file::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("{}: can not be read", path.display()))?,
        };
        let plan: Plan = match toml::from_str(&file.text) {
            Ok(plan) => plan,
            Err(error) => bail!("{}: {}", path.display(), error.to_string().trim_end()),
        };
        if plan.metaserver_ports.is_empty() {
            bail!("{}: has no port for a metaserver", path.display());
        }
        if plan.dataserver_ports.len() != plan.dataservers as usize {
            bail!(
                "{}: has {} ports for {} dataservers",
                path.display(),
                plan.dataserver_ports.len(),
                plan.dataservers
            );
        }
        Ok(Some(plan))
    }

    /// The cluster that is there, or a new one.
    ///
    /// # Errors
    /// What is there is made of something else than was asked for, or can not be used.
    pub fn found_or_make(&self, wanted: Wanted) -> Result<Plan> {
        match self.plan()? {
            Some(plan) => {
                self.check(&plan, wanted)?;
                self.move_earlier_metaserver()?;
                Ok(plan)
            }
            None => self.make_cluster(wanted),
        }
    }

    /// Earlier versions had one metaserver, in a directory of another name.
    fn move_earlier_metaserver(&self) -> Result<()> {
        let (earlier, now) = (
            self.dir.join("metaserver"),
            self.metaserver_dir(ServerId(1)),
        );
        if earlier.exists() && !now.exists() {
            std::fs::rename(&earlier, &now)
                .with_context(|| format!("{}: can not be renamed", earlier.display()))?;
        }
        Ok(())
    }

    /// Whether the cluster that is there is what was asked for.
    ///
    /// # Errors
    /// [`Misuse`] with the remedy if it is not.
    pub fn check(&self, plan: &Plan, wanted: Wanted) -> Result<()> {
        let differs = |wanted: Option<u32>, is: u32| wanted.is_some_and(|wanted| wanted != is);
        if differs(wanted.metaservers, plan.metaserver_ports.len() as u32)
            || differs(wanted.dataservers, plan.dataservers)
            || differs(wanted.disks, plan.disks)
        {
            let text = format!(
                "the cluster in {} has {} and {} with {} each: \
                 leave --metaservers, --dataservers and --disks out to start it as it is, or make another one with --dir",
                self.dir.display(),
                counted(
                    plan.metaserver_ports.len() as u64,
                    "metaserver",
                    "metaservers"
                ),
                counted(plan.dataservers.into(), "dataserver", "dataservers"),
                counted(plan.disks.into(), "disk", "disks")
            );
            return Err(Misuse::new(text).into());
        }
        Ok(())
    }

    fn make_cluster(&self, wanted: Wanted) -> Result<Plan> {
        // What is there without dev.toml is of an earlier start that was cut off before there was anything to lose.
        let dataservers = wanted.dataservers.unwrap_or(DATASERVERS);
        let metaservers = wanted.metaservers.unwrap_or(METASERVERS) as usize;
        let mut metaserver_ports = free_ports(metaservers + dataservers as usize)?;
        let dataserver_ports = metaserver_ports.split_off(metaservers);
        let authority = founding::authority()?;
        let plan = Plan {
            cluster: authority.cluster().to_string(),
            dataservers,
            disks: wanted.disks.unwrap_or(1),
            metaserver_ports,
            dataserver_ports,
            admin: account::caller(true).name,
        };
        founding::save_authority(&authority, &self.authority_path())?;
        for (server, _) in plan.metaservers() {
            let dir = self.metaserver_dir(server);
            std::fs::create_dir_all(&dir)?;
            let name = PeerName::metaserver(authority.cluster(), server);
            founding::issue_server(&authority, &name, &dir.join("identity.pem"))?;
        }
        for server in plan.servers() {
            let dir = self.dataserver_dir(server);
            std::fs::create_dir_all(&dir)?;
            let name = PeerName::dataserver(authority.cluster(), server);
            founding::issue_server(&authority, &name, &dir.join("identity.pem"))?;
        }
        self.write_client_file(&authority, &plan)?;
        let text = toml::to_string(&plan)?;
        let head =
            "# A development cluster (quarry dev). The state beside this file belongs to it.\n";
        let path = self.dir.join("dev.toml");
        durable::replace(&path, format!("{head}{text}").as_bytes())
            .with_context(|| format!("{}: can not be written", path.display()))?;
        let making = self.making();
        std::fs::remove_file(&making)
            .with_context(|| format!("{}: can not be removed", making.display()))?;
        Ok(plan)
    }

    fn write_client_file(&self, authority: &Authority, plan: &Plan) -> Result<()> {
        let file = founding::client_file(authority, &plan.admin, &plan.metaservers())?;
        Ok(file.save(&self.client_file())?)
    }

    /// The cluster's authority, with its key.
    pub fn authority_path(&self) -> PathBuf {
        self.dir.join("authority.pem")
    }

    /// A metaserver's folder.
    pub fn metaserver_dir(&self, server: ServerId) -> PathBuf {
        self.dir.join(format!("meta-{server}"))
    }

    /// A dataserver's folder.
    pub fn dataserver_dir(&self, server: ServerId) -> PathBuf {
        self.dir.join(format!("dataserver-{server}"))
    }

    /// The cluster's authority.
    ///
    /// # Errors
    /// The file can not be read, or is another cluster's.
    pub fn authority(&self, plan: &Plan) -> Result<Authority> {
        let path = self.authority_path();
        let authority = Authority::load(&path)?;
        let cluster: ClusterId = plan.cluster.parse().map_err(anyhow::Error::msg)?;
        if authority.cluster() != cluster {
            bail!(
                "{}: is of cluster {}, dev.toml of cluster {cluster}",
                path.display(),
                authority.cluster()
            );
        }
        Ok(authority)
    }

    /// The admin's client file; a certificate that will soon end is renewed first.
    ///
    /// # Errors
    /// It can neither be read nor made.
    pub fn renewed_client_file(&self, authority: &Authority, plan: &Plan) -> Result<ClientFile> {
        let good = ClientFile::load(&self.client_file()).ok().filter(|file| {
            let identity = Identity::from_pem(&file.identity);
            file.cluster == authority.cluster()
                && identity.is_ok_and(|identity| lasts(&identity, USER_VALID))
        });
        if good.is_none() {
            self.write_client_file(authority, plan)?;
        }
        Ok(ClientFile::load(&self.client_file())?)
    }

    /// A metaserver's settings and identity.
    ///
    /// # Errors
    /// Its identity can not be read or renewed.
    pub fn metaserver(
        &self,
        authority: &Authority,
        plan: &Plan,
        server: ServerId,
    ) -> Result<(MetaserverConfig, Arc<Identity>)> {
        let dir = self.metaserver_dir(server);
        let name = PeerName::metaserver(authority.cluster(), server);
        let identity = renewed(authority, &name, &dir.join("identity.pem"))?;
        let config = MetaserverConfig {
            listen: local(plan.metaserver_ports[server.0 as usize - 1]),
            advertise: None,
            dir,
            metaservers: Vec::new(),
            cache_mib: CACHE_MIB,
            doom_grace_seconds: DOOM_GRACE.as_secs(),
            out_after_seconds: OUT_AFTER_SECONDS,
        };
        Ok((config, identity))
    }

    /// A dataserver's settings and identity.
    ///
    /// # Errors
    /// Its identity can not be read or renewed.
    pub fn dataserver(
        &self,
        authority: &Authority,
        plan: &Plan,
        server: ServerId,
    ) -> Result<(DataserverConfig, Arc<Identity>)> {
        let dir = self.dataserver_dir(server);
        let disks = (1..=plan.disks).map(|number| DiskConfig {
            path: dir.join(format!("disk-{number}")),
        });
        let config = DataserverConfig {
            listen: local(plan.dataserver_ports[server.0 as usize - 1]),
            advertise: None,
            metaservers: plan.metaservers(),
            host: Some(format!("dev-{server}")),
            rack: String::new(),
            zone: String::new(),
            disks: disks.collect(),
            direct_io: true,
            replace_disk: Vec::new(),
            collect_every_seconds: COLLECT_EVERY_SECONDS,
        };
        let name = PeerName::dataserver(authority.cluster(), server);
        let identity = renewed(authority, &name, &dir.join("identity.pem"))?;
        Ok((config, identity))
    }
}

impl Plan {
    /// The dataservers.
    pub fn servers(&self) -> impl Iterator<Item = ServerId> + use<> {
        (1..=self.dataservers).map(ServerId)
    }

    /// The metaservers and their addresses.
    pub fn metaservers(&self) -> Vec<(ServerId, String)> {
        let ports = (1..).map(ServerId).zip(&self.metaserver_ports);
        ports
            .map(|(id, port)| (id, local(*port).to_string()))
            .collect()
    }

    /// The dataservers and their addresses.
    pub fn dataserver_addresses(&self) -> Vec<(ServerId, String)> {
        let ports = self.servers().zip(&self.dataserver_ports);
        ports
            .map(|(id, port)| (id, local(*port).to_string()))
            .collect()
    }

    /// What the cluster begins with.
    pub fn seed(&self, authority: &Authority) -> ClusterSeed {
        let replicas = founding::usual_replicas(self.dataservers);
        let admin = User {
            name: self.admin.clone(),
            ..account::caller(true)
        };
        ClusterSeed {
            cluster: authority.cluster(),
            replicas,
            min_members: founding::usual_min_members(replicas),
            pg_count: founding::pg_count(self.dataservers * self.disks, replicas),
            dataservers: self.dataservers,
            metaservers: self.metaservers(),
            users: vec![admin],
        }
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Ports that nobody uses now; all are held until all are found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let sockets = (0..count).map(|_| UdpSocket::bind(local(0)));
    let sockets = sockets.collect::<std::io::Result<Vec<_>>>();
    let sockets = sockets.context("no free UDP ports on 127.0.0.1")?;
    sockets
        .iter()
        .map(|socket| Ok(socket.local_addr()?.port()))
        .collect()
}

/// Whether a certificate is good for at least a third of its life.
fn lasts(identity: &Identity, valid: Duration) -> bool {
    let left = |end: SystemTime| end.duration_since(SystemTime::now()).unwrap_or_default();
    identity.expires_at().is_ok_and(|end| left(end) > valid / 3)
}

/// A server's identity; one that will soon end is renewed first.
fn renewed(authority: &Authority, name: &PeerName, path: &Path) -> Result<Arc<Identity>> {
    let identity = load_identity(path)?;
    if lasts(&identity, SERVER_VALID) {
        return Ok(identity);
    }
    founding::issue_server(authority, name, path)?;
    load_identity(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_made_once_and_keeps_its_ports() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("dev"));
        home.make().unwrap();
        assert_eq!(home.plan().unwrap(), None);
        let wanted = Wanted {
            metaservers: Some(3),
            dataservers: Some(2),
            disks: None,
        };
        let plan = home.found_or_make(wanted).unwrap();
        assert_eq!(home.found_or_make(Wanted::default()).unwrap(), plan);
        let authority = home.authority(&plan).unwrap();
        let file = home.renewed_client_file(&authority, &plan).unwrap();
        let addresses = file.metaservers.iter().map(|known| known.address.clone());
        let ports = plan.metaserver_ports.iter();
        assert!(addresses.eq(ports.map(|port| format!("127.0.0.1:{port}"))));
        let (config, identity) = home.metaserver(&authority, &plan, ServerId(3)).unwrap();
        assert_eq!(config.dir, home.dir().join("meta-3"));
        assert_eq!(identity.name().id(), "3");
        let (config, identity) = home.dataserver(&authority, &plan, ServerId(2)).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.host_label(), "dev-2");
        assert_eq!(identity.name().id(), "2");
        let seed = plan.seed(&authority);
        assert_eq!(
            (seed.replicas, seed.min_members, seed.users[0].admin),
            (2, 2, true)
        );
    }

    #[test]
    fn another_shape_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_path_buf());
        home.make().unwrap();
        home.found_or_make(Wanted::default()).unwrap();
        let differ = |metaservers, dataservers| Wanted {
            metaservers,
            dataservers,
            disks: None,
        };
        for wanted in [differ(None, Some(4)), differ(Some(3), None)] {
            let error = home.found_or_make(wanted).unwrap_err();
            assert!(
                error.is::<Misuse>() && error.to_string().contains("--dir"),
                "{error}"
            );
        }
    }

    #[test]
    fn state_without_its_plan_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_path_buf());
        std::fs::create_dir_all(folder.path().join("meta-1/state")).unwrap();
        for begun in [false, true] {
            if begun {
                std::fs::write(home.making(), "").unwrap();
            }
            let error = home.make().unwrap_err().to_string();
            assert!(error.contains("restore that file"), "{error}");
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_left_alone_and_a_start_that_was_cut_off_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_path_buf());
        std::fs::write(home.client_file(), "another cluster's").unwrap();
        let error = home.make().unwrap_err().to_string();
        assert!(
            error.contains("client.toml") && error.contains("--dir"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::remove_file(home.client_file()).unwrap();
        std::fs::create_dir(folder.path().join("lost+found")).unwrap();
        home.make().unwrap();
        std::fs::write(home.authority_path(), "half of").unwrap();
        home.make().unwrap();
        let plan = home.found_or_make(Wanted::default()).unwrap();
        home.make().unwrap();
        assert_eq!(home.found_or_make(Wanted::default()).unwrap(), plan);
        assert!(!home.making().exists());
    }

    #[test]
    fn a_cluster_of_an_earlier_version_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_path_buf());
        home.make().unwrap();
        let plan = home.found_or_make(Wanted::default()).unwrap();
        let path = folder.path().join("dev.toml");
        let now = format!("metaserver_ports = [{}]", plan.metaserver_ports[0]);
        let earlier = format!("metaserver_port = {}", plan.metaserver_ports[0]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(&now), "{text}");
        std::fs::write(&path, text.replace(&now, &earlier)).unwrap();
        std::fs::rename(
            folder.path().join("meta-1"),
            folder.path().join("metaserver"),
        )
        .unwrap();
        assert_eq!(home.found_or_make(Wanted::default()).unwrap(), plan);
        let authority = home.authority(&plan).unwrap();
        assert!(home.metaserver(&authority, &plan, ServerId(1)).is_ok());
    }
}
