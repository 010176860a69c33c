//! How long reads, writes, appends and metadata stand still when a server dies: figures, by `scripts/drills.sh figures`.

use anyhow::Result;
use quarry_tests::drill::{Drill, Fault, Setup, run};
use quarry_tests::load::{Kind, Plan};
use std::collections::BTreeMap;
use std::time::Duration;

/// Servers that die.
const DEATHS: usize = 20;

/// What a death does shows within this.
const LASTING: Duration = Duration::from_secs(8);

const SETUP: Setup = Setup {
    name: "",
    metaservers: 3,
    dataservers: 5,
    plan: Plan {
        pace: Duration::from_millis(15),
        trees: 0,
        ..Plan::MIXED
    },
    settings: &[("QUARRY_OUT_AFTER_SECONDS", "600")],
};

/// Kills a server so many times and prints, for each kind of operation, how long there was none, and how long the
/// slowest took.
fn measure(
    setup: Setup,
    mut victim: impl FnMut(&mut Drill, usize) -> Result<String>,
) -> Result<()> {
    run(setup, |drill| {
        let mut gaps: BTreeMap<Kind, Vec<(Duration, Duration)>> = BTreeMap::new();
        for number in 0..DEATHS {
            let victim = victim(drill, number)?;
            drill.strike_and(&Fault::Killed(vec![victim]), |drill| {
                std::thread::sleep(LASTING);
                for (kind, figures) in drill.load.figures() {
                    gaps.entry(kind)
                        .or_default()
                        .push((figures.gap, figures.slowest));
                }
                Ok(quarry_tests::drill::GAP_MAX)
            })?;
            drill.wait_until_clean()?;
        }
        for (kind, all) in &gaps {
            let sorted = |which: fn(&(Duration, Duration)) -> Duration| {
                let mut sorted: Vec<f64> = all.iter().map(|one| which(one).as_secs_f64()).collect();
                sorted.sort_by(f64::total_cmp);
                (sorted[sorted.len() / 2], sorted[sorted.len() - 1])
            };
            let ((gap, gap_max), (slow, slow_max)) = (sorted(|one| one.0), sorted(|one| one.1));
            println!(
                "figure | {} | {kind:?} | none for {gap:.2} s (median of {DEATHS}), {gap_max:.2} s (most) | slowest {slow:.2} s, {slow_max:.2} s",
                setup.name
            );
        }
        Ok(())
    })
}

#[test]
#[ignore = "takes half an hour, since who dies again waits for longer each time: scripts/drills.sh figures"]
fn figures_of_dead_dataservers() -> Result<()> {
    let setup = Setup {
        name: "figures_of_dead_dataservers",
        ..SETUP
    };
    // In turn: one that dies again and again waits for longer each time.
    measure(setup, |drill, number| {
        Ok(drill.dataservers().swap_remove(number % setup.dataservers))
    })
}

#[test]
#[ignore = "takes four minutes: scripts/drills.sh figures"]
fn figures_of_dead_leaders() -> Result<()> {
    let setup = Setup {
        name: "figures_of_dead_leaders",
        ..SETUP
    };
    measure(setup, |drill, _| Ok(drill.leader()?.0))
}
