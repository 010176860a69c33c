//! Small files: `bench small`.

use super::report::{Report, Work};
use super::{Bed, Callers, parse_positive};
use crate::path::join;
use crate::size::{counted, human};
use anyhow::{Result, ensure};
use quarry_client::PublishOptions;
use std::sync::Arc;

/// How many, how large, by how many at a time.
#[derive(Debug, clap::Args)]
pub struct Small {
    /// Files
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    files: u64,
    /// Bytes of each
    #[arg(long, default_value = "4K", value_parser = parse_positive)]
    size: u64,
    /// Clients, each with connections and a session of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Files that each client has under way at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    callers: u32,
}

impl Small {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or the local disk says.
    pub async fn run(&self, bed: &Bed<'_>) -> Result<Report> {
        let limits = bed.limits(64 << 20).await?;
        let callers = Callers {
            clients: self.clients,
            each: self.callers,
        };
        let clients = bed.clients(callers.clients).await?;
        for caller in 0..callers.count() {
            bed.client
                .mkdir(&join(&bed.dir, format!("d{caller}").as_bytes()), 0o700)
                .await?;
        }
        let mut data = vec![0; usize::try_from(self.size)?];
        rand::Rng::fill(&mut rand::rng(), data.as_mut_slice());
        let data = Arc::new(data);
        let path = {
            let (dir, directories) = (Arc::new(bed.dir.clone()), u64::from(callers.count()));
            move |number: u64| {
                join(
                    &dir,
                    format!("d{}/f{number}", number % directories).as_bytes(),
                )
            }
        };
        let amount = (callers.count(), self.files);
        let work = Work::Operations(self.files);
        let (writers, path_of) = (clients.clone(), path.clone());
        let write = move |caller, number| {
            let client = writers.of(caller).clone();
            let (data, path) = (data.clone(), path_of(number));
            async move {
                client
                    .publish(&path, data.as_slice(), PublishOptions::default())
                    .await?;
                Ok(())
            }
        };
        let written = bed
            .drive("write", amount, work, Some(limits.syncs), write)
            .await?;
        let (readers, size) = (clients.clone(), self.size);
        let read = move |caller, number| {
            let (client, path) = (readers.of(caller).clone(), path(number));
            async move {
                let len = client
                    .read_to(&path, &mut tokio::io::sink(), None, None)
                    .await?;
                ensure!(len == size, "{len} of {size} bytes were read");
                Ok(())
            }
        };
        let read = bed.drive("read", amount, work, None, read).await?;
        clients.close().await?;
        Ok(Report {
            what: format!(
                "{} of {}, {}, {}",
                counted(self.files, "file", "files"),
                human(self.size),
                callers.text(),
                counted(bed.replicas as u64, "copy", "copies")
            ),
            figures: vec![written, read],
            limits: limits.list(bed.replicas),
            notes: vec![
                "best here: local appends of 4 KiB, each synced before the next; many files that share a sync can be faster".into(),
                bed.processes.note(),
            ],
        })
    }
}
