//! A drill: a cluster of real processes on hosts of their own, a load, faults while it runs, and in the end a comparison
//! of everything that was acknowledged.
//!
//! `QUARRY_DRILL_SEED` chooses the seed, `QUARRY_DRILLS=long` all durations and shapes; `scripts/drills.sh` does both.

mod fault;

pub use fault::{Fault, Injected};

use crate::hosts::Hosts;
use crate::load::{Figures, Kind, Load, Plan};
use crate::power::LoopDisk;
use crate::processes::{CLIENTS, Net, Processes};
use anyhow::{Context, Result, bail, ensure};
use quarry_client::ClientFile;
use quarry_common::map::{DiskState, Pool};
use quarry_common::telemetry;
use quarry_common::wire::meta::{DiskStatus, MetaserverStatus, Serves, Status};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing may stand still for longer than this while the cluster is to serve, nor after it can again. A failover takes
/// less than 3 s (DESIGN §8) and a lost write finds other members in seconds; the rest is for a machine that
/// does other things as well.
pub const GAP_MAX: Duration = Duration::from_secs(30);

/// An operation that takes longer is named.
const SLOW: Duration = Duration::from_secs(5);

/// Everything is repaired by then: a disk that went down several times waits for minutes before it takes part again.
const CLEAN_WITHIN: Duration = Duration::from_secs(240);

/// The length of the disk of a drill; the image is sparse.
const DISK_LEN: u64 = 24 << 30;

/// What a load of hours replaces would fill the disk if it waited for the usual time.
const DOOM_GRACE_SECONDS: &str = "20";

/// What a drill begins with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Its name, for the summary.
    pub name: &'static str,
    /// How many metaservers.
    pub metaservers: usize,
    /// How many dataservers.
    pub dataservers: usize,
    /// The load.
    pub plan: Plan,
    /// Settings of all servers, by their environment variables.
    pub settings: &'static [(&'static str, &'static str)],
}

/// A drill that runs.
pub struct Drill {
    /// The servers.
    pub cluster: Processes<'static>,
    /// The load.
    pub load: Load,
    /// Their hosts.
    pub hosts: Arc<Hosts>,
    /// The file system of all servers.
    pub disk: LoopDisk,
    /// What the drill chooses follows from the seed.
    pub random: SmallRng,
    /// See [`is_long`].
    pub is_long: bool,
    setup: Setup,
    seed: u64,
    begun: Instant,
    longest: BTreeMap<Kind, Duration>,
    /// Below it lies the disk: dropped after it.
    _scratch: tempfile::TempDir,
}

/// Runs a drill: starts everything, does `body`, ends the load and compares.
///
/// # Errors
/// Whatever failed, after the ends of the servers' logs were printed.
pub fn run(setup: Setup, body: impl FnOnce(&mut Drill) -> Result<()>) -> Result<()> {
    // They measure time, and each takes the whole machine.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    let seed = match std::env::var("QUARRY_DRILL_SEED") {
        Ok(seed) => seed.parse().context("QUARRY_DRILL_SEED is no number")?,
        Err(_) => 1,
    };
    // What the clients of the load say, if anybody wants to know.
    if std::env::var_os(telemetry::LOG_VARIABLE).is_some() {
        telemetry::init(false);
    }
    let Setup { name, .. } = setup;
    println!("{name}: seed {seed} (QUARRY_DRILL_SEED={seed} scripts/drills.sh {name})");
    let mut drill = Drill::start(setup, seed)?;
    let done = body(&mut drill).and_then(|()| drill.finish());
    if done.is_err() {
        eprintln!("{}", drill.logs());
    }
    done
}

