//! The commands do what the Unix commands of those names do, and say how it went.

mod copies;
mod paths;
mod standing;
mod users;

use anyhow::{Context, Result, ensure};
use copies::{a_copied_tree_is_as_the_one_it_is_of, links_and_copies};
use paths::{odd_names, slashes};
use quarry_client::{Client, ClientFile, OpenOptions};
use quarry_tests::cluster::Dev;
use quarry_tests::compare::assert_same;
use quarry_tests::generator::{Scale, make};
use quarry_tests::power::LoopDisk;
use standing::standing;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use users::{lost_client_files, what_is_allowed};

/// What a command that succeeds writes.
fn said(dev: &Dev, args: &[&str]) -> Result<String> {
    Ok(String::from_utf8(dev.ok(args)?.stdout)?)
}

/// Runs a command with that on its standard input.
fn with_input(mut command: Command, input: &[u8]) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    stdin.write_all(input)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(output)
}

fn json(dev: &Dev, args: &[&str]) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&said(dev, args)?)?)
}

/// Sends SIGINT, as Ctrl-C does, and returns the exit code and how long the end took.
fn interrupt(child: &mut std::process::Child) -> Result<(Option<i32>, Duration)> {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).context("a process")?;
    let begun = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    Ok((child.wait()?.code(), begun.elapsed()))
}

#[test]
fn commands_do_what_their_namesakes_do() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 8 << 30)?;
    let dev = Dev::start(&disk.path().join("cluster"), 1)?;
    directories_and_lists(&dev)?;
    contents(&dev, scratch.path())?;
    links_and_copies(&dev, scratch.path())?;
    a_copied_tree_is_as_the_one_it_is_of(&dev, scratch.path())?;
    slashes(&dev, scratch.path())?;
    trees(&dev, scratch.path())?;
    what_is_allowed(&dev, scratch.path())?;
    lost_client_files(&dev, scratch.path())?;
    attributes(&dev)?;
    removals(&dev)?;
    odd_names(&dev)?;
    standing(&dev)
}

fn directories_and_lists(dev: &Dev) -> Result<()> {
    dev.ok(["mkdir", "-p", "/l/a/b"])?;
    dev.ok(["mkdir", "-p", "/l/a/b"])?;
    dev.ok(["mkdir", "-m", "700", "/l/c"])?;
    ensure!(dev.refused(["mkdir", "/l/a"])?.contains("/l/a"));
    ensure!(dev.refused(["mkdir", "/"])?.contains("exists"));
    dev.ok(["mkdir", "-p", "/l/a/./b/../b"])?;
    ensure!(dev.refused(["mkdir", "/l/x/y"])?.contains("/l/x"));
    for (name, len) in [("/l/.hidden", 1), ("/l/large", 3_000), ("/l/small", 20)] {
        with_input(dev.quarry(["put", "-", name]), &vec![b'x'; len])?;
    }
    ensure!(said(dev, &["ls", "/l"])? == "a\nc\nlarge\nsmall\n");
    ensure!(said(dev, &["ls", "-a", "/l"])?.starts_with(".hidden\n"));
    ensure!(said(dev, &["ls", "-r", "/l"])? == "small\nlarge\nc\na\n");
    ensure!(said(dev, &["ls", "-S", "/l"])?.starts_with("large\nsmall\n"));
    ensure!(said(dev, &["ls", "-t", "/l"])?.starts_with("small\nlarge\n"));
    ensure!(said(dev, &["ls", "-tr", "/l"])?.ends_with("large\nsmall\n"));
    ensure!(said(dev, &["ls", "-d", "/l"])? == "/l\n");
    let deep = said(dev, &["ls", "-R", "/l/a"])?;
    ensure!(deep == "/l/a:\nb\n\n/l/a/b:\n", "{deep:?}");
    // Files before directories, each in their order; a link that leads to nothing is itself a file.
    dev.ok(["ln", "-s", "nowhere", "/l/c/dangling"])?;
    let operands = ["/l/c", "/l/small", "/l/a", "/l/large", "/l/c/dangling"];
    let sorted = |flag: &'static str| -> Result<String> {
        let args: Vec<&str> = ["ls", flag].into_iter().chain(operands).collect();
        said(dev, &args)
    };
    let dirs = "\n/l/a:\nb\n\n/l/c:\ndangling\n";
    let back = "\n/l/c:\ndangling\n\n/l/a:\nb\n";
    for (flag, expected) in [
        ("-a", format!("/l/c/dangling\n/l/large\n/l/small\n{dirs}")),
        ("-r", format!("/l/small\n/l/large\n/l/c/dangling\n{back}")),
        ("-S", format!("/l/large\n/l/small\n/l/c/dangling\n{dirs}")),
        ("-t", format!("/l/c/dangling\n/l/small\n/l/large\n{back}")),
        (
            "-d",
            "/l/a\n/l/c\n/l/c/dangling\n/l/large\n/l/small\n".to_owned(),
        ),
    ] {
        ensure!(sorted(flag)? == expected, "{flag}: {}", sorted(flag)?);
    }
    ensure!(said(dev, &["ls", "/l/c/dangling"])? == "/l/c/dangling\n");
    let mut some = dev.quarry(["ls", "/l/none", "/l/small"]);
    let output = some.output()?;
    ensure!(output.status.code() == Some(1) && output.stdout == b"/l/small\n");
    dev.ok(["rm", "/l/c/dangling"])?;
    let long = said(dev, &["ls", "-l", "/l"])?;
    let line = |name: &str| long.lines().find(|line| line.ends_with(name));
    let large = line(" large").context("a line")?;
    ensure!(
        large.starts_with("-rw-r--r-- 1 0 0 3000 "),
        "umask 022 is expected here: {large}"
    );
    ensure!(line(" c").context("a line")?.starts_with("drwx------ "));
    ensure!(said(dev, &["ls", "-lh", "/l/large"])?.contains(" 2.9K "));
    ensure!(said(dev, &["ls", "/l/large"])? == "/l/large\n");
    let listed = json(dev, &["ls", "--json", "/l"])?;
    ensure!(listed[2]["path"] == "/l/large" && listed[2]["size"] == 3_000);
    ensure!(listed[0]["kind"] == "directory", "{listed}");
    Ok(())
}

