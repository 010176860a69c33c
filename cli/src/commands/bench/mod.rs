//! `quarry bench`.

mod cpu;
mod drive;
mod limits;
mod meta;
mod report;
mod small;
mod stream;

use crate::context::{Context, interruptible};
use crate::size::parse_size;
use anyhow::{Result, bail};
use clap::Subcommand;
use cpu::Processes;
use limits::Limits;
use quarry_client::Client;
use quarry_common::wire::meta::Status;
use report::Report;
use std::path::PathBuf;

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
        // Also after Ctrl-C and errors: nothing of a benchmark stays.
        let removed = match client.lstat(&dir).await {
            Ok(_) => client.remove_tree(&dir).await.map(drop),
            Err(_) => Ok(()),
        };
        let closed = client.close().await;
        let report = measured?;
        removed?;
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

impl Bed<'_> {
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
