//! `quarry bench`.

mod cpu;
mod drive;
mod limits;
mod meta;
mod report;
mod small;
mod stream;

use crate::context::{Context, interruptible};
use crate::size::{counted, parse_size};
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use cpu::Processes;
use limits::Limits;
use quarry_client::Client;
use quarry_common::wire::meta::Status;
use report::Report;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Measure the cluster, and next to it what this machine could do at best
///
/// Works in a directory of its own, /bench-..., which is removed at the end. CPU seconds are those of
/// this process and of all servers that run on this machine.
#[derive(Debug, clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
    /// Where the local disk is measured [default: beside a disk of the cluster that is on this machine]
    #[arg(long, global = true, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write large files, every copy synced
    Write(stream::Stream),
    /// Read large files over QUIC, the first time and once more when they are in the servers' page cache,
    /// and past the network where a dataserver is on this machine
    Read(stream::Stream),
    /// Write and read small files
    Small(small::Small),
    /// Create, stat, rename and remove empty files
    Meta(meta::Meta),
}

/// What a measurement needs.
pub struct Bed<'a> {
    /// The cluster.
    pub client: &'a Client,
    /// A directory of its own.
    pub dir: Vec<u8>,
    /// The processes whose CPU time counts.
    pub processes: Processes,
    /// Where the local disk is measured.
    pub scratch: PathBuf,
    /// Copies of every chunk.
    pub replicas: usize,
}

impl Bench {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or the local disk says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let client = context.connect().await?;
        let dir = format!("/bench-{:08x}", rand::random::<u32>()).into_bytes();
        let measured = interruptible(self.measure(&client, dir.clone())).await;
        // Also after Ctrl-C and errors: nothing of a benchmark stays, unless Ctrl-C comes once more.
        let removed = interruptible(async {
            match client.lstat(&dir).await {
                Ok(_) => Ok(client.remove_tree(&dir).await.map(drop)?),
                Err(_) => Ok(()),
            }
        })
        .await;
        let closed = client.close().await;
        let report = measured?;
        removed.with_context(|| format!("{} is left", crate::path::escaped(&dir)))?;
        closed?;
        match context.json {
            true => context.print_json(&report.json()),
            false => context.print(&report.text()),
        }
    }

    async fn measure(&self, client: &Client, dir: Vec<u8>) -> Result<Report> {
        let status = client.status().await?;
        let Some((_, pool, _)) = status.pools.first() else {
            bail!("the cluster has no pool: 'quarry status' says what is wrong");
        };
        let scratch = self.scratch.clone().unwrap_or_else(|| local_disk(&status));
        client.mkdir(&dir, 0o700).await?;
        let bed = Bed {
            client,
            dir,
            processes: Processes::find(&status),
            scratch,
            replicas: pool.redundancy.members(),
        };
        match &self.what {
            What::Write(stream) => stream.write(&bed).await,
            What::Read(stream) => stream.read(&bed).await,
            What::Small(small) => small.run(&bed).await,
            What::Meta(meta) => meta.run(&bed).await,
        }
    }
}

/// Who asks, in all benchmarks of many small operations.
#[derive(Clone, Copy, Debug)]
pub struct Callers {
    /// Clients, each with connections and a session of its own.
    pub clients: u32,
    /// Operations that each has under way at a time.
    pub each: u32,
}

impl Callers {
    /// Operations under way at a time.
    pub fn count(self) -> u32 {
        self.clients * self.each
    }

    /// `128 clients`, `2 clients with 64 operations each`.
    pub fn text(self) -> String {
        let clients = counted(self.clients.into(), "client", "clients");
        match self.each {
            1 => clients,
            each => format!("{clients} with {each} operations each"),
        }
    }
}

/// Clients of a benchmark, in this process; each has its own socket, connections and session.
#[derive(Clone)]
pub struct Clients(Arc<Vec<Client>>);

impl Clients {
    /// The client of a caller.
    pub fn of(&self, caller: u32) -> &Client {
        &self.0[caller as usize % self.0.len()]
    }

    /// Ends all sessions.
    ///
    /// # Errors
    /// None today.
    pub async fn close(self) -> Result<()> {
        for client in self.0.iter() {
            client.close().await?;
        }
        Ok(())
    }
}

impl Bed<'_> {
    /// Connects so many clients.
    ///
    /// # Errors
    /// A client can not connect.
    pub async fn clients(&self, count: u32) -> Result<Clients> {
        /// Handshakes at a time: a server lets no more wait than a few dozen.
        const CONNECTING_MAX: usize = 16;
        let mut clients = Vec::new();
        let mut connecting = JoinSet::new();
        for _ in 0..count {
            if connecting.len() == CONNECTING_MAX
                && let Some(connected) = connecting.join_next().await
            {
                clients.push(connected??);
            }
            connecting.spawn(Client::connect(self.client.file().clone()));
        }
        while let Some(connected) = connecting.join_next().await {
            clients.push(connected??);
        }
        Ok(Clients(Arc::new(clients)))
    }

    /// What this machine could do at best, with a file of so many bytes.
    ///
    /// # Errors
    /// The local disk can not be written.
    pub async fn limits(&self, len: u64) -> Result<Limits> {
        let scratch = self.scratch.clone();
        eprintln!("measuring this machine in {}", scratch.display());
        tokio::task::spawn_blocking(move || Limits::measure(&scratch, len)).await?
    }
}

/// The parent of a disk of the cluster that is on this machine, else the usual place for temporary files.
fn local_disk(status: &Status) -> PathBuf {
    let disks = status.servers.iter().flat_map(|server| &server.disks);
    let parents =
        disks.filter_map(|disk| Some(PathBuf::from(&disk.report.path).parent()?.to_path_buf()));
    let writable = |dir: &PathBuf| {
        rustix::fs::access(
            dir,
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        )
        .is_ok()
    };
    parents
        .into_iter()
        .find(writable)
        .unwrap_or_else(std::env::temp_dir)
}

/// A number of bytes, at least one.
fn parse_positive(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("nothing to measure: at least 1 byte".into()),
        size => Ok(size),
    }
}
