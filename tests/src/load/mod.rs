//! A load on a cluster: clients that do what users do, all the time, and in the end know what must be there.
//!
//! Everything follows from a seed but the order in which the clients come to their turn. What was acknowledged is
//! written down by whoever did it; in the end all of it is read by a client that is new.

mod appends;
mod content;
mod files;
mod ledger;
mod library;
mod meter;
mod names;
mod records;
mod trees;
mod worker;

pub use meter::{Figures, Kind};

use self::content::Content;
use self::ledger::Ledger;
use self::meter::Meter;
use self::records::Records;
use self::trees::Trees;
use self::worker::Worker;
use crate::hosts::move_to;
use anyhow::{Context, Result, ensure};
use quarry_client::{Client, ClientFile};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// What the workers of appends append to.
const LOG: &str = "/log";

/// Operations under way get so long to end after the last one was begun.
const END_WITHIN: Duration = Duration::from_secs(150);

/// How many workers of each kind there are; each is a client with a session of its own.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Readers of files that are there from the beginning.
    pub readers: usize,
    /// Workers on files.
    pub files: usize,
    /// Workers that append to one file.
    pub writers: usize,
    /// Records that each of them appends at most.
    pub records: u64,
    /// Workers on names.
    pub names: usize,
    /// Workers on trees.
    pub trees: usize,
    /// A worker rests up to twice so long between two operations.
    pub pace: Duration,
}

impl Plan {
    /// Something of everything, bounded so that a machine with two cores has time left.
    pub const MIXED: Plan = Plan {
        readers: 3,
        files: 4,
        writers: 3,
        records: u64::MAX,
        names: 3,
        trees: 1,
        pace: Duration::from_millis(40),
    };

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        let workers = [
            self.readers,
            self.files,
            self.writers,
            self.names,
            self.trees,
        ];
        let used = Kind::ALL.into_iter().zip(workers);
        used.filter(|(_, workers)| *workers > 0)
            .map(|(kind, _)| kind)
    }
}

/// A load that runs.
pub struct Load {
    runtime: Runtime,
    /// For questions about the cluster.
    client: Client,
    file: ClientFile,
    scratch: PathBuf,
    meter: Arc<Meter>,
    stop: Arc<AtomicBool>,
    library: Arc<Vec<Content>>,
    records: Arc<Mutex<Records>>,
    workers: Workers,
}

/// What came of a load.
#[derive(Debug)]
pub struct Report {
    /// Operations by kind.
    pub figures: BTreeMap<Kind, Figures>,
    /// Files, records and trees that were compared.
    pub compared: String,
    /// Operations that failed, answers that were wrong, and differences to what was acknowledged: none, or a defect.
    pub faults: Vec<String>,
}

/// Makes workers alike.
struct Staff {
    file: ClientFile,
    seed: u64,
    meter: Arc<Meter>,
    stop: Arc<AtomicBool>,
    pace: Duration,
}

impl Staff {
    async fn worker(&mut self, path: &str) -> Result<Worker> {
        self.seed += 1;
        Ok(Worker {
            client: Client::connect(self.file.clone()).await?,
            random: SmallRng::seed_from_u64(self.seed),
            meter: self.meter.clone(),
            stop: self.stop.clone(),
            pace: self.pace,
            path: path.to_owned(),
        })
    }
}

