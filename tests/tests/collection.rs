//! Clients that create, replace and remove files are killed all the time; in the end every disk has exactly the chunks
//! that files refer to.

use anyhow::{Context, Result, ensure};
use quarry_client::{Client, ClientFile, Place};
use quarry_common::ids::ChunkId;
use quarry_common::wire::meta::FileKind;
use quarry_dataserver::disk::{ChunkState, Disk, DiskOptions};
use quarry_tests::drill::is_long;
use quarry_tests::power::LoopDisk;
use quarry_tests::processes::Processes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

const DATASERVERS: u32 = 3;

/// Small files to be packed into segments, some of several chunks of their own.
fn make_tree(dir: &Path, random: &mut SmallRng, small: u32, large: u32) -> Result<()> {
    fs::create_dir_all(dir)?;
    for number in 0..small + large {
        let len = match number < small {
            true => random.random_range(300..20_000),
            false => random.random_range(100_000..6_000_000),
        };
        let mut bytes = vec![0; len];
        random.fill_bytes(&mut bytes);
        fs::write(dir.join(format!("f{number}")), bytes)?;
    }
    Ok(())
}

/// The chunks of all files below a directory.
async fn referenced(client: &Client, dir: &str, found: &mut BTreeSet<ChunkId>) -> Result<u64> {
    let mut files = 0;
    let root = if dir.is_empty() { "/" } else { dir };
    let mut entries = client.open_dir(root.as_bytes(), false).await?;
    while let Some(entry) = entries.next().await? {
        let path = format!("{dir}/{}", String::from_utf8_lossy(&entry.name));
        if entry.kind == FileKind::Directory {
            files += Box::pin(referenced(client, &path, found)).await?;
        } else {
            files += 1;
            for range in client.locate(path.as_bytes()).await? {
                if let Place::Chunk { chunk, .. } = range.at {
                    found.insert(chunk);
                }
            }
        }
    }
    Ok(files)
}

/// How many files and directories were ever made: ids are given out one after the other.
async fn files_made(client: &Client) -> Result<u64> {
    let made = client.create(b"/count", 0o644, false).await?;
    client.unlink(b"/count").await?;
    Ok(made.inode.0 & ((1 << 48) - 1))
}

/// What a stopped dataserver's disk has.
fn chunks_of(cluster: &Processes, file: &ClientFile, server: u32) -> Result<BTreeSet<ChunkId>> {
    let path = cluster
        .folder(&format!("dataserver-{server}"))
        .join("disk-1");
    let disk = Disk::open(&path, file.cluster, DiskOptions::default())?;
    let mut found = BTreeSet::new();
    for item in disk.chunks() {
        let (name, info) = item?;
        ensure!(
            info.state == ChunkState::Sealed,
            "{name} is {:?}",
            info.state
        );
        found.insert(name.chunk);
    }
    Ok(found)
}

fn status(cluster: &Processes) -> Result<serde_json::Value> {
    let output = cluster.ok(["status", "--json"])?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test]
