//! `quarry cluster`.

use crate::account;
use crate::context::Context;
use crate::failure::Misuse;
use crate::founding;
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use quarry_common::durable;
use quarry_common::identity::{Authority, PeerName};
use quarry_common::ids::ServerId;
use quarry_metaserver::ClusterSeed;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The ports that servers listen on unless said otherwise (DESIGN §7).
const METASERVER_PORT: u16 = 7410;
const DATASERVER_PORT: u16 = 7420;

/// Clusters of several processes or machines
#[derive(Debug, clap::Args)]
pub struct Cluster {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the certificates and configurations of a new cluster
    ///
    /// DIR gets a folder for each server and the admin's client file. Copy each server's folder to
    /// its machine, adapt its TOML file, and run there 'quarry metaserver run --config
    /// metaserver.toml' or 'quarry dataserver run --config dataserver.toml'. The metaserver's folder
    /// holds the key of the cluster's authority: guard it.
    Init(Init),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// A directory that is not there yet, or is empty
    dir: PathBuf,
    /// Where the metaserver will be reached (one, for now); the port is 7410 if left out
    #[arg(long = "metaserver", required = true, value_name = "HOST:PORT")]
    metaservers: Vec<String>,
    /// How many dataservers there will be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    dataservers: Option<u32>,
    /// Where a dataserver will be reached, once for each; the port is 7420 if left out
    #[arg(long = "dataserver", value_name = "HOST:PORT")]
    dataserver: Vec<String>,
    /// Data directories of each dataserver; relative ones lie in the server's folder
    #[arg(long = "disk", value_name = "DIR", default_value = "disk-1")]
    disks: Vec<PathBuf>,
    /// Copies of every chunk [default: 3, or as many as there are dataservers]
    #[arg(long, value_parser = clap::value_parser!(u8).range(founding::REPLICAS))]
    replicas: Option<u8>,
    /// Writes go on with so many copies [default: 2, or 1 with one copy]
    #[arg(long, value_parser = clap::value_parser!(u8).range(founding::REPLICAS))]
    min_members: Option<u8>,
    /// The admin's name [default: whoever runs this]
    #[arg(long, value_name = "NAME")]
    admin: Option<String>,
}

impl Cluster {
    /// Runs it.
    ///
    /// # Errors
    /// The directory is in use, or can not be written.
    pub fn run(self, context: &Context) -> Result<()> {
        let Action::Init(init) = self.action;
        init.run(context)
    }
}

impl Init {
    fn run(&self, context: &Context) -> Result<()> {
        let [metaserver] = self.metaservers.as_slice() else {
            return Err(Misuse::new("one metaserver for now: give --metaserver once").into());
        };
        let count = match (self.dataservers, self.dataserver.len() as u32) {
            (None, 0) => return Err(Misuse::new("say how many dataservers there will be: --dataservers N, or --dataserver HOST:PORT for each").into()),
            (None, named) => named,
            (Some(count), 0) => count,
            (Some(count), named) if count == named => count,
            (Some(count), named) => {
                return Err(Misuse::new(format!("--dataservers says {count}, but {named} are named with --dataserver")).into());
            }
        };
        let replicas = self
            .replicas
            .unwrap_or_else(|| founding::usual_replicas(count));
        let min_members = self
            .min_members
            .unwrap_or_else(|| founding::usual_min_members(replicas));
        if min_members > replicas {
            return Err(Misuse::new(format!(
                "writes can not need {min_members} of {replicas} copies: lower --min-members"
            ))
            .into());
        }
        let metaserver = Address::parse(metaserver, METASERVER_PORT)?;
        let named = self
            .dataserver
            .iter()
            .map(|text| Address::parse(text, DATASERVER_PORT));
        let named = named.collect::<Result<Vec<Address>>>()?;
        make_empty(&self.dir)?;

        let authority = founding::authority()?;
        let mut admin = account::caller(true);
        admin.name = self.admin.clone().unwrap_or(admin.name);
        let metaservers = vec![(ServerId(1), metaserver.text())];
        // First: it refuses a name that can not be.
        let client = founding::client_file(&authority, &admin.name, &metaservers)?;
        let seed = ClusterSeed {
            cluster: authority.cluster(),
            replicas,
            min_members,
            pg_count: founding::pg_count(count * self.disks.len() as u32, replicas),
            dataservers: count,
            metaservers: metaservers.clone(),
            users: vec![admin],
        };
        self.metaserver(&authority, &metaserver, &seed)?;
        for number in 1..=count {
            let address = named.get(number as usize - 1);
            self.dataserver(&authority, ServerId(number), address, &metaservers)?;
        }
        client.save(&self.dir.join("client.toml"))?;
        context.print(&self.next_steps(count))
    }

