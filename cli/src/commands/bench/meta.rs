//! Operations without data: `bench meta`.

use super::Bed;
use super::report::{Figure, Report, Work};
use crate::path::join;
use crate::size::counted;
use anyhow::Result;
use quarry_client::Client;
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Op, RenameMode};
use std::sync::Arc;

/// How many, by how many at a time.
#[derive(Debug, clap::Args)]
pub struct Meta {
    /// Callers at a time, over one connection; several numbers are measured one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,32,128", value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: Vec<u32>,
    /// Files, for each number of callers; a single caller gets a tenth
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    count: u64,
}

/// The directories of a round, one for each caller.
#[derive(Clone)]
struct Round {
    client: Client,
    dirs: Arc<Vec<InodeId>>,
}

impl Meta {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or the local disk says.
    pub async fn run(&self, bed: &Bed<'_>) -> Result<Report> {
        let limits = bed.limits(64 << 20).await?;
        let mut figures = Vec::new();
        for (round, clients) in self.clients.iter().enumerate() {
            let dir = join(&bed.dir, format!("r{round}").as_bytes());
            figures.extend(self.round(bed, &dir, *clients, limits.syncs).await?);
        }
        Ok(Report {
            what: format!("{}, without data", counted(self.count, "file", "files")),
            figures,
            limits: limits.list(bed.replicas),
            notes: vec![
                "best here: local appends of 4 KiB, each synced before the next; commands that share a sync can be faster".into(),
                bed.processes.note(),
            ],
        })
    }

    async fn round(
        &self,
        bed: &Bed<'_>,
        dir: &[u8],
        clients: u32,
        syncs: f64,
    ) -> Result<Vec<Figure>> {
        bed.client.mkdir(dir, 0o700).await?;
        let mut dirs = Vec::new();
        for caller in 0..clients {
            let path = join(dir, format!("d{caller}").as_bytes());
            dirs.push(bed.client.mkdir(&path, 0o700).await?.inode);
        }
        let round = Round {
            client: bed.client.clone(),
            dirs: Arc::new(dirs),
        };
        let count = if clients == 1 {
            self.count.div_ceil(10)
        } else {
            self.count
        };
        let amount = (clients, count);
        let work = Work::Operations(count);
        let name = |word: &str| format!("{word}, {}", counted(clients.into(), "caller", "callers"));
        let (create, stat) = (round.clone(), round.clone());
        let (rename, remove) = (round.clone(), round);
        Ok(vec![
            bed.drive(
                &name("create"),
                amount,
                work,
                Some(syncs),
                move |_, number| create.clone().create(number),
            )
            .await?,
            bed.drive(&name("stat"), amount, work, None, move |_, number| {
                stat.clone().stat(number)
            })
            .await?,
            bed.drive(
                &name("rename"),
                amount,
                work,
                Some(syncs),
                move |_, number| rename.clone().rename(number),
            )
            .await?,
            bed.drive(
                &name("remove"),
                amount,
                work,
                Some(syncs),
                move |_, number| remove.clone().remove(number),
            )
            .await?,
        ])
    }
}

impl Round {
    fn dir(&self, number: u64) -> InodeId {
        self.dirs[(number % self.dirs.len() as u64) as usize]
    }

    async fn create(self, number: u64) -> Result<()> {
        let op = Op::Create {
            parent: self.dir(number),
            name: format!("f{number}").into_bytes(),
            mode: 0o600,
            exclusive: true,
        };
        Ok(self.client.mutate(op).await.map(drop)?)
    }

    async fn stat(self, number: u64) -> Result<()> {
        let name = format!("f{number}");
        Ok(self
            .client
            .lookup(self.dir(number), name.as_bytes())
            .await
            .map(drop)?)
    }

    async fn rename(self, number: u64) -> Result<()> {
        let op = Op::Rename {
            from: self.dir(number),
            from_name: format!("f{number}").into_bytes(),
            to: self.dir(number),
            to_name: format!("g{number}").into_bytes(),
            mode: RenameMode::Replace,
        };
        Ok(self.client.mutate(op).await.map(drop)?)
    }

    async fn remove(self, number: u64) -> Result<()> {
        let op = Op::Unlink {
            parent: self.dir(number),
            name: format!("g{number}").into_bytes(),
        };
        Ok(self.client.mutate(op).await.map(drop)?)
    }
}