fn contents(dev: &Dev, scratch: &Path) -> Result<()> {
    with_input(dev.quarry(["put", "-", "/file"]), b"one\n")?;
    with_input(dev.quarry(["append", "/file"]), b"two\n")?;
    ensure!(said(dev, &["cat", "/file", "/file"])? == "one\ntwo\none\ntwo\n");
    ensure!(said(dev, &["get", "/file", "-"])? == "one\ntwo\n");
    dev.ok(["truncate", "-s", "3", "/file"])?;
    ensure!(said(dev, &["cat", "/file"])? == "one");
    dev.ok(["truncate", "-s", "5", "/file"])?;
    ensure!(said(dev, &["cat", "/file"])? == "one\0\0");
    let stat = json(dev, &["stat", "--json", "/file"])?;
    ensure!(stat[0]["size"] == 5 && stat[0]["links"] == 1, "{stat}");
    let refused = dev.refused(["append", "/file", "/"])?;
    ensure!(!refused.contains("standard input"), "{refused}");
    dev.refused(["append", "/never", "/"])?;
    ensure!(dev.refused(["stat", "/never"])?.contains("/never"));
    let mut full = dev.quarry(["cat", "/file"]);
    let output = full.stdout(fs::File::create("/dev/full")?).output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    // There is room for one piece of three.
    with_input(dev.quarry(["put", "-", "/long"]), b"")?;
    let len = i64::MAX as u64 - (20 << 20);
    dev.ok(["truncate", "-s", &len.to_string(), "/long"])?;
    let longer = scratch.join("longer");
    fs::write(&longer, vec![b'x'; 40 << 20])?;
    let refused = dev.refused([
        OsStr::new("append"),
        OsStr::new("/long"),
        longer.as_os_str(),
    ])?;
    ensure!(
        refused.contains("after 16777216 bytes were appended"),
        "{refused}"
    );
    dev.ok(["rm", "/long"])?;
    an_interrupted_append_tells_what_stays(dev)?;
    let refused = dev.refused(["put", "/", "/tree"])?;
    ensure!(refused.contains("use -r"), "{refused}");
    ensure!(
        dev.refused(["put", "-n", "/etc/passwd", "/file"])?
            .contains("/file")
    );
    let mut put = dev.quarry(["put", "--json", "-n", "-", "/file"]);
    let output = put.stdin(Stdio::null()).output()?;
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(figures["files"] == 0 && figures["failed"] == 1, "{figures}");
    ensure!(said(dev, &["cat", "/file"])? == "one\0\0");
    Ok(())
}

/// A reader that goes away is no failure.
fn head(dev: &Dev, path: &str) -> Result<()> {
    let mut command = dev.quarry(["cat", path, path]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success() && said.is_empty(), "{said}");
    Ok(())
}