    fn metaserver(
        &self,
        authority: &Authority,
        address: &Address,
        seed: &ClusterSeed,
    ) -> Result<()> {
        let folder = self.dir.join("metaserver-1");
        make_private(&folder)?;
        founding::save_authority(authority, &folder.join("authority.pem"))?;
        let name = PeerName::metaserver(authority.cluster(), ServerId(1));
        founding::issue_server(authority, &name, &folder.join("identity.pem"))?;
        write(&folder.join("seed.toml"), &toml::to_string(seed)?)?;
        let config = format!(
            "# A metaserver: quarry metaserver run --config metaserver.toml\n\
             # Relative paths start at this file's folder.\n\n\
             identity = \"identity.pem\"\n\
             authority = \"authority.pem\"  # signs the certificates of users: guard it\n\
             seed = \"seed.toml\"           # what the cluster began with\n\
             dir = \"state\"\n\
             listen = \"{}\"\n\
             advertise = \"{}\"\n\
             # cache_mib = 256\n\
             # out_after_s = 600\n",
            address.listen(),
            address.text()
        );
        write(&folder.join("metaserver.toml"), &config)
    }

    fn dataserver(
        &self,
        authority: &Authority,
        server: ServerId,
        address: Option<&Address>,
        metaservers: &[(ServerId, String)],
    ) -> Result<()> {
        let folder = self.dir.join(format!("dataserver-{server}"));
        make_private(&folder)?;
        let name = PeerName::dataserver(authority.cluster(), server);
        founding::issue_server(authority, &name, &folder.join("identity.pem"))?;
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let known = metaservers
            .iter()
            .map(|(id, at)| format!("[{id}, {}]", quoted(at)));
        let mut config = format!(
            "# A dataserver: quarry dataserver run --config dataserver.toml\n\
             # Relative paths start at this file's folder.\n\n\
             identity = \"identity.pem\"\n\
             metaservers = [{}]\n",
            known.collect::<Vec<_>>().join(", ")
        );
        match address {
            Some(address) => config.push_str(&format!(
                "listen = \"{}\"\nadvertise = {}\n",
                address.listen(),
                quoted(&address.text())
            )),
            None => config.push_str(&format!(
                "listen = \"[::]:{DATASERVER_PORT}\"\n# advertise = \"HOST:{DATASERVER_PORT}\"  # unless others reach it by the host's name\n"
            )),
        }
        config.push_str(
            "# host = \"...\"  # the failure domain; the host's name if left out\n\
             # rack = \"...\"\n# zone = \"...\"\n# direct_io = true\n",
        );
        for disk in &self.disks {
            let Some(path) = disk.to_str() else {
                bail!(
                    "{}: a server's paths must be UTF-8: choose another",
                    disk.display()
                );
            };
            config.push_str(&format!("\n[[disks]]\npath = {}\n", quoted(path)));
        }
        write(&folder.join("dataserver.toml"), &config)
    }

    fn next_steps(&self, count: u32) -> String {
        let dir = self.dir.display();
        format!(
            "{dir} holds a new cluster:\n  \
             {dir}/metaserver-1    copy it to the metaserver and run there: quarry metaserver run --config metaserver-1/metaserver.toml\n  \
             {dir}/dataserver-1 to {count}  copy each to its machine and run there: quarry dataserver run --config dataserver-N/dataserver.toml\n  \
             {dir}/client.toml     is yours, the admin's: quarry --cluster {dir}/client.toml status\n"
        )
    }
}

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
}

