//! A drill: a cluster of real processes on hosts of their own, a load, faults while it runs, and in the end a comparison
//! of everything that was acknowledged.
//!
//! `QUARRY_SEED` chooses the seed, `QUARRY_DRILLS=long` all durations and shapes; `scripts/drills.sh` does both.

mod fault;

pub use fault::{Fault, Injected};

use crate::hosts::Hosts;
use crate::load::{Figures, Kind, Load, Plan};
use crate::power::LoopDisk;
use crate::processes::{CLIENTS, Net, Processes};
use anyhow::{Context, Result, bail, ensure};
use quarry_client::ClientFile;
use quarry_common::wire::meta::MetaserverStatus;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing may stand still for longer than this while the cluster is to serve, nor after it can again. A failover takes
/// less than 3 s (DESIGN §8) and a lost write finds other members in seconds; the rest is for a machine that
/// does other things as well.
pub const GAP_MAX: Duration = Duration::from_secs(30);

/// Lengths of the disk of a drill; the image is sparse.
const DISK_LEN: u64 = 24 << 30;

/// Lines of each server's log that are shown when a drill fails.
const LOG_SHOWN: usize = 40;

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
    /// Whether all durations and shapes are wanted, not those that fit into a few minutes.
    pub is_long: bool,
    setup: Setup,
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
    let seed = match std::env::var("QUARRY_SEED") {
        Ok(seed) => seed.parse().context("QUARRY_SEED is no number")?,
        Err(_) => 1,
    };
    let Setup { name, .. } = setup;
    println!("{name}: seed {seed} (QUARRY_SEED={seed} scripts/drills.sh {name})");
    let mut drill = Drill::start(setup, seed)?;
    let done = body(&mut drill);
    let logs = drill.logs();
    let ended = done.and_then(|()| drill.finish(seed));
    if ended.is_err() {
        eprintln!("{logs}");
    }
    ended
}

impl Drill {
    fn start(setup: Setup, seed: u64) -> Result<Drill> {
        let begun = Instant::now();
        let scratch = tempfile::tempdir()?;
        let servers = |role: &str, count| (1..=count).map(|number| format!("{role}-{number}")).collect();
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
            is_long: std::env::var("QUARRY_DRILLS").is_ok_and(|which| which == "long"),
            setup,
            begun,
            longest: BTreeMap::new(),
            _scratch: scratch,
        };
        drill.say(&format!(
            "{} metaservers, {} dataservers, {:?}",
            setup.metaservers, setup.dataservers, setup.plan
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
        (1..=self.setup.metaservers).map(|number| format!("metaserver-{number}")).collect()
    }

    /// The names of all dataservers.
    pub fn dataservers(&self) -> Vec<String> {
        (1..=self.setup.dataservers).map(|number| format!("dataserver-{number}")).collect()
    }

    /// A folder on the host of the clients, for whatever the drill needs.
    pub fn local(&self) -> PathBuf {
        self._scratch.path().join("local")
    }

    /// The metaservers as the leader sees them; waits until there is one.
    pub fn metaserver_status(&self) -> Result<Vec<MetaserverStatus>> {
        let client = self.load.client();
        let status = self.load.on_host(async move { client.metaservers().await })??;
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
            ensure!(Instant::now() < until, "{old} still leads: the fault took no effect");
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

    /// A fault that lasts for a while during which the cluster is to serve, and after which everything goes on.
    pub fn strike(&mut self, fault: &Fault, lasting: Duration) -> Result<()> {
        self.strike_and(fault, |_| {
            std::thread::sleep(lasting);
            Ok(GAP_MAX)
        })
    }

    /// A fault during which something is done; that returns for how long anything may stand still.
    pub fn strike_and(&mut self, fault: &Fault, during: impl FnOnce(&mut Drill) -> Result<Duration>) -> Result<()> {
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
        self.say(&format!("longest gap (slowest operation), in s: {}", gaps.join(", ")));
        for (kind, figures) in &figures {
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

    /// Waits until all metaservers follow and have what the leader has, and all dataservers are heard.
    pub fn wait_until_whole(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            let missing = self.missing()?;
            if missing.is_empty() {
                self.say("all servers are back");
                return Ok(());
            }
            ensure!(Instant::now() < until, "not whole within {within:?}: {missing:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn missing(&self) -> Result<Vec<String>> {
        let client = self.load.client();
        let status = self.load.on_host(async move { client.status().await })??;
        let mut missing = Vec::new();
        for server in self.metaserver_status()? {
            let good = server.votes && server.standing.is_some_and(|standing| !standing.is_new);
            if !good {
                missing.push(format!("metaserver-{}", server.id));
            }
        }
        for server in status.servers {
            let heard = server.heard_ms_ago.is_some_and(|ago| ago < 3_000);
            if !heard || server.disks.iter().any(|disk| !disk.up) {
                missing.push(format!("dataserver-{}", server.server));
            }
        }
        Ok(missing)
    }

    /// The ends of the servers' logs.
    fn logs(&self) -> String {
        let mut all = String::new();
        for server in self.metaservers().into_iter().chain(self.dataservers()) {
            // One that never started has none.
            let log = fs::read_to_string(self.cluster.folder(&server).join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.len().saturating_sub(LOG_SHOWN);
            all.push_str(&format!("== {server}\n{}\n", lines[shown..].join("\n")));
        }
        all
    }

    fn finish(self, seed: u64) -> Result<()> {
        let Drill {
            cluster,
            load,
            hosts,
            disk,
            setup,
            begun,
            longest,
            _scratch,
            ..
        } = self;
        let report = load.finish()?;
        let took = begun.elapsed();
        println!("  {:6.1} s  compared: {}", took.as_secs_f64(), report.compared);
        for (kind, Figures { done, again, unknown, .. }) in &report.figures {
            println!("            {kind:?}: {done} acknowledged, {again} begun again, {unknown} unknown");
        }
        let done: u64 = report.figures.values().map(|figures| figures.done).sum();
        let gaps: Vec<String> = longest
            .iter()
            .map(|(kind, gap)| format!("{kind:?} {:.1}", gap.as_secs_f64()))
            .collect();
        // scripts/drills.sh makes its table of these.
        println!(
            "drill | {} | {seed} | {:.0} s | {done} operations | {} faults | {}",
            setup.name,
            took.as_secs_f64(),
            report.faults.len(),
            gaps.join(", ")
        );
        drop((cluster, hosts, disk));
        if !report.faults.is_empty() {
            bail!("{} faults: {:#?}", report.faults.len(), &report.faults[..report.faults.len().min(20)]);
        }
        Ok(())
    }
}

/// Where a drill's scratch files are is nobody's business but its own.
impl std::fmt::Debug for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drill").field("setup", &self.setup).finish_non_exhaustive()
    }
}

/// How long a fault lasts: 1 s and 10 s, in a long drill also longer than every timeout.
pub fn durations(is_long: bool) -> Vec<Duration> {
    let seconds: &[u64] = if is_long { &[1, 10, 75] } else { &[1, 10] };
    seconds.iter().copied().map(Duration::from_secs).collect()
}

