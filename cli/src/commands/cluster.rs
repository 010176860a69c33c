//! `quarry cluster`.

use crate::account;
use crate::address::{Address, DATASERVER_PORT, METASERVER_PORT};
use crate::context::Context;
use crate::failure::Misuse;
use crate::founding;
use crate::path::put_json;
use crate::server_folder::{
    MetaserverFiles, make_empty, make_private, metaservers_toml, quoted, write,
};
use anyhow::{Result, bail};
use clap::Subcommand;
use quarry_common::identity::{Authority, PeerName, SERVER_VALID};
use quarry_common::ids::ServerId;
use quarry_metaserver::ClusterSeed;
use serde_json::Map;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

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
    /// metaserver.toml' or 'quarry dataserver run --config dataserver.toml'. A metaserver's folder
    /// holds the key of the cluster's authority: guard it.
    Init(Init),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// A directory that is not there yet, or is empty
    dir: PathBuf,
    /// Where a metaserver will be reached, once for each; the port is 7410 if left out
    ///
    /// With three the cluster survives the loss of one, with five of two. One is enough for trying.
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
        let metaservers = self.metaservers()?;
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
        let named = self
            .dataserver
            .iter()
            .map(|text| Address::parse(text, DATASERVER_PORT));
        let named = named.collect::<Result<Vec<Address>>>()?;
        let mut addresses: Vec<&Address> = named.iter().collect();
        addresses.extend(metaservers.iter().map(|(_, address)| address));
        for (at, address) in addresses.iter().enumerate() {
            if addresses[..at].contains(address) {
                let text = format!("two servers can not both be at {}", address.text());
                return Err(Misuse::new(text).into());
            }
        }

        let authority = founding::authority()?;
        let mut admin = account::caller(true);
        admin.name = self.admin.clone().unwrap_or(admin.name);
        let known: Vec<(ServerId, String)> = metaservers
            .iter()
            .map(|(id, address)| (*id, address.text()))
            .collect();
        // First: it refuses a name that can not be.
        let client = founding::client_file(&authority, &admin.name, &known)?;
        let seed = ClusterSeed {
            cluster: authority.cluster(),
            replicas,
            min_members,
            pg_count: founding::pg_count(count * self.disks.len() as u32, replicas),
            dataservers: count,
            metaservers: known.clone(),
            users: vec![admin],
        };
        seed.check().map_err(|error| Misuse::new(error.text))?;
        make_empty(&self.dir)?;
        for (id, address) in &metaservers {
            self.metaserver(&authority, *id, address, &seed)?;
        }
        for number in 1..=count {
            let address = named.get(number as usize - 1);
            self.dataserver(&authority, ServerId(number), address, &known)?;
        }
        client.save(&self.dir.join("client.toml"))?;
        if context.json {
            let folders = |role: &str, count| -> Vec<String> {
                (1..=count).map(|id| format!("{role}-{id}")).collect()
            };
            let mut object = Map::new();
            put_json(&mut object, "dir", self.dir.as_os_str().as_bytes());
            object.insert("cluster".into(), seed.cluster.to_string().into());
            let metaservers = folders("metaserver", metaservers.len() as u32);
            object.insert("metaservers".into(), metaservers.into());
            object.insert("dataservers".into(), folders("dataserver", count).into());
            object.insert("client_file".into(), "client.toml".into());
            return context.print_json(&object.into());
        }
        context.print(&self.next_steps(metaservers.len(), count))
    }

    /// The metaservers and where they will be reached.
    fn metaservers(&self) -> Result<Vec<(ServerId, Address)>> {
        let numbered = (1..).map(ServerId).zip(&self.metaservers);
        let parsed = numbered.map(|(id, text)| Ok((id, Address::parse(text, METASERVER_PORT)?)));
        parsed.collect()
    }

    fn metaserver(
        &self,
        authority: &Authority,
        server: ServerId,
        address: &Address,
        seed: &ClusterSeed,
    ) -> Result<()> {
        let name = PeerName::metaserver(authority.cluster(), server);
        let identity = authority.issue(&name, SERVER_VALID, SystemTime::now())?;
        let files = MetaserverFiles {
            identity: identity.to_pem(),
            authority: &authority.to_pem(),
            address,
            seed: Some(seed),
            metaservers: &[],
            doom_grace_seconds: None,
            out_after_seconds: None,
        };
        files.write(&self.dir.join(format!("metaserver-{server}")))
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
        let mut config = format!(
            "# A dataserver: quarry dataserver run --config dataserver.toml\n\
             # Relative paths start at this file's folder.\n\n\
             identity = \"identity.pem\"\n\
             metaservers = {}\n",
            metaservers_toml(metaservers)
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

    fn next_steps(&self, metaservers: usize, count: u32) -> String {
        let dir = self.dir.display();
        let servers = |role: &str, count: u32| match count {
            1 => format!(
                "{dir}/{role}-1    copy it to the {role} and run there: quarry {role} run --config {role}-1/{role}.toml"
            ),
            more => format!(
                "{dir}/{role}-1 to {more}  copy each to its machine and run there: quarry {role} run --config {role}-N/{role}.toml"
            ),
        };
        format!(
            "{dir} holds a new cluster:\n  \
             {}\n  \
             {}\n  \
             {dir}/client.toml     is yours, the admin's: quarry --cluster {dir}/client.toml status\n",
            servers("metaserver", metaservers as u32),
            servers("dataserver", count)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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

    #[test]
    fn one_server_is_not_told_as_several() {
        let one = init(Path::new("/new"), &[], Some(1)).next_steps(1, 1);
        assert!(
            one.contains("/dataserver-1    copy it to the dataserver"),
            "{one}"
        );
        let three = init(Path::new("/new"), &[], Some(3)).next_steps(3, 3);
        assert!(three.contains("/dataserver-1 to 3  copy each"), "{three}");
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
        let run =
            crate::commands::metaserver::Run::of_file(dir.join("metaserver-1/metaserver.toml"));
        let files = run.settings().unwrap().files().unwrap();
        let seed = files.seed.unwrap();
        assert_eq!(
            (seed.replicas, seed.min_members, seed.dataservers),
            (2, 2, 2)
        );
    }

    #[test]
    fn what_can_not_work_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new");
        let good = || init(&dir, &["127.0.0.1:8001", "store-2"], None);
        let mut bad = [(); 5].map(|()| good());
        bad[0].dataserver[1] = "127.0.0.1:8001".into();
        bad[1].dataserver[1] = "127.0.0.1:7999".into();
        bad[2].metaservers.push("127.0.0.1:7999".into());
        bad[3].replicas = Some(3);
        bad[4].min_members = Some(3);
        let said = [
            "both be at 127.0.0.1:8001",
            "both be at 127.0.0.1:7999",
            "both be at 127.0.0.1:7999",
            "replicas = 3: there are 2 dataservers",
            "min_members = 3: writes go on with 1 to 2 copies",
        ];
        for (init, said) in bad.iter().zip(said) {
            let error = init.run(&context()).unwrap_err();
            assert!(
                error.is::<Misuse>() && error.to_string().contains(said),
                "{error}"
            );
            assert!(!dir.exists());
        }
        good().run(&context()).unwrap();
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
}
