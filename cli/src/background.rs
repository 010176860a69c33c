//! A command that goes on in the background: started as a process of its own, which says when it is ready.

use crate::failure::Reported;
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the process says on its standard output when it is ready.
const READY: &str = "ready";

/// Where the system's log takes lines.
const SYSTEM_LOG: &str = "/dev/log";

/// Of a service, worth a notice (RFC 5424: facility 3, severity 5).
const PRIORITY: u32 = 3 * 8 + 5;

/// This program, to be started once more.
///
/// # Errors
/// The system does not tell where it is.
pub fn this_program() -> Result<Command> {
    let program = std::env::current_exe().context("where this program is")?;
    Ok(Command::new(program))
}

/// Starts a process and waits until it says that it is ready. Until then it says on our standard error what is wrong.
///
/// # Errors
/// [`Reported`] if it ended instead.
pub fn start(command: &mut Command) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("a process in the background")?;
    let output = child.stdout.take().context("a pipe was asked for")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line.trim_end() == READY {
        return Ok(());
    }
    match child.wait()? {
        status if status.code().is_some_and(|code| code != 0) => Err(Reported.into()),
        status => bail!("the process in the background ended before it was ready: {status}"),
    }
}

/// Where standard error goes when nobody looks at it any more.
pub struct Log(OwnedFd);

impl Log {
    /// A file, to which lines are added, or the system's log.
    ///
    /// # Errors
    /// The file can not be opened.
    pub fn open(file: Option<&Path>) -> Result<Log> {
        if let Some(path) = file {
            let opened = File::options().create(true).append(true).open(path);
            let opened = opened.with_context(|| format!("{}: the log", path.display()))?;
            return Ok(Log(opened.into()));
        }
        let (lines, log) = std::io::pipe()?;
        std::thread::Builder::new()
            .name("system log".to_owned())
            .spawn(move || forward(lines))?;
        Ok(Log(log.into()))
    }
}

/// Hands lines on to the system's log. Where there is none they are lost.
fn forward(lines: PipeReader) {
    let process = std::process::id();
    let socket = UnixDatagram::unbound();
    // A log that is full, perhaps since it is on the mount itself, is not waited for.
    let socket = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    for line in BufReader::new(lines).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&line);
        let said = format!("<{PRIORITY}>quarry[{process}]: {text}");
        if let Ok(socket) = &socket {
            // Nobody is left who could be told.
            socket.send_to(said.as_bytes(), SYSTEM_LOG).ok();
        }
    }
}

/// Says that this process is ready, and leaves the terminal and the folder of whoever started it.
///
/// # Errors
/// Those of the system.
pub fn detach(log: Log) -> Result<()> {
    rustix::process::setsid().context("the process can not leave its terminal")?;
    std::env::set_current_dir("/")?;
    rustix::stdio::dup2_stderr(&log.0)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    let nothing = File::options().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(&nothing)?)
}