impl Drill {
    fn start(setup: Setup, seed: u64) -> Result<Drill> {
        let begun = Instant::now();
        let scratch = tempfile::tempdir()?;
        let servers = |role: &str, count| {
            (1..=count)
                .map(|number| format!("{role}-{number}"))
                .collect()
        };
        let metaservers: Vec<String> = servers("metaserver", setup.metaservers);
        let dataservers: Vec<String> = servers("dataserver", setup.dataservers);
        let names = metaservers.iter().chain(&dataservers).map(String::as_str);
        let hosts = Arc::new(Hosts::new(names.chain([CLIENTS]))?);
        let disk = LoopDisk::new(scratch.path(), "disk", DISK_LEN)?;
        let at = |servers: &[String], port: u16| -> Result<Vec<String>> {
            let address = |server: &String| Ok(format!("{}:{port}", hosts.address(server)?));
            servers.iter().map(address).collect()
        };
        let mut cluster = Processes::init_several(
            &disk.path().join("cluster"),
            &at(&metaservers, 7410)?,
            &at(&dataservers, 7420)?,
            Net::Hosts(hosts.clone()),
            &[],
        )?;
        cluster.keep_logs();
        cluster.set("QUARRY_CACHE_MIB", "32");
        cluster.set("QUARRY_DOOM_GRACE_SECONDS", DOOM_GRACE_SECONDS);
        for (variable, value) in setup.settings {
            cluster.set(variable, value);
        }
        cluster.start_several(&metaservers)?;
        cluster.start_several(&dataservers)?;
        let local = scratch.path().join("local");
        fs::create_dir(&local)?;
        let file = ClientFile::load(&cluster.client_file())?;
        let load = Load::start(hosts.file(CLIENTS), file, seed, setup.plan, &local)?;
        let drill = Drill {
            cluster,
            load,
            hosts,
            disk,
            random: SmallRng::seed_from_u64(seed),
            is_long: is_long(),
            setup,
            seed,
            begun,
            longest: BTreeMap::new(),
            _scratch: scratch,
        };
        drill.say(&format!(
            "{} metaservers, {} dataservers, {} clients",
            setup.metaservers,
            setup.dataservers,
            setup.plan.clients()
        ));
        drill.load.wait_for_progress(3, GAP_MAX)?;
        Ok(drill)
    }

    /// Prints a line with the time since the beginning.
    pub fn say(&self, line: &str) {
        println!("  {:6.1} s  {line}", self.begun.elapsed().as_secs_f64());
    }

    /// The names of all metaservers.
    pub fn metaservers(&self) -> Vec<String> {
        (1..=self.setup.metaservers)
            .map(|number| format!("metaserver-{number}"))
            .collect()
    }

    /// The names of all dataservers.
    pub fn dataservers(&self) -> Vec<String> {
        (1..=self.setup.dataservers)
            .map(|number| format!("dataserver-{number}"))
            .collect()
    }

    /// A folder on the host of the clients, for whatever the drill needs.
    pub fn local(&self) -> PathBuf {
        self._scratch.path().join("local")
    }

    /// The metaservers as the leader sees them; waits until there is one.
    pub fn metaserver_status(&self) -> Result<Vec<MetaserverStatus>> {
        let client = self.load.client();
        let status = self
            .load
            .on_host(async move { client.metaservers().await })??;
        Ok(status)
    }