/// Each record is an extent of its own.
async fn log(client_file: ClientFile, records: u32) -> Result<()> {
    let client = Client::connect(client_file).await?;
    let options = OpenOptions {
        append: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await?;
    for number in 0..records {
        file.append(format!("{number:09}\n").into()).await?;
    }
    file.close().await?;
    Ok(client.close().await?)
}

fn an_interrupted_append_tells_what_stays(dev: &Dev) -> Result<()> {
    with_input(dev.quarry(["put", "-", "/pieces"]), b"")?;
    let mut append = dev.quarry(["append", "/pieces"]);
    let append = append.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut append = append.spawn()?;
    let mut input = append.stdin.take().context("a pipe was asked for")?;
    input.write_all(&vec![b'x'; 16 << 20])?;
    let until = Instant::now() + Duration::from_secs(60);
    while json(dev, &["stat", "--json", "/pieces"])?[0]["size"] != 16 << 20 {
        ensure!(Instant::now() < until, "a whole piece is not appended");
    }
    // The cluster has it before the command hears of that.
    std::thread::sleep(Duration::from_secs(2));
    let (code, _) = interrupt(&mut append)?;
    drop(input);
    let told = std::io::read_to_string(append.stderr.context("a pipe was asked for")?)?;
    let what = "after 16777216 bytes were appended, which stay: interrupted";
    ensure!(code == Some(130) && told.contains(what), "{code:?}: {told}");
    dev.ok(["rm", "/pieces"])?;
    Ok(())
}

fn trees(dev: &Dev, scratch: &Path) -> Result<()> {
    let (from, to) = (scratch.join("from"), scratch.join("to"));
    fs::create_dir_all(from.join("contents"))?;
    fs::create_dir(&to)?;
    for name in ["one", "two", "three"] {
        fs::write(from.join("contents").join(name), name)?;
    }
    fs::set_permissions(&from, fs::Permissions::from_mode(0o700))?;
    let inside = from.join(".");
    let (inside, to_text) = (
        inside.to_str().context("utf-8")?,
        to.to_str().context("utf-8")?,
    );
    let before = json(dev, &["stat", "--json", "/"])?;
    dev.ok(["put", "-r", inside, "/"])?;
    ensure!(said(dev, &["cat", "/contents/two"])? == "two");
    let after = json(dev, &["stat", "--json", "/"])?;
    ensure!(
        before[0]["mode"] == after[0]["mode"],
        "the root was closed: {after}"
    );
    // Each failure has its line, and only what was copied is counted.
    fs::create_dir_all(to.join("contents"))?;
    symlink("elsewhere", to.join("contents/two"))?;
    let output = dev
        .quarry(["get", "-r", "--json", "/contents", to_text])
        .output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(figures["files"] == 2 && figures["failed"] == 1, "{figures}");
    let told = String::from_utf8(output.stderr)?;
    ensure!(
        told.contains("two: is a symbolic link") && told.lines().count() == 1,
        "{told}"
    );
    // A file by itself goes where a link leads.
    let two = to.join("contents/two");
    dev.ok(["get", "/contents/two", two.to_str().context("utf-8")?])?;
    ensure!(two.is_symlink() && fs::read_to_string(to.join("contents/elsewhere"))? == "two");
    dev.ok(["rm", "-r", "/contents"])?;
    Ok(())
}

fn attributes(dev: &Dev) -> Result<()> {
    let mode =
        |dev: &Dev| Ok::<_, anyhow::Error>(json(dev, &["stat", "--json", "/file"])?[0].clone());
    dev.ok(["chmod", "600", "/file"])?;
    dev.ok(["chmod", "u+x,g+r", "/file"])?;
    ensure!(mode(dev)?["mode"] == "0740");
    dev.ok(["mkdir", "/group"])?;
    for (change, expected) in [("g+s", "2755"), ("750", "2750"), ("00750", "0750")] {
        dev.ok(["chmod", change, "/group"])?;
        let group = json(dev, &["stat", "--json", "/group"])?;
        ensure!(group[0]["mode"] == expected, "{change}: {group}");
    }
    dev.ok(["chown", "1000:100", "/file"])?;
    ensure!(mode(dev)?["uid"] == 1000 && mode(dev)?["gid"] == 100);
    dev.ok(["xattr", "set", "/file", "user.colour", "blue"])?;
    ensure!(said(dev, &["xattr", "get", "/file", "user.colour"])? == "blue");
    ensure!(said(dev, &["xattr", "list", "/file"])? == "user.colour\n");
    dev.refused(["xattr", "set", "--create", "/file", "user.colour", "red"])?;
    dev.ok(["xattr", "remove", "/file", "user.colour"])?;
    let refused = dev.refused(["xattr", "get", "/file", "user.colour"])?;
    ensure!(
        refused.contains("/file") && refused.contains("user.colour"),
        "{refused}"
    );
    Ok(())
}

fn removals(dev: &Dev) -> Result<()> {
    ensure!(dev.refused(["rm", "/none"])?.contains("/none"));
    dev.ok(["rm", "-f", "/none"])?;
    ensure!(dev.refused(["rm", "/c"])?.contains("use -r"));
    ensure!(dev.refused(["rmdir", "/c"])?.contains("not empty"));
    ensure!(dev.refused(["rm", "-rf", "/"])?.contains("refusing"));
    dev.ok(["rm", "-rf", "/c", "/none"])?;
    dev.ok(["mkdir", "/empty"])?;
    dev.ok(["rmdir", "/empty"])?;
    ensure!(!said(dev, &["ls", "/"])?.contains("empty"));
    Ok(())
}

#[test]
fn a_bar_is_drawn_on_a_terminal_and_nothing_half_stays_of_what_is_interrupted() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 8 << 30)?;
    let dev = Dev::start(&disk.path().join("cluster"), 1)?;
    let local = disk.path().join("local");
    let file = fs::File::create(&local)?;
    let mut random = vec![0; 8 << 20];
    rand::Rng::fill(&mut rand::rng(), random.as_mut_slice());
    (0..32).try_for_each(|_| (&file).write_all(&random))?;
    let local = local.to_str().context("utf-8")?;

    let quiet = dev.ok(["put", local, "/piped"])?;
    ensure!(
        quiet.stdout.is_empty() && quiet.stderr.is_empty(),
        "{quiet:?}"
    );
    let quarry = quarry_tests::run::quarry();
    let line = format!("'{}' put '{local}' /shown", quarry.display());
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &line, "/dev/null"])
        .env("QUARRY_CLUSTER", dev.client_file())
        .stdin(Stdio::null());
    let shown = quarry_tests::run::ok(&mut terminal)?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in [
        "put [",
        "256.00 MiB",
        "0/1 files",
        "/s",
        "left",
        "stored 1 file, 256M",
    ] {
        ensure!(shown.contains(part), "'{part}' is missing: {shown:?}");
    }

    // Standard input goes on for ever: something of it is on its way for certain.
    let mut put = dev.quarry(["put", "-", "/half"]);
    let mut put = put.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = put.stdin.take().context("a pipe was asked for")?;
    (0..12).try_for_each(|_| input.write_all(&random))?;
    let (code, took) = interrupt(&mut put)?;
    ensure!(code == Some(130), "{code:?}");
    ensure!(took < Duration::from_secs(5), "{took:?}");
    drop(input);
    let mut told = String::new();
    let mut errors = put.stderr.take().context("a pipe was asked for")?;
    errors.read_to_string(&mut told)?;
    ensure!(
        told.contains("stored 0 files, ") && told.contains("; nothing half-done is visible"),
        "{told}"
    );
    ensure!(said(&dev, &["ls", "/"])? == "home\npiped\nshown\n");

    let back = scratch.path().join("back");
    fs::create_dir(&back)?;
    let mut get = dev.quarry([
        OsStr::new("get"),
        OsStr::new("/piped"),
        OsStr::new("/shown"),
        back.as_os_str(),
    ]);
    let mut get = get.stderr(Stdio::null()).spawn()?;
    let begun = Instant::now();
    while fs::read_dir(&back)?.next().is_none() && get.try_wait()?.is_none() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "nothing arrives");
    }
    let (code, took) = interrupt(&mut get)?;
    ensure!(took < Duration::from_secs(5), "{took:?}");
    for entry in fs::read_dir(&back)? {
        let entry = entry?;
        // What is there under its name is whole; it may have been done by then.
        let whole = entry.metadata()?.size() == 32 * (8 << 20);
        ensure!(whole, "{:?} is left, {code:?}", entry.path());
    }
    Ok(())
}

