//! Many clients append to one file through changes of leaders: each record is there whole, once, where it was said to be.

use anyhow::{Result, ensure};
use quarry_tests::drill::{Fault, GAP_MAX, Setup, run};
use quarry_tests::load::{Kind, Plan};
use std::time::{Duration, Instant};

#[test]
fn many_clients_append_through_three_changes_of_leaders() -> Result<()> {
    let is_long = std::env::var("QUARRY_DRILLS").is_ok_and(|which| which == "long");
    let (writers, records) = if is_long { (100, 1_000) } else { (30, 100) };
    let setup = Setup {
        name: "many_clients_append_through_three_changes_of_leaders",
        metaservers: 3,
        dataservers: 3,
        plan: Plan {
            readers: 0,
            files: 0,
            writers,
            records,
            names: 0,
            trees: 0,
            pace: Duration::ZERO,
        },
        settings: &[],
    };
    run(setup, |drill| {
        let all = writers as u64 * records;
        let begun = Instant::now();
        for change in 1..=3 {
            // At a quarter, half, and three quarters of the way.
            let from = all * change / 4;
            while drill.load.done(Kind::Append) < from {
                ensure!(begun.elapsed() < Duration::from_secs(1_200), "too slow");
                std::thread::sleep(Duration::from_millis(20));
            }
            ensure!(
                !drill.load.is_all_appended(),
                "all was over before change {change}"
            );
            let (leader, _) = drill.leader()?;
            drill.say(&format!(
                "{} records acknowledged",
                drill.load.done(Kind::Append)
            ));
            let fault = match change {
                1 => Fault::Killed(vec![leader.clone()]),
                2 => Fault::Paused(vec![leader.clone()]),
                _ => {
                    let mut others = drill.metaservers();
                    others.retain(|server| *server != leader);
                    Fault::cut(&[leader.clone()], &others)
                }
            };
            drill.strike_and(&fault, |drill| {
                drill.wait_for_another_leader(&leader)?;
                drill.load.wait_for_progress(writers as u64, GAP_MAX)?;
                Ok(GAP_MAX)
            })?;
            drill.wait_until_clean()?;
        }
        while !drill.load.is_all_appended() {
            ensure!(begun.elapsed() < Duration::from_secs(1_200), "too slow");
            std::thread::sleep(Duration::from_millis(50));
        }
        let done = drill.load.done(Kind::Append);
        ensure!(done == all, "{done} of {all} records were acknowledged");
        Ok(())
    })
}