    /// The metaserver that leads, and its term.
    pub fn leader(&self) -> Result<(String, u64)> {
        let until = Instant::now() + GAP_MAX;
        loop {
            let all = self.metaserver_status()?;
            if let Some(leader) = all.iter().find(|server| server.leads) {
                let term = leader.standing.as_ref().map_or(0, |standing| standing.term);
                return Ok((format!("metaserver-{}", leader.id), term));
            }
            ensure!(Instant::now() < until, "nobody leads: {all:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until another metaserver leads than this one.
    pub fn wait_for_another_leader(&self, old: &str) -> Result<()> {
        let until = Instant::now() + GAP_MAX;
        loop {
            let (leader, term) = self.leader()?;
            if leader != old {
                self.say(&format!("{leader} leads in term {term}"));
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{old} still leads: the fault took no effect"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the leader counts a dataserver as down.
    pub fn wait_until_down(&self, server: &str) -> Result<()> {
        let until = Instant::now() + GAP_MAX;
        loop {
            let status = self.status()?;
            let mut servers = status.servers.iter();
            let found = servers.find(|one| format!("dataserver-{}", one.server) == server);
            if found
                .is_some_and(|server| server.disks.iter().all(|disk| disk.serves == Serves::Down))
            {
                self.say(&format!("{server} is down for the leader"));
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{server} is not down: the fault took no effect"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Injects a fault and says so.
    pub fn inject(&mut self, fault: &Fault) -> Result<Injected> {
        self.say(&fault.to_string());
        fault.inject(&mut self.cluster, &self.hosts)
    }

    /// Heals a fault and says what shows that it was one.
    pub fn heal(&mut self, fault: &Fault, injected: Injected) -> Result<()> {
        let proof = injected.heal(&mut self.cluster, &self.hosts)?;
        self.say(&format!("healed: {fault}: {proof}"));
        Ok(())
    }

    /// Stops a client for a while that is in the middle of something; fails if it was over before.
    pub fn pause_client(&self, client: &mut Child, lasting: Duration) -> Result<()> {
        let pid = Pid::from_child(client);
        kill_process(pid, Signal::STOP)?;
        std::thread::sleep(lasting);
        let ended = client.try_wait()?;
        ensure!(
            ended.is_none(),
            "the client was over before it was stopped: {ended:?}"
        );
        ensure!(
            fault::state(client.id()) == Some('T'),
            "the client was not stopped"
        );
        kill_process(pid, Signal::CONT)?;
        self.say(&format!("a client was in state T for {lasting:?}"));
        Ok(())
    }

    /// A fault that lasts for a while during which the cluster is to serve, and after which everything goes on.
    pub fn strike(&mut self, fault: &Fault, lasting: Duration) -> Result<()> {
        self.strike_and(fault, |_| {
            std::thread::sleep(lasting);
            Ok(GAP_MAX)
        })
    }

    /// A fault during which something is done; that returns for how long anything may stand still.
    pub fn strike_and(
        &mut self,
        fault: &Fault,
        during: impl FnOnce(&mut Drill) -> Result<Duration>,
    ) -> Result<()> {
        self.load.begin_period();
        let injected = self.inject(fault)?;
        let gap_max = during(self)?;
        self.heal(fault, injected)?;
        self.load.wait_for_progress(3, GAP_MAX)?;
        self.end_period(gap_max)
    }

    /// Says how long anything stood still, and fails if that was too long.
    pub fn end_period(&mut self, gap_max: Duration) -> Result<()> {
        let figures = self.load.figures();
        let gap = |(kind, figures): (&Kind, &Figures)| {
            let (gap, slowest) = (figures.gap.as_secs_f64(), figures.slowest.as_secs_f64());
            format!("{kind:?} {gap:.1} ({slowest:.1})")
        };
        let gaps: Vec<String> = figures.iter().map(gap).collect();
        self.say(&format!(
            "longest gap (slowest operation), in s: {}",
            gaps.join(", ")
        ));
        for (kind, figures) in &figures {
            if figures.slowest > SLOW {
                let (took, what) = (figures.slowest.as_secs_f64(), &figures.slowest_what);
                self.say(&format!("{what} took {took:.1} s"));
            }
            let longest = self.longest.entry(*kind).or_default();
            *longest = (*longest).max(figures.gap);
            ensure!(
                figures.gap <= gap_max,
                "{kind:?} stood still for {:.1} s",
                figures.gap.as_secs_f64()
            );
        }
        match self.load.failures().first() {
            Some(first) => bail!("{first}"),
            None => Ok(()),
        }
    }

    /// Waits until all metaservers follow, all dataservers are up and all placement groups clean.
    ///
    /// # Errors
    /// They are not; or bytes are lost.
    pub fn wait_until_clean(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let missing = self.missing(self.dataservers())?;
            if missing.is_empty() {
                self.say(&format!(
                    "all is clean again after {:.1} s",
                    begun.elapsed().as_secs_f64()
                ));
                return Ok(());
            }
            ensure!(
                begun.elapsed() < CLEAN_WITHIN,
                "not clean within {CLEAN_WITHIN:?}: {missing:?}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until all placement groups are clean without one dataserver, which is out.
    ///
    /// # Errors
    /// They are not; or bytes are lost.
    pub fn wait_until_clean_without(&self, gone: &str) -> Result<()> {
        let mut rest = self.dataservers();
        rest.retain(|server| server != gone);
        let begun = Instant::now();
        loop {
            let mut missing = self.missing(rest.clone())?;
            if self
                .disk_state(gone)?
                .is_some_and(|state| state == DiskState::In)
            {
                missing.push(format!("{gone} is not out"));
            }
            if missing.is_empty() {
                let took = begun.elapsed().as_secs_f64();
                self.say(&format!(
                    "{gone} is out, all is clean without it after {took:.1} s"
                ));
                return Ok(());
            }
            ensure!(
                begun.elapsed() < CLEAN_WITHIN,
                "not clean within {CLEAN_WITHIN:?}: {missing:?}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The cluster's health.
    pub fn status(&self) -> Result<Status> {
        let client = self.load.client();
        Ok(self.load.on_host(async move { client.status().await })??)
    }

    /// Whether a dataserver's disk takes part in placement.
    fn disk_state(&self, server: &str) -> Result<Option<DiskState>> {
        let status = self.status()?;
        let mut servers = status.servers.iter();
        let server = servers.find(|one| format!("dataserver-{}", one.server) == server);
        // The newest: those before it are gone for good.
        Ok(server.and_then(|server| {
            server
                .disks
                .iter()
                .max_by_key(|disk| disk.disk)
                .map(|disk| disk.state)
        }))
    }

    /// What is not as it should be, if these dataservers are to be up.
    fn missing(&self, dataservers: Vec<String>) -> Result<Vec<String>> {
        let status = self.status()?;
        let mut missing = Vec::new();
        for server in self.metaserver_status()? {
            let good = server.votes && server.standing.is_some_and(|standing| !standing.is_new);
            if !good {
                missing.push(format!("metaserver-{}", server.id));
            }
        }
        for name in dataservers {
            let mut servers = status.servers.iter();
            let server = servers.find(|one| format!("dataserver-{}", one.server) == name);
            let up = |disk: &DiskStatus| {
                disk.serves == Serves::Up
                    && disk.state == DiskState::In
                    && disk.returns_in_ms.is_none()
            };
            if !server.is_some_and(|server| server.disks.iter().any(up)) {
                missing.push(name);
            }
        }
        for (pool, Pool { pg_count, .. }, counts) in &status.pools {
            if counts.clean != *pg_count {
                missing.push(format!("pool {pool}: {counts:?} of {pg_count}"));
            }
        }
        for disk in status.servers.iter().flat_map(|server| &server.disks) {
            ensure!(
                disk.report.lost == 0,
                "disk {} reports {} lost chunks",
                disk.disk,
                disk.report.lost
            );
        }
        Ok(missing)
    }

    /// The ends of the servers' logs.
    fn logs(&self) -> String {
        let servers = self.metaservers().into_iter().chain(self.dataservers());
        let logs: Vec<String> = servers
            .map(|server| self.cluster.end_of_log(&server))
            .collect();
        logs.join("\n")
    }

    fn finish(&mut self) -> Result<()> {
        let report = self.load.finish()?;
        self.say(&format!("compared: {}", report.compared));
        for (kind, figures) in &report.figures {
            let Figures {
                done,
                again,
                unknown,
                ..
            } = figures;
            self.say(&format!(
                "{kind:?}: {done} acknowledged, {again} begun again, {unknown} unknown"
            ));
        }
        let done: u64 = report.figures.values().map(|figures| figures.done).sum();
        let gaps = self.longest.iter();
        let gaps: Vec<String> = gaps
            .map(|(kind, gap)| format!("{kind:?} {:.1}", gap.as_secs_f64()))
            .collect();
        // scripts/drills.sh makes its table of these.
        println!(
            "drill | {} | {} | {:.0} s | {done} operations | {} faults | {}",
            self.setup.name,
            self.seed,
            self.begun.elapsed().as_secs_f64(),
            report.faults.len(),
            gaps.join(", ")
        );
        let shown = &report.faults[..report.faults.len().min(20)];
        ensure!(
            shown.is_empty(),
            "{} faults: {shown:#?}",
            report.faults.len()
        );
        Ok(())
    }
}

/// Where a drill's scratch files are is nobody's business but its own.
impl std::fmt::Debug for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drill")
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}

/// Whether all durations and shapes are wanted, not those that fit into a few minutes.
pub fn is_long() -> bool {
    std::env::var("QUARRY_DRILLS").is_ok_and(|which| which == "long")
}

/// How long somebody is paused: short and longer than it takes to be missed; in a long drill also longer than every
/// timeout.
pub fn pauses() -> Vec<Duration> {
    let seconds: &[u64] = if is_long() { &[1, 10, 75] } else { &[1, 8] };
    seconds.iter().copied().map(Duration::from_secs).collect()
}