#[test]
fn a_cluster_that_is_not_there_is_told_within_seconds_and_ctrl_c_ends_the_waiting() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let mut dev = Dev::start(&disk.path().join("cluster"), 1)?;
    let address = ClientFile::load(&dev.client_file())?.metaservers[0]
        .address
        .clone();
    dev.kill()?;

    let mut waiting = dev
        .quarry(["ls", "/"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(waiting.try_wait()?.is_none(), "it gave up at once");
    let (code, took) = interrupt(&mut waiting)?;
    let mut told = String::new();
    let mut errors = waiting.stderr.take().context("a pipe was asked for")?;
    errors.read_to_string(&mut told)?;
    ensure!(told.ends_with("quarry: ls: interrupted\n"), "{told}");
    ensure!(
        code == Some(130) && took < Duration::from_secs(1),
        "{code:?} after {took:?}"
    );

    let begun = Instant::now();
    let refused = dev.refused(["ls", "/"])?;
    let took = begun.elapsed();
    for part in [
        "no metaserver answers yet",
        &address,
        "nothing listens there",
        "quarry dev --detach",
    ] {
        ensure!(refused.contains(part), "'{part}' is missing: {refused}");
    }
    let bounds = Duration::from_secs(10)..Duration::from_secs(30);
    ensure!(bounds.contains(&took), "{took:?}: {refused}");

    // Who waits finds a cluster that comes back.
    let mut waiting = dev
        .quarry(["ls", "/"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    dev.start_again()?;
    ensure!(waiting.wait()?.success());
    Ok(())
}
