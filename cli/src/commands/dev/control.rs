//! The control socket of a cluster whose servers are processes of their own: their parent owns them, and it
//! alone signals them, so that no number of a process is ever used that could have come to mean another one.
//!
//! A connection carries one request and its reply, each a line of JSON.

use super::home::Home;
use super::servers::{Action, Seen};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// The longest request, in bytes.
const REQUEST_LEN_MAX: u64 = 4096;

/// Both sides give up after that: the parent answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests that wait for the parent; more wait in the socket.
const CALLS_MAX: usize = 16;

/// What the parent is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// How all servers are.
    Status,
    /// To begin to do something to a server.
    Act {
        /// What.
        action: Action,
        /// The server's name.
        server: String,
        /// The data directories that a dataserver's start makes new disks of.
        replaced: Vec<PathBuf>,
    },
}

/// What the parent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// How all servers are.
    Servers(Vec<Seen>),
    /// It is not done, for this reason.
    Refused(String),
}

/// A request that waits for its reply.
pub struct Call {
    /// The request.
    pub request: Request,
    reply: oneshot::Sender<Reply>,
}

impl Call {
    /// Sends the reply.
    pub fn answer(self, reply: Reply) {
        // Whoever asked may have gone.
        self.reply.send(reply).ok();
    }
}

/// The socket's path and what it is valid with: by way of the open directory, since a socket's path has
/// 107 bytes and a directory's may have more.
fn socket(home: &Home) -> Result<(PathBuf, File)> {
    let dir = File::open(home.dir())
        .with_context(|| format!("{}: can not be opened", home.dir().display()))?;
    let path = format!("/proc/self/fd/{}/control", dir.as_raw_fd());
    Ok((path.into(), dir))
}

/// Listens for requests; whoever calls holds the directory's lock. Needs a tokio runtime.
///
/// # Errors
/// The socket can not be made.
pub fn listen(home: &Home) -> Result<mpsc::Receiver<Call>> {
    let (path, _dir) = socket(home)?;
    let failed = || format!("{}: can not be made", home.control().display());
    // Of a process that was killed.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(failed)?;
    let (send, calls) = mpsc::channel(CALLS_MAX);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let served = serve(stream, send.clone());
                    tokio::spawn(tokio::time::timeout(PATIENCE, served));
                }
                Err(error) => {
                    tracing::warn!("the control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(calls)
}

/// One request. One that is cut off, not understood or not allowed has no answer.
async fn serve(mut stream: tokio::net::UnixStream, calls: mpsc::Sender<Call>) -> Option<()> {
    let asking = stream.peer_cred().ok()?.uid();
    if asking != 0 && asking != rustix::process::geteuid().as_raw() {
        return None;
    }
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REQUEST_LEN_MAX));
    read.read_line(&mut line).await.ok()?;
    let request = serde_json::from_str(&line).ok()?;
    let (reply, replied) = oneshot::channel();
    calls.send(Call { request, reply }).await.ok()?;
    let mut text = serde_json::to_vec(&replied.await.ok()?).ok()?;
    text.push(b'\n');
    write.write_all(&text).await.ok()
}

/// Asks the parent; `None` if nobody listens: the servers are no processes of their own.
///
/// # Errors
/// The parent does not answer.
pub fn ask(home: &Home, request: &Request) -> Result<Option<Reply>> {
    let (path, _dir) = socket(home)?;
    let mut stream = match UnixStream::connect(path) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        connected => connected.with_context(|| format!("{}", home.control().display()))?,
    };
    let mut exchange = || -> std::io::Result<Reply> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(serde_json::from_str(&reply)?)
    };
    let reply = exchange().with_context(|| {
        format!(
            "{}: the process that runs the cluster does not answer (is it just stopping?)",
            home.control().display()
        )
    })?;
    Ok(Some(reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_request_is_answered_also_in_a_directory_with_a_long_path() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("d".repeat(200)));
        home.make().unwrap();
        let asking = home.clone();
        let ask = move || super::ask(&asking, &Request::Status);
        assert_eq!(ask().unwrap(), None);
        // What a killed process leaves behind is in nobody's way.
        let (path, dir) = socket(&home).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(dir);
        assert!(home.control().exists());
        assert_eq!(ask().unwrap(), None);
        let mut calls = listen(&home).unwrap();
        let asked = tokio::task::spawn_blocking(ask);
        let call = calls.recv().await.unwrap();
        assert_eq!(call.request, Request::Status);
        call.answer(Reply::Refused("no".into()));
        let reply = asked.await.unwrap().unwrap();
        assert_eq!(reply, Some(Reply::Refused("no".into())));
    }
}
