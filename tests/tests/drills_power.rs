//! Power cuts of everything, and faults of all kinds one after the other.

use anyhow::{Context, Result};
use quarry_tests::drill::{Drill, Fault, GAP_MAX, Setup, run};
use quarry_tests::load::Plan;
use quarry_tests::processes::CLIENTS;
use rand::Rng;
use rand::seq::IndexedRandom;
use std::time::{Duration, Instant};

const SETUP: Setup = Setup {
    name: "",
    metaservers: 3,
    dataservers: 5,
    plan: Plan::MIXED,
    settings: &[("QUARRY_OUT_AFTER_SECONDS", "5")],
};

/// All servers die and what was not synced is gone; then all start again. Those that do not run now start as well.
fn cut_power(drill: &mut Drill) -> Result<()> {
    let begun = Instant::now();
    drill.load.begin_period();
    let running = drill.cluster.running();
    drill.cluster.kill_all(&running)?;
    // It fails unless something that was not synced is gone.
    drill.disk.cut_power()?;
    drill.say("power cut of everything: a file that was not synced is gone");
    drill.cluster.start_several(&drill.metaservers())?;
    drill.cluster.start_several(&drill.dataservers())?;
    let off = begun.elapsed();
    drill.say(&format!("all is on again after {:.1} s", off.as_secs_f64()));
    drill.load.wait_for_progress(3, GAP_MAX)?;
    drill.end_period(off + GAP_MAX)
}

#[test]
fn power_is_cut_while_disks_are_rebuilt() -> Result<()> {
    let setup = Setup {
        name: "power_is_cut_while_disks_are_rebuilt",
        ..SETUP
    };
    run(setup, |drill| {
        for _ in 0..if drill.is_long { 5 } else { 2 } {
            cut_power(drill)?;
            // A dataserver dies and goes out; in the middle of what follows all lose power.
            let all = drill.dataservers();
            let some = all
                .choose(&mut drill.random)
                .context("dataservers")?
                .clone();
            drill.cluster.kill(&some)?;
            drill.say(&format!("SIGKILL of {some}"));
            let wait = drill.random.random_range(5.0..12.0);
            std::thread::sleep(Duration::from_secs_f64(wait));
            cut_power(drill)?;
            drill.wait_until_clean()?;
        }
        Ok(())
    })
}

/// A fault of the seed's choice.
fn some_fault(drill: &mut Drill) -> Result<Fault> {
    let (metaservers, dataservers) = (drill.metaservers(), drill.dataservers());
    let random = &mut drill.random;
    let metaserver = vec![metaservers.choose(random).context("metaservers")?.clone()];
    let dataserver = vec![dataservers.choose(random).context("dataservers")?.clone()];
    let rest = |all: &[String], one: &[String]| -> Vec<String> {
        all.iter()
            .filter(|server| !one.contains(server))
            .cloned()
            .collect()
    };
    let clients = vec![CLIENTS.to_owned()];
    Ok(match random.random_range(0..11) {
        0 => Fault::Killed(metaserver),
        1 => Fault::Paused(metaserver),
        2 => Fault::cut(&metaserver, &rest(&metaservers, &metaserver)),
        3 => Fault::cut_one_way(&metaserver, &rest(&metaservers, &metaserver)),
        4 => Fault::cut_one_way(&rest(&metaservers, &metaserver), &metaserver),
        5 => Fault::Killed(dataserver),
        6 => Fault::Paused(dataserver),
        7 => Fault::cut(&dataserver, &clients),
        8 => Fault::cut(&dataserver, &metaservers),
        9 => Fault::cut_one_way(&rest(&dataservers, &dataserver), &dataserver),
        _ => Fault::Killed([metaserver, dataserver].concat()),
    })
}

/// Two faults at a time, overlapping, and now and then a power cut in the middle of them.
#[test]
fn faults_of_all_kinds_overlap() -> Result<()> {
    let setup = Setup {
        name: "faults_of_all_kinds_overlap",
        ..SETUP
    };
    run(setup, |drill| {
        for round in 0..if drill.is_long { 20 } else { 3 } {
            let fault = some_fault(drill)?;
            let lasting = Duration::from_secs_f64(drill.random.random_range(0.5..12.0));
            drill.load.begin_period();
            let begun = Instant::now();
            let injected = drill.inject(&fault)?;
            std::thread::sleep(lasting);
            drill.heal(&fault, injected)?;
            // Before the first has left no trace, another one, or the end of everything.
            if drill.random.random_ratio(1, 4) || round == 1 {
                cut_power(drill)?;
            } else {
                let fault = some_fault(drill)?;
                let injected = drill.inject(&fault)?;
                std::thread::sleep(Duration::from_secs_f64(drill.random.random_range(0.5..6.0)));
                drill.heal(&fault, injected)?;
                drill.load.wait_for_progress(3, GAP_MAX)?;
                drill.end_period(begun.elapsed() + GAP_MAX)?;
            }
        }
        drill.wait_until_clean()
    })
}
