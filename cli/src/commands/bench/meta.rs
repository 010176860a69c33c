//! Operations without data: `bench meta`.

use super::report::{Figure, Report, Work};
use super::{Bed, Callers, Clients};
use crate::path::join;
use crate::size::counted;
use anyhow::Result;
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Op, RenameMode};
use std::sync::Arc;

/// How many, by how many at a time.
#[derive(Debug, clap::Args)]
pub struct Meta {
    /// Clients, each with a connection and a session of its own; several numbers are measured one after
    /// the other
    #[arg(long, value_delimiter = ',', default_value = "1,32,128", value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: Vec<u32>,
    /// Operations that each client has under way at a time, over its one connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    callers: u32,
    /// Files, for each number of clients; one client with one operation at a time gets a tenth
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    count: u64,
}

/// The directories of a round, one for each caller.
#[derive(Clone)]
struct Round {
    clients: Clients,
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
            let callers = Callers {
                clients: *clients,
                each: self.callers,
            };
            figures.extend(self.round(bed, &dir, callers, limits.syncs).await?);
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
        callers: Callers,
        syncs: f64,
    ) -> Result<Vec<Figure>> {
        bed.client.mkdir(dir, 0o700).await?;
        let mut dirs = Vec::new();
        for caller in 0..callers.count() {
            let path = join(dir, format!("d{caller}").as_bytes());
            dirs.push(bed.client.mkdir(&path, 0o700).await?.inode);
        }
        let round = Round {
            clients: bed.clients(callers.clients).await?,
            dirs: Arc::new(dirs),
        };
        let count = if callers.count() == 1 {
            self.count.div_ceil(10)
        } else {
            self.count
        };
        let amount = (callers.count(), count);
        let work = Work::Operations(count);
        let name = |word: &str| format!("{word}, {}", callers.text());
        let clients = round.clients.clone();
        let (create, stat) = (round.clone(), round.clone());
        let (rename, remove) = (round.clone(), round);
        let figures = vec![
            bed.drive(
                &name("create"),
                amount,
                work,
                Some(syncs),
                move |caller, number| create.clone().create(caller, number),
            )
            .await?,
            bed.drive(&name("stat"), amount, work, None, move |caller, number| {
                stat.clone().stat(caller, number)
            })
            .await?,
            bed.drive(
                &name("rename"),
                amount,
                work,
                Some(syncs),
                move |caller, number| rename.clone().rename(caller, number),
            )
            .await?,
            bed.drive(
                &name("remove"),
                amount,
                work,
                Some(syncs),
                move |caller, number| remove.clone().remove(caller, number),
            )
            .await?,
        ];
        clients.close().await?;
        Ok(figures)
    }
}

impl Round {
    fn dir(&self, number: u64) -> InodeId {
        self.dirs[(number % self.dirs.len() as u64) as usize]
    }

    async fn create(self, caller: u32, number: u64) -> Result<()> {
        let op = Op::Create {
            parent: self.dir(number),
            name: format!("f{number}").into_bytes(),
            mode: 0o600,
            exclusive: true,
        };
        Ok(self.clients.of(caller).mutate(op).await.map(drop)?)
    }

    async fn stat(self, caller: u32, number: u64) -> Result<()> {
        let name = format!("f{number}");
        Ok(self
            .clients
            .of(caller)
            .lookup(self.dir(number), name.as_bytes())
            .await
            .map(drop)?)
    }

    async fn rename(self, caller: u32, number: u64) -> Result<()> {
        let op = Op::Rename {
            from: self.dir(number),
            from_name: format!("f{number}").into_bytes(),
            to: self.dir(number),
            to_name: format!("g{number}").into_bytes(),
            mode: RenameMode::Replace,
        };
        Ok(self.clients.of(caller).mutate(op).await.map(drop)?)
    }

    async fn remove(self, caller: u32, number: u64) -> Result<()> {
        let op = Op::Unlink {
            parent: self.dir(number),
            name: format!("g{number}").into_bytes(),
        };
        Ok(self.clients.of(caller).mutate(op).await.map(drop)?)
    }
}
