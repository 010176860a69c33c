//! Bad input gets an error that names the thing and the remedy, and loses nothing.

use anyhow::{Context, Result, ensure};
use quarry_client::{Client, ClientFile};
use quarry_common::checksum::Crc;
use quarry_common::ids::{InodeId, ServerId};
use quarry_common::wire::meta::Op;
use quarry_tests::cluster::Dev;
use quarry_tests::power::LoopDisk;
use quarry_tests::processes::Processes;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a command that must fail, and say all of `parts`.
fn fails(mut command: Command, parts: &[&str]) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    ensure!(
        matches!(output.status.code(), Some(1 | 2)),
        "{command:?} ended with {}: {said}",
        output.status
    );
    ensure!(!said.contains("panicked"), "{command:?}: {said}");
    for part in parts {
        ensure!(
            said.contains(part),
            "{command:?} does not say '{part}': {said}"
        );
    }
    Ok(())
}

/// So many random bytes in a file.
fn random_file(path: &Path, seed: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    fs::write(path, &bytes)?;
    Ok(bytes)
}

/// A command without a cluster.
fn quarry(args: &[&str]) -> Command {
    let mut command = Command::new(quarry_tests::run::quarry());
    command.args(args);
    command
}

#[test]
fn a_variable_of_the_environment_is_named() -> Result<()> {
    let run = |name: &str, value: &str| {
        let mut command = quarry(&["dataserver", "run"]);
        command.env(name, value);
        command
    };
    fails(
        run("QUARRY_DIRECT_IO", "maybe"),
        &["'maybe'", "QUARRY_DIRECT_IO"],
    )?;
    fails(
        run("QUARRY_METASERVERS", "junk"),
        &["1=host:7410", "QUARRY_METASERVERS"],
    )
}

#[test]
fn what_can_not_be_written_to_standard_output_is_an_error() -> Result<()> {
    for args in [&["help"][..], &["help", "put"], &["--help"], &["--version"]] {
        let mut command = quarry(args);
        command.stdout(fs::File::create("/dev/full")?);
        fails(command, &["standard output", "No space left"])?;
    }
    Ok(())
}

#[test]
fn names_and_paths_that_can_not_be_are_refused() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let dev = Dev::start(&disk.path().join("cluster"), 1)?;
    let local = scratch.path().join("local");
    let bytes = random_file(&local, 1, 100_000)?;
    let local = local.to_str().context("utf-8")?;
    dev.ok(["mkdir", "-p", "/d/e", "/d/local"])?;
    dev.ok(["put", local, "/d/e/file"])?;

    let long = format!("/d/{}", "n".repeat(256));
    let deep = format!("/{}", "a/".repeat(2_100));
    for (args, parts) in [
        (vec!["mkdir", &long], ["256 bytes", "255"]),
        (vec!["put", local, &long], ["256 bytes", "255"]),
        (vec!["mv", "/d/e", &long], ["256 bytes", "255"]),
        (vec!["mkdir", "/d/."], ["/d/.", "exists"]),
        (vec!["mkdir", "/d/.."], ["/d/..", "exists"]),
        (vec!["rmdir", "/d/e/."], ["/d/e/.", "'.'"]),
        (vec!["ls", &deep], ["4201 bytes", "4096"]),
        (vec!["put", local, &deep], ["4201 bytes", "4096"]),
        (vec!["mkdir", "relative"], ["absolute", "/relative"]),
        (vec!["mv", "/d", "/d/e/f"], ["'d'", "into itself"]),
        (vec!["mv", "/d", "/d/e"], ["'d'", "into itself"]),
        // /d/local is a directory, and a file goes into /d under the name 'local'.
        (vec!["put", local, "/d"], ["/d/local", "director"]),
        (
            vec!["put", "-r", "/no/such/tree", "/d"],
            ["/no/such/tree", "No such file"],
        ),
        (vec!["cat", "/d"], ["/d", "director"]),
        (vec!["cat", "/d/e/file/more"], ["/d/e/file", "director"]),
        (vec!["rmdir", "/d"], ["/d", "not empty"]),
        (vec!["rmdir", "//"], ["/", "can not be removed"]),
        (vec!["put", "", "/d/x"], ["empty name", "local file"]),
        (vec!["get", "/d/e/file", ""], ["empty name", "local file"]),
        (vec!["append", "/d/x", ""], ["empty name", "local file"]),
        (vec!["truncate", "-s", "abc", "/d/x"], ["'abc'", "no size"]),
        (
            vec!["ls", "/d/no"],
            ["ls: /d/no: there is no 'no'", "'d'\n"],
        ),
        (
            vec!["mkdir", "/d/e"],
            ["a 'e' in directory 'd' already", "/d/e"],
        ),
    ] {
        fails(dev.quarry(args), &parts)?;
    }

    for number in 0..41 {
        let (to, from) = (format!("/link{}", number + 1), format!("/link{number}"));
        dev.ok(["ln", "-s", &to, &from])?;
    }
    dev.ok(["ln", "-s", "/d/e/file", "/link41"])?;
    dev.ok(["ln", "-s", "loop", "/loop"])?;
    ensure!(
        dev.ok(["cat", "/link2"])?.stdout == bytes,
        "40 links are allowed"
    );
    fails(dev.quarry(["cat", "/link0"]), &["/link0", "symbolic links"])?;
    fails(dev.quarry(["cat", "/loop"]), &["/loop", "symbolic links"])?;
    fails(
        dev.quarry(["put", local, "/loop/x"]),
        &["/loop/x", "symbolic links"],
    )?;

    // No argument of a process has a NUL in it, and no path a name with '/': programs can try.
    tokio::runtime::Runtime::new()?.block_on(hostile_names(&dev))?;

    ensure!(
        dev.ok(["cat", "/d/e/file"])?.stdout == bytes,
        "the file changed"
    );
    let listed = dev.ok(["ls", "/d"])?.stdout;
    ensure!(
        listed == b"e\nlocal\n",
        "{:?}",
        String::from_utf8_lossy(&listed)
    );
    Ok(())
}