async fn in_the_end_every_disk_has_exactly_what_files_refer_to() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 64 << 30)?;
    let addresses = Processes::free_addresses(1 + DATASERVERS as usize)?;
    let mut cluster = Processes::init(&disk.path().join("cluster"), &addresses, None)?;
    cluster.set("QUARRY_DOOM_GRACE_SECONDS", "2");
    cluster.set("QUARRY_COLLECT_EVERY_SECONDS", "3");
    cluster.start_all(DATASERVERS)?;

    let mut random = SmallRng::seed_from_u64(20_261_126);
    // The same names with other contents.
    let local = |number: u32| scratch.path().join(format!("{number}/tree"));
    // In a long drill a hundred thousand files are made.
    let (small, wanted) = if is_long() {
        (2_000, 100_000)
    } else {
        (400, 0)
    };
    for number in 0..4 {
        make_tree(&local(number), &mut random, small, 8)?;
    }
    let file = ClientFile::load(&cluster.client_file())?;
    let client = Client::connect(file.clone()).await?;
    cluster.ok(["mkdir", "/dir-0", "/dir-1", "/dir-2"])?;
    let mut killed = 0;
    for round in 0.. {
        let made = files_made(&client).await?;
        if round % 12 == 0 && round > 0 {
            println!("round {round}: {made} files made, {killed} clients killed");
            // On a fast machine many are done before they are killed.
            if made >= wanted && killed > 8 {
                break;
            }
            ensure!(
                round < 600,
                "clients are too fast to be killed, or too slow"
            );
        }
        // Two at once, of which most are killed in the middle; the same names again and again.
        let mut clients = Vec::new();
        for _ in 0..2 {
            let tree = local(random.random_range(0..4));
            let to = format!("/dir-{}", random.random_range(0..3));
            let inside = format!("{to}/tree");
            let tree = tree.to_str().context("utf-8")?;
            let args = match round % 4 {
                3 => vec!["rm", "-r", "-f", &inside],
                _ => vec!["put", "-r", tree, &to],
            };
            let mut command = cluster.quarry(&args);
            clients.push(
                command
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?,
            );
        }
        for mut client in clients {
            if round % 12 < 10 {
                std::thread::sleep(Duration::from_millis(random.random_range(50..900)));
                client.kill()?;
            }
            killed += u32::from(!client.wait()?.success());
        }
    }
    // Something that stays, whatever the others came to.
    let tree = local(0);
    cluster.ok(["put", "-r", tree.to_str().context("utf-8")?, "/"])?;

    // Sessions of the dead end with their lease, files without a name after another one.
    let until = Instant::now() + Duration::from_secs(400);
    let mut kept = BTreeSet::new();
    let files = referenced(&client, "", &mut kept).await?;
    ensure!(files > 400 && kept.len() > 400, "{files} files are left");
    client.close().await?;
    settle(&cluster, kept.len() as u64, until).await?;
    // What a killed dataserver had deleted of segments is in them again: it asks once more.
    cluster.kill("dataserver-1")?;
    trash_goes_though_metaservers_are_silent(&mut cluster, "dataserver-1").await?;
    settle(&cluster, kept.len() as u64, until).await?;
    for server in 1..=DATASERVERS {
        cluster.stop(&format!("dataserver-{server}"))?;
        let found = chunks_of(&cluster, &file, server)?;
        ensure!(
            found == kept,
            "disk {server} has {} chunks beside what is referred to, and lacks {}",
            found.difference(&kept).count(),
            kept.difference(&found).count()
        );
    }
    Ok(())
}

/// Starts a dataserver with something in its trash that is soon old enough, and the metaserver once it is gone.
async fn trash_goes_though_metaservers_are_silent(
    cluster: &mut Processes<'_>,
    server: &str,
) -> Result<()> {
    let old = cluster.folder(server).join("disk-1/trash/of-old");
    fs::write(&old, "nobody's")?;
    // It is looked at from the start on: it must not be due before the metaserver is gone.
    let age = Duration::from_secs(86_400 - 15);
    fs::File::open(&old)?.set_modified(SystemTime::now() - age)?;
    cluster.start(server)?;
    cluster.kill("metaserver-1")?;
    ensure!(old.exists(), "the trash went before the metaserver");
    let until = Instant::now() + Duration::from_secs(60);
    while old.exists() {
        ensure!(Instant::now() < until, "the trash of a day ago stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.start("metaserver-1")
}

/// Waits until nothing waits for its deletion, and the disks have no more than what `kept` chunks need.
async fn settle(cluster: &Processes<'_>, kept: u64, until: Instant) -> Result<()> {
    loop {
        let status = status(cluster)?;
        let on_disks = kept * u64::from(DATASERVERS);
        let chunks = cluster.ok(["disk", "list", "--json"])?;
        let chunks: serde_json::Value = serde_json::from_slice(&chunks.stdout)?;
        let chunks: u64 = chunks
            .as_array()
            .context("a list")?
            .iter()
            .map(|disk| disk["chunks"].as_u64().unwrap_or(0))
            .sum();
        let waiting =
            ["orphans", "unreferenced_chunks", "doomed_chunks"].map(|what| status[what].as_u64());
        if waiting == [Some(0); 3] && chunks == on_disks {
            ensure!(
                status["trash_bytes"].as_u64() > Some(0),
                "nothing is in the trash"
            );
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{waiting:?} wait, the disks have {chunks} chunks, files refer to {on_disks}"
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
