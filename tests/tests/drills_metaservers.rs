//! Metaservers are killed, paused and cut off under load.

use anyhow::{Result, ensure};
use quarry_tests::drill::{Drill, Fault, GAP_MAX, Setup, pauses, run};
use quarry_tests::load::Plan;
use quarry_tests::processes::CLIENTS;
use std::time::Duration;

const SETUP: Setup = Setup {
    name: "",
    metaservers: 3,
    dataservers: 3,
    plan: Plan::MIXED,
    settings: &[],
};

/// Everybody who is not the leader.
fn others(drill: &Drill, leader: &str) -> Vec<String> {
    let mut others = drill.metaservers();
    others.retain(|server| server != leader);
    others
}

/// Whoever waited asks again by then.
const RECOVERY: Duration = Duration::from_secs(5);

/// An election is over by then, however slow the machine.
const ELECTION: Duration = Duration::from_secs(5);

#[test]
fn leaders_are_killed() -> Result<()> {
    let setup = Setup {
        name: "leaders_are_killed",
        ..SETUP
    };
    run(setup, |drill| {
        for _ in 0..if drill.is_long { 10 } else { 2 } {
            let (leader, _) = drill.leader()?;
            drill.strike_and(&Fault::Killed(vec![leader.clone()]), |drill| {
                drill.wait_for_another_leader(&leader)?;
                drill.load.wait_for_progress(3, GAP_MAX)?;
                Ok(GAP_MAX)
            })?;
            drill.wait_until_clean()?;
        }
        let everyone = drill.metaservers();
        drill.strike(&Fault::Killed(everyone), Duration::from_secs(3))?;
        drill.wait_until_clean()
    })
}

/// Who wakes up finds another leader, and changes nothing: what it had been asked for before, it was asked for once.
#[test]
fn leaders_are_paused() -> Result<()> {
    let setup = Setup {
        name: "leaders_are_paused",
        ..SETUP
    };
    run(setup, |drill| {
        for lasting in pauses() {
            let (leader, _) = drill.leader()?;
            drill.strike_and(&Fault::Paused(vec![leader.clone()]), |drill| {
                std::thread::sleep(lasting);
                if lasting > ELECTION {
                    drill.wait_for_another_leader(&leader)?;
                }
                Ok(GAP_MAX)
            })?;
            drill.wait_until_clean()?;
        }
        // A follower is not missed, and catches up.
        let (leader, _) = drill.leader()?;
        let follower = others(drill, &leader).swap_remove(0);
        let lasting = Duration::from_secs(if drill.is_long { 75 } else { 3 });
        drill.strike(&Fault::Paused(vec![follower]), lasting)?;
        drill.wait_until_clean()
    })
}

/// Each shape of a partition around the leader.
#[test]
fn leaders_are_cut_off() -> Result<()> {
    let setup = Setup {
        name: "leaders_are_cut_off",
        ..SETUP
    };
    run(setup, |drill| {
        let lasting = if drill.is_long {
            vec![3, 10, 75]
        } else {
            vec![6]
        };
        for lasting in lasting.into_iter().map(Duration::from_secs) {
            for shape in 0..4 {
                // In a few minutes there is time for two: it alone is cut off from the others, and it hears nobody.
                if !drill.is_long && [1, 2].contains(&shape) {
                    continue;
                }
                let (leader, _) = drill.leader()?;
                let others = others(drill, &leader);
                let leader = vec![leader];
                let everybody = [
                    others.clone(),
                    drill.dataservers(),
                    vec![CLIENTS.to_owned()],
                ]
                .concat();
                let fault = match shape {
                    // It still hears clients and dataservers.
                    0 => Fault::cut(&leader, &others),
                    1 => Fault::cut(&leader, &everybody),
                    2 => Fault::cut_one_way(&leader, &others),
                    _ => Fault::cut_one_way(&others, &leader),
                };
                drill.strike_and(&fault, |drill| {
                    std::thread::sleep(lasting);
                    if lasting > ELECTION {
                        drill.wait_for_another_leader(&leader[0])?;
                    }
                    Ok(GAP_MAX)
                })?;
                drill.wait_until_clean()?;
            }
        }
        Ok(())
    })
}

/// Clients that do not reach the leader wait for it, or find it another way: nothing fails, nothing happens twice.
#[test]
fn clients_are_cut_off_from_metaservers() -> Result<()> {
    let setup = Setup {
        name: "clients_are_cut_off_from_metaservers",
        ..SETUP
    };
    run(setup, |drill| {
        // Shorter than a session's lease: a longer one loses the session, and outcomes are unknown.
        for lasting in if drill.is_long {
            vec![3, 10, 40]
        } else {
            vec![4]
        } {
            let lasting = Duration::from_secs(lasting);
            let (leader, _) = drill.leader()?;
            let (leader, clients) = (vec![leader], vec![CLIENTS.to_owned()]);
            let everyone = drill.metaservers();
            let shapes = [
                Fault::cut(&clients, &leader),
                Fault::cut_one_way(&leader, &clients),
                Fault::cut_one_way(&clients, &everyone),
            ];
            let count = if drill.is_long { 3 } else { 2 };
            for fault in shapes.into_iter().take(count) {
                drill.strike_and(&fault, |_| {
                    std::thread::sleep(lasting);
                    // Nobody else can serve them.
                    Ok(lasting + GAP_MAX)
                })?;
                // What meets two of them in a row waits for longer than the minute after which it fails.
                std::thread::sleep(RECOVERY);
            }
        }
        drill.wait_until_clean()
    })
}

#[test]
fn a_third_of_all_packets_is_lost() -> Result<()> {
    let setup = Setup {
        name: "a_third_of_all_packets_is_lost",
        ..SETUP
    };
    run(setup, |drill| {
        let everybody: Vec<String> = drill.hosts.names().into_iter().map(str::to_owned).collect();
        let lasting = Duration::from_secs(if drill.is_long { 120 } else { 8 });
        let fault = Fault::lossy(30, &everybody, &everybody, false);
        drill.strike_and(&fault, |drill| {
            std::thread::sleep(lasting);
            let metadata = drill.load.figures();
            ensure!(
                metadata.values().any(|figures| figures.gap < lasting),
                "nothing was done"
            );
            // Windows stay at their minimum: a megabyte takes many seconds.
            Ok(lasting + GAP_MAX)
        })?;
        drill.wait_until_clean()
    })
}