/// Names that only a program of its own can send.
async fn hostile_names(dev: &Dev) -> Result<()> {
    let client = Client::connect(ClientFile::load(&dev.client_file())?).await?;
    let names: [&[u8]; 7] = [b"", b".", b"..", b"a/b", b"/", b"a\0b", &[b'n'; 256]];
    for name in names {
        let mkdir = Op::Mkdir {
            parent: InodeId::ROOT,
            name: name.to_vec(),
            mode: 0o755,
        };
        let error = client.mutate(mkdir).await.err();
        let error = error.with_context(|| format!("{name:?} was taken"))?;
        println!("{name:?}: {error}");
    }
    let error = client.mkdir(b"/a\0b", 0o755).await.err().context("taken")?;
    ensure!(error.text.to_lowercase().contains("nul"), "{error}");
    Ok(client.close().await?)
}

#[test]
fn a_full_cluster_says_so_and_keeps_what_it_has() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 400 << 20)?;
    let dev = Dev::start(&disk.path().join("cluster"), 1)?;
    let old = scratch.path().join("old");
    let old_bytes = random_file(&old, 2, 20 << 20)?;
    let small = scratch.path().join("small");
    let small_bytes = random_file(&small, 3, 4_096)?;
    let (old, small) = (
        old.to_str().context("utf-8")?,
        small.to_str().context("utf-8")?,
    );
    dev.ok(["put", old, "/old"])?;
    dev.ok(["put", small, "/small"])?;

    let mut stored = Vec::new();
    for number in 0.. {
        ensure!(
            number < 40,
            "40 files of 20 MiB went onto a disk of 400 MiB"
        );
        let name = format!("/filler{number}");
        let mut put = dev.quarry(["put", old, &name]);
        if put.stderr(Stdio::null()).status()?.success() {
            stored.push(name);
        } else {
            break;
        }
    }
    ensure!(stored.len() > 2, "the disk was full from the beginning");
    // Small ones find room for a while yet; nobody finds it for a large one.
    fails(
        dev.quarry(["put", old, "/large"]),
        &[
            "/large",
            "full disk (disk 1)",
            "add disks, or remove files",
            "minutes",
        ],
    )?;
    // The metaserver hears of it with the next heartbeat.
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let status = String::from_utf8(dev.ok(["status"])?.stdout)?;
        if status.contains("is full") {
            break;
        }
        ensure!(Instant::now() < until, "the status never says so: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // A replacement that does not fit leaves what was there.
    let other = scratch.path().join("other");
    random_file(&other, 4, 90 << 20)?;
    let other = other.to_str().context("utf-8")?;
    fails(dev.quarry(["put", other, "/old"]), &["/old", "full disk"])?;

    for name in ["/old"]
        .into_iter()
        .chain(stored.iter().map(String::as_str))
    {
        ensure!(dev.ok(["cat", name])?.stdout == old_bytes, "{name} changed");
    }
    ensure!(
        dev.ok(["cat", "/small"])?.stdout == small_bytes,
        "/small changed"
    );
    let listed = String::from_utf8(dev.ok(["ls", "/"])?.stdout)?;
    ensure!(
        !listed.contains("large"),
        "half a file is visible: {listed}"
    );
    // Metadata go on: removing files must be possible.
    dev.ok(["rm", &stored[0]])?;
    dev.ok(["mkdir", "/still works"])?;
    Ok(())
}

