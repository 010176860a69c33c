//! Metaservers die, come, and go while clients work: every change that was answered is there, and happened once.

use anyhow::{Context, Result, bail, ensure};
use quarry_client::{Client, ClientFile};
use quarry_common::wire::meta::RenameMode;
use quarry_tests::processes::{Net, Processes};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Leaders that are killed.
const DEATHS: usize = 20;

/// Tasks that change something all the time.
const WORKERS: u64 = 16;

/// A failover takes less (DESIGN §8), as those who wait for an answer see it.
const FAILOVER: Duration = Duration::from_secs(3);

/// For what takes as long as a busy machine needs.
const LONG: Duration = Duration::from_secs(60);

fn start(dir: &std::path::Path) -> Result<Processes<'static>> {
    let addresses = Processes::free_addresses(4)?;
    let (metaservers, dataservers) = addresses.split_at(3);
    let mut cluster = Processes::init_several(dir, metaservers, dataservers, Net::Here, &[])?;
    for server in ["metaserver-1", "metaserver-2", "metaserver-3"] {
        cluster.start(server)?;
    }
    Ok(cluster)
}

async fn metaservers(cluster: &Processes<'_>) -> Result<Vec<Value>> {
    let mut command = cluster.quarry(["--json", "metaserver", "status"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn leader(cluster: &Processes<'_>) -> Result<u64> {
    let all = metaservers(cluster).await?;
    let leader = all.iter().find(|server| server["leads"] == true);
    leader
        .and_then(|server| server["server"].as_u64())
        .context("nobody leads")
}

/// Waits until all metaservers answer, vote and have what the leader has.
async fn wait_until_whole(cluster: &Processes<'_>, count: usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        let all = metaservers(cluster).await?;
        let is_good = |server: &Value| server["role"] == "leads" || server["role"] == "follows";
        if all.len() == count && all.iter().all(is_good) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < LONG,
            "the metaservers are not whole: {all:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes files and renames some, one after the other; what happened twice or not at all shows as an error or in the
/// listing.
async fn work(
    client: Client,
    worker: u64,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Result<(Vec<String>, Duration)> {
    let dir = format!("/w{worker}");
    client.mkdir(dir.as_bytes(), 0o755).await?;
    let (mut there, mut longest) = (Vec::new(), Duration::ZERO);
    for number in 0u64.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let begun = Instant::now();
        let (made, moved) = (format!("{dir}/f{number}"), format!("{dir}/m{number}"));
        // Twice would be EEXIST.
        client.create(made.as_bytes(), 0o644, true).await?;
        longest = longest.max(begun.elapsed());
        if number % 3 == 0 {
            // Twice would be ENOENT.
            let mode = RenameMode::NoReplace;
            client
                .rename(made.as_bytes(), moved.as_bytes(), mode)
                .await?;
            there.push(format!("m{number}"));
        } else {
            there.push(format!("f{number}"));
        }
        done.fetch_add(1, Ordering::AcqRel);
    }
    Ok((there, longest))
}

async fn listed(client: &Client, worker: u64) -> Result<Vec<String>> {
    let mut dir = client
        .open_dir(format!("/w{worker}").as_bytes(), false)
        .await?;
    let mut names = Vec::new();
    while let Some(entry) = dir.next().await? {
        names.push(String::from_utf8_lossy(&entry.name).into_owned());
    }
    names.sort();
    Ok(names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_happens_exactly_once_over_twenty_deaths_of_leaders() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut cluster = start(&scratch.path().join("cluster"))?;
    let client = Client::connect(ClientFile::load(&cluster.client_file())?).await?;
    wait_until_whole(&cluster, 3).await?;
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let work = work(client.clone(), worker, Arc::clone(&stop), Arc::clone(&done));
        workers.push(tokio::spawn(work));
    }
    let mut failovers = Vec::new();
    for _ in 0..DEATHS {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let name = format!("metaserver-{}", leader(&cluster).await?);
        cluster.kill(&name)?;
        let (died, before) = (Instant::now(), done.load(Ordering::Acquire));
        while done.load(Ordering::Acquire) < before + WORKERS {
            ensure!(died.elapsed() < LONG, "nothing goes on after {name} died");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        failovers.push(died.elapsed());
        cluster.start(&name)?;
        wait_until_whole(&cluster, 3).await?;
    }
    stop.store(true, Ordering::Release);
    let mut changes = 0;
    let mut longest = Duration::ZERO;
    for (worker, task) in (0..).zip(workers) {
        let (mut there, slowest) = task.await??;
        there.sort();
        ensure!(
            listed(&client, worker).await? == there,
            "worker {worker} sees other files"
        );
        changes += there.len();
        longest = longest.max(slowest);
    }
    failovers.sort();
    println!(
        "{changes} files over {DEATHS} deaths; {WORKERS} further ones were made {:.2} s (median) and {:.2} s (longest) after a death; \
         no answer took longer than {:.2} s",
        failovers[DEATHS / 2].as_secs_f64(),
        failovers[DEATHS - 1].as_secs_f64(),
        longest.as_secs_f64()
    );
    // One or two may meet a machine that does something else.
    let most = failovers[DEATHS * 9 / 10];
    ensure!(most < FAILOVER, "failovers took {failovers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metaserver_is_added_and_the_leader_removed_with_the_command_line_while_files_are_made()
-> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut cluster = start(&scratch.path().join("cluster"))?;
    let client = Client::connect(ClientFile::load(&cluster.client_file())?).await?;
    wait_until_whole(&cluster, 3).await?;
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let task = tokio::spawn(work(
        client.clone(),
        0,
        Arc::clone(&stop),
        Arc::clone(&done),
    ));

    let address = &Processes::free_addresses(1)?[0];
    let folder = cluster.folder("metaserver-4");
    let out = folder.to_str().context("utf-8")?;
    cluster.ok(["metaserver", "add", address, "--out", out])?;
    cluster.ok([
        "config",
        "check",
        folder.join("metaserver.toml").to_str().context("utf-8")?,
    ])?;
    // Not twice, and not another's folder.
    let never = scratch.path().join("never-made");
    let never = never.to_str().context("utf-8")?;
    for (at, out, said) in [
        (&address[..], never, "already"),
        ("127.0.0.1:1", out, "is there already"),
    ] {
        let refused = cluster
            .quarry(["metaserver", "add", at, "--out", out])
            .output()?;
        let text = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            !refused.status.success() && text.contains(said),
            "{at}: {text}"
        );
    }
    // A name may be known to the others alone.
    let invited = cluster.ok(["metaserver", "add", "nohost.invalid", "--out", never])?;
    let text = String::from_utf8_lossy(&invited.stderr);
    ensure!(text.contains("nohost.invalid:7410 is not found"), "{text}");
    cluster.ok(["metaserver", "remove", "5"])?;
    cluster.start("metaserver-4")?;
    wait_until_whole(&cluster, 4).await?;

    let old = leader(&cluster).await?;
    let begun = Instant::now();
    cluster.ok(["metaserver", "remove", &old.to_string()])?;
    println!("removing the leader took {:?}", begun.elapsed());
    wait_until_whole(&cluster, 3).await?;
    ensure!(
        leader(&cluster).await? != old,
        "it leads though it was removed"
    );
    cluster.kill(&format!("metaserver-{old}"))?;
    let before = done.load(Ordering::Acquire);
    while done.load(Ordering::Acquire) < before + 10 {
        ensure!(
            begun.elapsed() < LONG,
            "nothing goes on after the leader was removed"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Release);
    let (mut there, _) = task.await??;
    there.sort();
    ensure!(listed(&client, 0).await? == there, "other files are there");

    // One of the three may die; and one whose absence would stop the others is not removed.
    let rest: Vec<u64> = metaservers(&cluster)
        .await?
        .iter()
        .filter_map(|server| server["server"].as_u64())
        .collect();
    let leading = leader(&cluster).await?;
    let [dead, other] = rest
        .into_iter()
        .filter(|id| *id != leading)
        .collect::<Vec<_>>()[..]
    else {
        bail!("three metaservers");
    };
    cluster.kill(&format!("metaserver-{dead}"))?;
    let refused = cluster
        .quarry(["metaserver", "remove", &other.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains("no majority"),
        "{said}"
    );
    client.mkdir(b"/still", 0o755).await?;
    cluster.ok(["metaserver", "remove", &dead.to_string()])?;
    wait_until_whole(&cluster, 2).await
}

/// A client file and a dataserver's configuration that name none of the metaservers that there are: the removed ones, as
/// long as they run, name the others, and the dataserver has noted them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_metaservers_are_replaced_and_who_starts_later_finds_the_new_ones() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut cluster = start(&scratch.path().join("cluster"))?;
    cluster.start("dataserver-1")?;
    wait_until_whole(&cluster, 3).await?;
    let addresses = Processes::free_addresses(3)?;
    for (old, address) in (1..=3).zip(&addresses) {
        let new = format!("metaserver-{}", old + 3);
        let folder = cluster.folder(&new);
        let out = folder.to_str().context("utf-8")?;
        cluster.ok(["metaserver", "add", address, "--out", out])?;
        cluster.start(&new)?;
        wait_until_whole(&cluster, 4).await?;
        cluster.ok(["metaserver", "remove", &old.to_string()])?;
        wait_until_whole(&cluster, 3).await?;
    }
    let listed = cluster.ok(["ls", "/"])?;
    let told = String::from_utf8_lossy(&listed.stderr);
    ensure!(
        told.contains("of the 3 metaservers that it names 0 are left")
            && told.contains("client.toml")
            && told.contains(&addresses[2]),
        "{told}"
    );

    let noted = cluster.folder("dataserver-1").join("disk-1/metaservers");
    let begun = Instant::now();
    let is_noted = || {
        let bytes = std::fs::read(&noted).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        addresses.iter().all(|address| text.contains(&**address))
    };
    let wait_until_noted = async || {
        while !is_noted() {
            ensure!(begun.elapsed() < LONG, "the dataserver has not noted them");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    wait_until_noted().await?;
    // Without the note those of the configuration are asked: they name the others as long as they run.
    cluster.kill("dataserver-1")?;
    std::fs::remove_file(&noted)?;
    cluster.start("dataserver-1")?;
    wait_until_noted().await?;
    let old = ["metaserver-1", "metaserver-2", "metaserver-3"];
    cluster.kill_all(&[&old[..], &["dataserver-1"]].concat())?;
    // Ready, it has registered: with those that its configuration does not name.
    cluster.start("dataserver-1")?;
    let mut file = ClientFile::load(&cluster.client_file())?;
    for (there, address) in file.metaservers.iter_mut().zip(addresses) {
        there.id.0 += 3;
        there.address = address;
    }
    file.save(&cluster.client_file())?;
    let listed = cluster.ok(["ls", "/"])?;
    ensure!(listed.stderr.is_empty(), "{listed:?}");
    Ok(())
}

/// What a command says that is to fail: within seconds, far from the minute for which others wait.
fn fails_soon(cluster: &Processes<'_>, args: &[&str]) -> Result<(String, String)> {
    let begun = Instant::now();
    let output = cluster.quarry(args).output()?;
    let took = begun.elapsed();
    ensure!(took < LONG / 2, "{args:?}: {took:?}");
    ensure!(output.status.code() == Some(1), "{args:?}: {output:?}");
    let said = String::from_utf8(output.stdout)?;
    Ok((said, String::from_utf8(output.stderr)?))
}

#[test]
fn where_no_majority_is_left_it_is_told_within_seconds_who_answers() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut cluster = start(&scratch.path().join("cluster"))?;
    for server in ["metaserver-1", "metaserver-2"] {
        cluster.kill(server)?;
    }
    // On a busy machine the third may be late as well.
    let until = Instant::now() + LONG;
    let told = "1 of 3 metaservers answers, and a leader needs 2: start metaserver 1 or 2";
    loop {
        let (said, _) = fails_soon(&cluster, &["metaserver", "status"])?;
        if said.contains(told) && said.matches("nothing listens there").count() == 2 {
            break;
        }
        ensure!(Instant::now() < until, "{said}");
    }
    let (said, _) = fails_soon(&cluster, &["--json", "metaserver", "status"])?;
    let all: Vec<Value> = serde_json::from_str(&said)?;
    ensure!(
        all.len() == 3 && all[0]["answers"] == false,
        "not all are listed: {said}"
    );
    let (said, _) = fails_soon(&cluster, &["--json", "status"])?;
    let status: Value = serde_json::from_str(&said)?;
    ensure!(
        status["healthy"] == false && status["leader"].is_null(),
        "{said}"
    );
    let (said, _) = fails_soon(&cluster, &["status"])?;
    ensure!(said.starts_with("no metaserver leads: "), "{said}");
    for args in [["disk", "list"], ["pg", "list"]] {
        let (_, said) = fails_soon(&cluster, &args)?;
        let told = format!("no metaserver leads: {told}");
        ensure!(said.contains(&told), "{args:?}: {said}");
    }
    Ok(())
}