impl Address {
    fn parse(text: &str, usual_port: u16) -> Result<Address> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Address {
                host: address.ip().to_string(),
                port: address.port(),
            });
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Address {
                host: ip.to_string(),
                port: usual_port,
            });
        }
        let (host, port) = match text.split_once(':') {
            None => (text, Some(usual_port)),
            Some((host, port)) => (host, port.parse().ok()),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        match port {
            Some(port) if !host.is_empty() && host.bytes().all(fits) => Ok(Address {
                host: host.to_owned(),
                port,
            }),
            _ => Err(Misuse::new(format!("'{text}' is no HOST:PORT")).into()),
        }
    }

    fn text(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{}", self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    /// An IP address is listened on as it is; of a name only the machine itself knows the addresses.
    fn listen(&self) -> SocketAddr {
        let ip = self
            .host
            .parse()
            .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        SocketAddr::new(ip, self.port)
    }
}

fn make_empty(dir: &Path) -> Result<()> {
    let failed = || format!("{}: can not be made", dir.display());
    std::fs::create_dir_all(dir).with_context(failed)?;
    if std::fs::read_dir(dir)
        .with_context(failed)?
        .next()
        .is_some()
    {
        bail!(
            "{}: is not empty: a new cluster needs a directory of its own",
            dir.display()
        );
    }
    Ok(())
}

/// For its owner alone: there are keys in it.
fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
    made.with_context(|| format!("{}: can not be made", dir.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    durable::replace(path, text.as_bytes())
        .with_context(|| format!("{}: can not be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(dir: &Path, dataserver: &[&str], dataservers: Option<u32>) -> Init {
        Init {
            dir: dir.to_path_buf(),
            metaservers: vec!["127.0.0.1:7999".into()],
            dataservers,
            dataserver: dataserver.iter().map(|text| (*text).to_owned()).collect(),
            disks: vec!["disk-1".into(), "/srv/disk-2".into()],
            replicas: None,
            min_members: None,
            admin: None,
        }
    }

    fn context() -> Context {
        Context::new(None, false, "cluster")
    }

    #[test]
    fn every_file_that_init_writes_is_a_good_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new");
        init(&dir, &["127.0.0.1:8001", "store-2"], None)
            .run(&context())
            .unwrap();
        for file in [
            "metaserver-1/metaserver.toml",
            "dataserver-1/dataserver.toml",
            "dataserver-2/dataserver.toml",
            "client.toml",
        ] {
            let check = crate::commands::config::check(&dir.join(file));
            check.unwrap_or_else(|error| panic!("{file}: {error:#}"));
        }
        let run =
            crate::commands::dataserver::Run::of_file(dir.join("dataserver-2/dataserver.toml"));
        let server = run.settings().unwrap().server;
        assert_eq!(server.advertise.as_deref(), Some("store-2:7420"));
        assert_eq!(server.disks[1].path, Path::new("/srv/disk-2"));
        let seed =
            crate::commands::metaserver::read_seed(&dir.join("metaserver-1/seed.toml")).unwrap();
        assert_eq!(
            (seed.replicas, seed.min_members, seed.dataservers),
            (2, 2, 2)
        );
    }

    #[test]
    fn a_directory_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), "mine").unwrap();
        let error = init(folder.path(), &[], Some(3))
            .run(&context())
            .unwrap_err();
        assert!(error.to_string().contains("not empty"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn addresses_have_usual_ports() {
        let text = |text| {
            Address::parse(text, 7410)
                .map(|address| address.text())
                .ok()
        };
        assert_eq!(text("meta-1").as_deref(), Some("meta-1:7410"));
        assert_eq!(text("meta-1:99").as_deref(), Some("meta-1:99"));
        assert_eq!(text("::1").as_deref(), Some("[::1]:7410"));
        assert_eq!(text("[::1]:99").as_deref(), Some("[::1]:99"));
        assert_eq!((text("a:b"), text(":1"), text("a b")), (None, None, None));
        assert_eq!(
            Address::parse("meta-1", 1).unwrap().listen().to_string(),
            "[::]:1"
        );
    }
}