#[test]
fn a_full_disk_among_others_is_passed_over() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 200 << 20)?;
    let addresses = Processes::free_addresses(3)?;
    let other_disk = LoopDisk::new(scratch.path(), "other-disk", 4 << 30)?;
    let cluster_dir = other_disk.path().join("cluster");
    let mut cluster = Processes::init_with(&cluster_dir, &addresses, None, &["--replicas", "1"])?;
    let config = cluster.folder("dataserver-1").join("dataserver.toml");
    let text = fs::read_to_string(&config)?;
    let path = disk.path().join("quarry");
    fs::write(
        &config,
        text.replace("disk-1", path.to_str().context("utf-8")?),
    )?;
    cluster.start_all(2)?;
    // Somebody else fills the file system.
    let found = rustix::fs::statvfs(disk.path())?;
    let free = (found.f_bavail * found.f_frsize).saturating_sub(2 << 20);
    quarry_tests::run::tool(
        "fallocate",
        [
            OsString::from("-l"),
            free.to_string().into(),
            disk.path().join("other").into(),
        ],
    )?;
    let local = scratch.path().join("local");
    let bytes = random_file(&local, 5, 3 << 20)?;
    let local = local.to_str().context("utf-8")?;
    for number in 0..12 {
        let name = format!("/file{number}");
        cluster.ok(["put", local, &name])?;
        ensure!(
            cluster.ok(["cat", &name])?.stdout == bytes,
            "{name} changed"
        );
    }
    Ok(())
}

#[test]
fn a_metaserver_whose_disk_is_full_says_so_and_goes_on_where_there_is_room() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let place = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let own = LoopDisk::new(scratch.path(), "own", 300 << 20)?;
    let in_the_way = own.path().join("other");
    let mut cluster = Processes::init(
        &place.path().join("cluster"),
        &Processes::free_addresses(2)?,
        None,
    )?;
    cluster.keep_logs();
    let dir = own.path().join("meta");
    let args = ["--dir", dir.to_str().context("utf-8")?];
    cluster.start_with("metaserver-1", &args)?;
    cluster.start("dataserver-1")?;
    cluster.ok(["mkdir", "/d"])?;
    let status = String::from_utf8(cluster.ok(["status"])?.stdout)?;
    ensure!(status.contains("nearly full"), "{status}");
    // About every second one closes its connection before the metaserver has read the end of its stream.
    (0..6).try_for_each(|_| cluster.ok(["ls", "/"]).map(drop))?;
    let log = fs::read_to_string(cluster.folder("metaserver-1").join("log"))?;
    ensure!(log.contains("WARN") && log.contains("nearly full"), "{log}");
    ensure!(!log.contains("a stream"), "a client that leaves: {log}");
    cluster.stop("metaserver-1")?;

    // Before a start, which would set room aside for the log; what is left then goes after it.
    let fill = |left: u64| -> Result<()> {
        let found = rustix::fs::statvfs(own.path())?;
        let free = (found.f_bavail * found.f_frsize).saturating_sub(left);
        let mut other = fs::File::options()
            .create(true)
            .append(true)
            .open(&in_the_way)?;
        Ok(other.write_all(&vec![1; free as usize])?)
    };
    fill(24 << 20)?;
    cluster.start_with("metaserver-1", &args)?;
    fill(1 << 20)?;
    let value = "x".repeat(60_000);
    let ended = || -> Result<Option<String>> {
        let log = fs::read_to_string(cluster.folder("metaserver-1").join("log"))?;
        let mut ends = log.lines().filter(|line| line.contains("can not go on"));
        Ok(ends.next().map(str::to_owned))
    };
    let mut words = None;
    for _ in 0..400 {
        let mut set = cluster.quarry(["xattr", "set", "/d", "user.a", &value]);
        let mut set = set.stderr(Stdio::null()).spawn()?;
        while words.is_none() && set.try_wait()?.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
            words = ended()?;
        }
        if words.is_some() {
            set.kill()?;
            set.wait()?;
            break;
        }
    }
    let words = words.context("1 MiB took 24 MB")?;
    for part in [args[1], "its disk is full", "MiB are free", "start this"] {
        ensure!(words.contains(part), "{part} in {words}");
    }
    ensure!(!words.contains("No space left"), "{words}");
    cluster.kill("metaserver-1")?;
    fs::remove_file(&in_the_way)?;
    cluster.start_with("metaserver-1", &args)?;
    cluster.ok(["mkdir", "/d/e"])?;
    Ok(())
}

