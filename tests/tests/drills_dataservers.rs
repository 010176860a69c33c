//! Dataservers are killed, paused and cut off under load, in the middle of transfers.

use anyhow::{Context, Result, ensure};
use quarry_tests::compare::assert_same;
use quarry_tests::drill::{Drill, Fault, GAP_MAX, Setup, is_long, pauses, run};
use quarry_tests::load::Plan;
use quarry_tests::processes::CLIENTS;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

const SETUP: Setup = Setup {
    name: "",
    metaservers: 3,
    dataservers: 5,
    plan: Plan::MIXED,
    settings: &[("QUARRY_OUT_AFTER_SECONDS", "5")],
};

/// Bytes of the file that goes up and down: several chunks.
fn len() -> usize {
    if is_long() { 400_000_000 } else { 80_000_000 }
}

/// Whoever is silent for so long is missed.
const DOWN: Duration = Duration::from_secs(7);

fn some_dataserver(drill: &mut Drill) -> Result<String> {
    let all = drill.dataservers();
    let some = all.choose(&mut drill.random);
    some.cloned().context("there are dataservers")
}

/// Bytes that each dataserver has received and sent.
fn carried(drill: &Drill) -> Result<Vec<(String, u64)>> {
    let carried = |server: String| Ok((server.clone(), drill.hosts.carried(&server)?));
    drill.dataservers().into_iter().map(carried).collect()
}

/// Waits until a transfer is well under way; returns the dataserver that has carried most of it.
fn busiest(drill: &Drill, transfer: &mut Child) -> Result<String> {
    let before = carried(drill)?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let ended = transfer.try_wait()?;
        ensure!(
            ended.is_none(),
            "the transfer was over before anything was done to it"
        );
        let now = carried(drill)?;
        let moved = now
            .iter()
            .zip(&before)
            .map(|((server, now), (_, before))| (now - before, server));
        if let Some((most, server)) = moved.max()
            && most > len() as u64 / 6
        {
            return Ok(server.clone());
        }
        ensure!(Instant::now() < until, "the transfer does not get on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a transfer by the command line and kills a dataserver that has a part in it.
fn transfer_with_a_death(drill: &mut Drill, args: &[&str]) -> Result<()> {
    let mut transfer = drill.cluster.quarry(args).spawn()?;
    let victim = busiest(drill, &mut transfer)?;
    let begun = Instant::now();
    drill.strike_and(&Fault::Killed(vec![victim.clone()]), |drill| {
        let status = transfer.wait()?;
        ensure!(status.success(), "{args:?}: {status}");
        drill.say(&format!(
            "{} ended well {:.1} s later",
            args[0],
            begun.elapsed().as_secs_f64()
        ));
        Ok(GAP_MAX)
    })?;
    drill.wait_until_clean()
}

#[test]
fn dataservers_are_killed_in_transfers() -> Result<()> {
    let setup = Setup {
        name: "dataservers_are_killed_in_transfers",
        ..SETUP
    };
    run(setup, |drill| {
        let folder = drill.local();
        let (local, back) = (folder.join("big"), folder.join("big-back"));
        let (local, back) = (
            local.to_str().context("utf-8")?,
            back.to_str().context("utf-8")?,
        );
        for _ in 0..if drill.is_long { 3 } else { 1 } {
            let mut bytes = vec![0; len()];
            drill.random.fill_bytes(&mut bytes);
            fs::write(local, &bytes)?;
            transfer_with_a_death(drill, &["put", local, "/big"])?;
            transfer_with_a_death(drill, &["get", "/big", back])?;
            ensure!(fs::read(back)? == bytes, "other bytes came back");
        }
        Ok(())
    })
}

/// Who wakes up after the groups have moved acknowledges nothing under its old epoch.
#[test]
fn dataservers_are_paused() -> Result<()> {
    let setup = Setup {
        name: "dataservers_are_paused",
        ..SETUP
    };
    run(setup, |drill| {
        for lasting in pauses() {
            let some = some_dataserver(drill)?;
            drill.strike_and(&Fault::Paused(vec![some.clone()]), |drill| {
                std::thread::sleep(lasting);
                if lasting > DOWN {
                    drill.wait_until_down(&some)?;
                }
                Ok(GAP_MAX)
            })?;
            drill.wait_until_clean()?;
        }
        Ok(())
    })
}

#[test]
fn dataservers_are_cut_off() -> Result<()> {
    let setup = Setup {
        name: "dataservers_are_cut_off",
        ..SETUP
    };
    run(setup, |drill| {
        let lasting = if drill.is_long {
            vec![3, 10, 75]
        } else {
            vec![8]
        };
        for lasting in lasting.into_iter().map(Duration::from_secs) {
            let metaservers = drill.metaservers();
            let clients = vec![CLIENTS.to_owned()];
            for shape in 0..6 {
                let some = vec![some_dataserver(drill)?];
                let mut peers = drill.dataservers();
                peers.retain(|server| *server != some[0]);
                let fault = match shape {
                    0 => Fault::cut(&some, &clients),
                    // Not from its peers: writes go on through it, and must not count.
                    1 => Fault::cut(&some, &metaservers),
                    2 => Fault::cut(&some, &peers),
                    3 => Fault::cut_one_way(&some, &metaservers),
                    4 => Fault::cut_one_way(&peers, &some),
                    _ => Fault::cut_one_way(&some, &clients),
                };
                // In a few minutes there is time for some of them.
                if !drill.is_long && shape > 1 {
                    continue;
                }
                drill.strike_and(&fault, |drill| {
                    std::thread::sleep(lasting);
                    if lasting > DOWN && [1, 3].contains(&shape) {
                        drill.wait_until_down(&some[0])?;
                    }
                    Ok(GAP_MAX)
                })?;
                drill.wait_until_clean()?;
            }
        }
        Ok(())
    })
}

/// A client that sleeps for longer than its lease finds its session lost, and what it was told to do is done or is
/// reported.
#[test]
fn clients_are_paused() -> Result<()> {
    let setup = Setup {
        name: "clients_are_paused",
        dataservers: 3,
        ..SETUP
    };
    run(setup, |drill| {
        let folder = drill.local();
        let tree = folder.join("tree");
        for number in 0..600 {
            let len = drill.random.random_range(1..600_000);
            let mut bytes = vec![0; len];
            drill.random.fill_bytes(&mut bytes);
            let file = tree.join(format!("{}/{number}", number % 7));
            fs::create_dir_all(file.parent().context("it has one")?)?;
            fs::write(file, bytes)?;
        }
        let tree_arg = tree.to_str().context("utf-8")?;
        let mut lasting = pauses();
        if !drill.is_long {
            lasting.truncate(1);
        }
        for (number, lasting) in lasting.into_iter().enumerate() {
            let remote = format!("/paused-{number}");
            drill.cluster.ok(["mkdir", &remote])?;
            let back = folder.join(format!("back-{number}"));
            fs::create_dir(&back)?;
            let back_arg = back.to_str().context("utf-8")?;
            let inside = format!("{remote}/tree");
            for args in [
                ["put", "-r", tree_arg, &remote],
                ["get", "-r", &inside, back_arg],
            ] {
                let mut client = drill.cluster.quarry(args).spawn()?;
                std::thread::sleep(Duration::from_millis(drill.random.random_range(20..100)));
                drill.pause_client(&mut client, lasting)?;
                let status = client.wait()?;
                ensure!(status.success(), "{args:?}: {status}");
            }
            assert_same(&tree, &back.join("tree"))?;
        }
        Ok(())
    })
}
