//! Small files: `bench small`.

use super::report::{Report, Work};
use super::{Bed, parse_positive};
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
    /// Files under way at a time, over one connection
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
}

impl Small {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or the local disk says.
    pub async fn run(&self, bed: &Bed<'_>) -> Result<Report> {
        let limits = bed.limits(64 << 20).await?;
        for caller in 0..self.clients {
            bed.client
                .mkdir(&join(&bed.dir, format!("d{caller}").as_bytes()), 0o700)
                .await?;
        }
        let mut data = vec![0; usize::try_from(self.size)?];
        rand::Rng::fill(&mut rand::rng(), data.as_mut_slice());
        let data = Arc::new(data);
        let path = {
            let (dir, directories) = (Arc::new(bed.dir.clone()), u64::from(self.clients));
            move |number: u64| {
                join(
                    &dir,
                    format!("d{}/f{number}", number % directories).as_bytes(),
                )
            }
        };
        let amount = (self.clients, self.files);
        let work = Work::Operations(self.files);
        let (client, path_of) = (bed.client.clone(), path.clone());
        let write = move |_, number| {
            let (client, data, path) = (client.clone(), data.clone(), path_of(number));
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
        let (client, size) = (bed.client.clone(), self.size);
        let read = move |_, number| {
            let (client, path) = (client.clone(), path(number));
            async move {
                let len = client
                    .read_to(&path, &mut tokio::io::sink(), None, None)
                    .await?;
                ensure!(len == size, "{len} of {size} bytes were read");
                Ok(())
            }
        };
        let read = bed.drive("read", amount, work, None, read).await?;
        Ok(Report {
            what: format!(
                "{} of {}, {} at a time, {}",
                counted(self.files, "file", "files"),
                human(self.size),
                self.clients,
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