impl Load {
    /// Starts one from the host that `host` names ([`crate::hosts::Hosts::file`]); `scratch` is an empty folder of its own.
    pub fn start(
        host: PathBuf,
        file: ClientFile,
        seed: u64,
        plan: Plan,
        scratch: &Path,
    ) -> Result<Load> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("load")
            .on_thread_start(move || move_to(&host).expect("the host of the clients is there"))
            .enable_all()
            .build()?;
        let meter = Arc::new(Meter::new(plan.kinds()));
        let stop = Arc::new(AtomicBool::new(false));
        let staff = Staff {
            file: file.clone(),
            seed: seed << 16,
            meter: meter.clone(),
            stop: stop.clone(),
            pace: plan.pace,
        };
        let begun = begin(staff, plan, scratch.to_owned());
        let begun = runtime.block_on(runtime.spawn(begun))??;
        meter.begin_period();
        Ok(Load {
            runtime,
            client: begun.client,
            file,
            scratch: scratch.to_owned(),
            meter,
            stop,
            library: begun.library,
            records: begun.records,
            workers: begun.workers,
        })
    }

    /// Waits for something that is done on the clients' host.
    pub fn on_host<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        Ok(self.runtime.block_on(self.runtime.spawn(task))?)
    }

    /// A client for questions about the cluster.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Gaps are measured from now on.
    pub fn begin_period(&self) {
        self.meter.begin_period();
    }

    /// The figures; gaps are those since the last [`Load::begin_period`].
    pub fn figures(&self) -> BTreeMap<Kind, Figures> {
        self.meter.figures()
    }

    /// What failed so far.
    pub fn failures(&self) -> Vec<String> {
        self.meter.failures()
    }

    /// Waits until so many operations of every kind, begun or not, are acknowledged from now on.
    pub fn wait_for_progress(&self, count: u64, within: Duration) -> Result<()> {
        let before = self.figures();
        let until = Instant::now() + within;
        for (kind, figures) in before {
            while self.meter.done(kind) < figures.done + count {
                ensure!(
                    Instant::now() < until,
                    "{kind:?}: fewer than {count} operations in {within:?}"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Acknowledged operations of a kind so far.
    pub fn done(&self, kind: Kind) -> u64 {
        self.meter.done(kind)
    }

    /// Whether all records of the plan are appended.
    pub fn is_all_appended(&self) -> bool {
        self.workers.writers.iter().all(JoinHandle::is_finished)
    }

    /// Ends all workers and compares everything that was acknowledged with what is there. Once.
    pub fn finish(&mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Release);
        let workers = std::mem::take(&mut self.workers);
        let (file, scratch, meter) = (self.file.clone(), self.scratch.clone(), self.meter.clone());
        let (library, records) = (self.library.clone(), self.records.clone());
        self.on_host(async move {
            let ended = tokio::time::timeout(END_WITHIN, workers.end()).await;
            let ended =
                ended.with_context(|| format!("an operation did not end within {END_WITHIN:?}"));
            let (ledgers, trees) = ended??;
            let figures = meter.figures();

            // One that knows nothing.
            let client = Client::connect(file).await?;
            let mut faults = meter.failures();
            faults.extend(library::faults(&client, &library).await?);
            let (mut files, mut doubts) = (library.len(), 0);
            for (path, ledger) in &ledgers {
                faults.extend(worker::folder_faults(&client, path, ledger).await?);
                files += ledger.files().len();
                doubts += ledger.doubt_count();
            }
            faults.extend(trees::faults(&client, &trees, &scratch).await?);
            let log = worker::read_whole(&client, LOG).await?;
            client.close().await?;
            let records = records.lock().expect("nobody panics with this lock");
            faults.extend(records.faults(&log));
            let compared = format!(
                "{files} files, {} records in {:.1} MB, {} trees; {doubts} outcomes unknown",
                records.done_count(),
                log.len() as f64 / 1e6,
                trees.len()
            );
            Ok(Report {
                figures,
                compared,
                faults,
            })
        })?
    }
}

/// The tasks, by what they know in the end.
#[derive(Default)]
struct Workers {
    readers: Vec<JoinHandle<()>>,
    writers: Vec<JoinHandle<()>>,
    folders: Vec<(String, JoinHandle<Ledger>)>,
    trees: Vec<JoinHandle<Result<Trees>>>,
}

impl Workers {
    /// Waits until all have ended.
    async fn end(self) -> Result<(Vec<(String, Ledger)>, Trees)> {
        for worker in self.readers.into_iter().chain(self.writers) {
            worker.await?;
        }
        let mut ledgers = Vec::new();
        for (path, worker) in self.folders {
            ledgers.push((path, worker.await?));
        }
        let mut trees = Trees::new();
        for worker in self.trees {
            trees.append(&mut worker.await??);
        }
        Ok((ledgers, trees))
    }
}

/// What [`begin`] made.
struct Begun {
    client: Client,
    library: Arc<Vec<Content>>,
    records: Arc<Mutex<Records>>,
    workers: Workers,
}

async fn begin(mut staff: Staff, plan: Plan, scratch: PathBuf) -> Result<Begun> {
    let client = Client::connect(staff.file.clone()).await?;
    let library = Arc::new(library::fill(&client, staff.seed, 24).await?);
    client.create(LOG.as_bytes(), 0o644, true).await?;
    let mut begun = Begun {
        client: client.clone(),
        library: library.clone(),
        records: Arc::default(),
        workers: Workers::default(),
    };
    for _ in 0..plan.readers {
        let worker = staff.worker("").await?;
        begun
            .workers
            .readers
            .push(tokio::spawn(worker.read_library(library.clone())));
    }
    for writer in 0..plan.writers {
        let (worker, records) = (staff.worker(LOG).await?, begun.records.clone());
        let task = worker.append_records(writer as u32, plan.records, records);
        begun.workers.writers.push(tokio::spawn(task));
    }
    for number in 0..plan.files + plan.names {
        let path = format!("/folder-{number}");
        client.mkdir(path.as_bytes(), 0o755).await?;
        let worker = staff.worker(&path).await?;
        let task = match number < plan.files {
            true => tokio::spawn(worker.change_files()),
            false => tokio::spawn(worker.change_names()),
        };
        begun.workers.folders.push((path, task));
    }
    for number in 0..plan.trees {
        let path = format!("/trees-{number}");
        client.mkdir(path.as_bytes(), 0o755).await?;
        let scratch = scratch.join(format!("trees-{number}"));
        fs::create_dir(&scratch)?;
        let worker = staff.worker(&path).await?;
        begun
            .workers
            .trees
            .push(tokio::spawn(worker.move_trees(scratch)));
    }
    Ok(begun)
}