#[test]
fn servers_that_can_not_be_right_do_not_start() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let place = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let at = |name: &str| place.path().join(name);
    let mut cluster = Processes::init(&at("ours"), &Processes::free_addresses(3)?, None)?;
    cluster.start_all(2)?;
    let local = at("local");
    let bytes = random_file(&local, 6, 2 << 20)?;
    cluster.ok(["put", local.to_str().context("utf-8")?, "/file"])?;

    // The certificates of another cluster, in time and out of it.
    let mut other = Processes::init(&at("other"), &Processes::free_addresses(3)?, None)?;
    other.start_all(2)?;
    let foreign = {
        let mut file = ClientFile::load(&cluster.client_file())?;
        let theirs = ClientFile::load(&other.client_file())?;
        file.identity = theirs.identity;
        let path = at("foreign.toml");
        file.save(&path)?;
        path
    };
    let client = |file: &Path| {
        let mut command = cluster.quarry(["ls", "/"]);
        command.env("QUARRY_CLUSTER", file);
        command
    };
    fails(client(&foreign), &["cluster"])?;
    let wrong = at("wrong.toml");
    let text = fs::read_to_string(cluster.client_file())?;
    fs::write(
        &wrong,
        text.replacen("BEGIN CERTIFICATE", "BEGIN NONSENSE", 1),
    )?;
    fails(client(&wrong), &["wrong.toml"])?;
    fs::write(&wrong, text.replacen("user =", "uzer =", 1))?;
    fails(client(&wrong), &["wrong.toml", "uzer"])?;
    fails(
        client(&at("none.toml")),
        &["none.toml", "quarry dev", "quarry user add"],
    )?;
    // Others at the address of the metaserver.
    let right = ClientFile::load(&cluster.client_file())?;
    for (id, folder, said) in [
        (2, "metaserver-1", "/metaserver/2 was expected there"),
        (1, "dataserver-1", "wrong role: dataserver"),
    ] {
        let mut file = right.clone();
        file.metaservers[0].id = ServerId(id);
        let config = cluster
            .folder(folder)
            .join(format!("{}.toml", &folder[..10]));
        let config: toml::Table = fs::read_to_string(config)?.parse()?;
        let address = config["advertise"].as_str().context("an address")?;
        file.metaservers[0].address = address.to_owned();
        file.save(&wrong)?;
        let begun = Instant::now();
        fails(client(&wrong), &[said, "use a client file", address])?;
        ensure!(begun.elapsed() < Duration::from_secs(5), "it waited");
    }
    for (when, said) in [("+400d", "expired"), ("-400d", "becomes valid only in")] {
        let mut late = Command::new("faketime");
        late.args(["-f", when])
            .arg(quarry_tests::run::quarry())
            .args(["ls", "/"])
            .env("QUARRY_CLUSTER", cluster.client_file());
        fails(late, &["certificate", said, "clock"])?;
    }
    // An expired certificate is refused by the server also where the client's clock is right.
    fails(
        client(&expired(&at("expired.toml"), &cluster)?),
        &["certificate", "expired", "quarry user renew"],
    )?;

    // Identities of other roles and other clusters.
    cluster.kill("dataserver-2")?;
    let mut run = cluster.command("dataserver-2");
    run.arg("--identity")
        .arg(cluster.folder("metaserver-1").join("identity.pem"));
    fails(run, &["metaserver", "not of a dataserver"])?;
    let mut run = cluster.command("dataserver-2");
    run.arg("--identity")
        .arg(other.folder("dataserver-2").join("identity.pem"));
    fails(run, &["cluster"])?;

    // An identity that another process has, which runs.
    let mut run = cluster.command("dataserver-2");
    run.arg("--identity")
        .arg(cluster.folder("dataserver-1").join("identity.pem"));
    run.arg("--disks").arg(at("fresh"));
    fails(run, &["dataserver 1 runs already", "stop that one"])?;
    ensure!(!at("fresh").exists(), "a disk was made for it");
    let status = String::from_utf8(cluster.ok(["status"])?.stdout)?;
    ensure!(status.contains("dataserver 1 runs already"), "{status}");

    // A state that is away: another one is not begun in its place.
    let state = cluster.folder("metaserver-1").join("state");
    let away = cluster.folder("metaserver-1").join("away");
    cluster.kill("metaserver-1")?;
    fs::rename(&state, &away)?;
    fails(
        cluster.command("metaserver-1"),
        &["holds no metaserver's state", "mount the disk", "begun-1"],
    )?;
    fs::remove_dir_all(&state).ok();
    fs::rename(&away, &state)?;
    cluster.start("metaserver-1")?;

    // Ports and keys.
    fails(
        cluster.command("metaserver-1"),
        &["can not listen on", "another port"],
    )?;
    let config = cluster.folder("dataserver-2").join("dataserver.toml");
    let good = fs::read_to_string(&config)?;
    fs::write(&config, format!("colour = \"red\"\n{good}"))?;
    fails(
        cluster.command("dataserver-2"),
        &["dataserver.toml", "'colour'", "known keys are"],
    )?;
    let mut check = Command::new(quarry_tests::run::quarry());
    check.args(["config", "check"]).arg(&config);
    fails(check, &["dataserver.toml", "'colour'"])?;
    fs::write(&config, &good)?;

    // Disks: running, copied, another cluster's, newer, empty, gone.
    let disk = cluster.folder("dataserver-2").join("disk-1");
    let with_disk = |cluster: &Processes<'_>, disk: &Path| {
        let mut run = cluster.command("dataserver-2");
        run.arg("--disks").arg(disk);
        run
    };
    let first = cluster.folder("dataserver-1").join("disk-1");
    let first_text = first.to_str().context("utf-8")?;
    fails(with_disk(&cluster, &first), &[first_text])?;
    quarry_tests::run::tool(
        "cp",
        [
            OsString::from("-a"),
            first.clone().into(),
            at("copy").into(),
        ],
    )?;
    fails(
        with_disk(&cluster, &at("copy")),
        &["copy", "copied to a second server", "remove"],
    )?;
    other.kill("dataserver-2")?;
    let theirs = other.folder("dataserver-2").join("disk-1");
    fails(
        with_disk(&cluster, &theirs),
        &["cluster", "mount the right disk"],
    )?;
    let identity = disk.join("identity");
    let ours = fs::read(&identity)?;
    let mut newer = ours.clone();
    newer[4] += 1;
    let (covered, crc) = newer.split_at_mut(ours.len() - 4);
    crc.copy_from_slice(&Crc::of(covered).0.to_le_bytes());
    fs::write(&identity, &newer)?;
    fails(
        cluster.command("dataserver-2"),
        &["identity", "newer quarry"],
    )?;
    fs::write(&identity, &ours)?;
    fs::rename(&disk, at("away"))?;
    fails(
        cluster.command("dataserver-2"),
        &["disk-1", "was there", "mount", "--replace-disk"],
    )?;
    fs::remove_dir_all(&disk).ok();
    fs::create_dir(&disk)?;
    fails(
        cluster.command("dataserver-2"),
        &["disk-1", "is empty", "mount", "--replace-disk"],
    )?;
    fs::remove_dir_all(&disk)?;
    fs::rename(at("away"), &disk)?;

    // After all of that both clusters are as they were.
    cluster.start("dataserver-2")?;
    other.start("dataserver-2")?;
    for server in ["dataserver-1", "dataserver-2"] {
        // Each has a copy that is enough.
        cluster.kill(server)?;
        ensure!(
            cluster.ok(["cat", "/file"])?.stdout == bytes,
            "lost without {server}"
        );
        cluster.start(server)?;
    }
    other.ok(["mkdir", "/works"])?;
    Ok(())
}

/// A client file whose certificate has expired long ago.
fn expired(path: &Path, cluster: &Processes<'_>) -> Result<std::path::PathBuf> {
    use quarry_common::identity::{Authority, Identity};
    use std::time::{Duration, SystemTime};
    let pem = fs::read_to_string(cluster.folder("metaserver-1").join("authority.pem"))?;
    let mut file = ClientFile::load(&cluster.client_file())?;
    let name = Identity::from_pem(&file.identity)?.name().clone();
    let hour = Duration::from_secs(3_600);
    let identity = Authority::from_pem(&pem)?.issue(&name, hour, SystemTime::now() - 24 * hour)?;
    file.identity = identity.to_pem().to_owned();
    file.save(path)?;
    Ok(path.to_owned())
}
