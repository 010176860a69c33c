//! What every command gets: the global flags, the way to the cluster, the way out.

use crate::failure::Interrupted;
use crate::leaderless::or_leaderless;
use crate::path::escaped;
use anyhow::Result;
use quarry_client::{Client, ClientFile, Options};
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A transfer that has begun waits for the metaservers as long as for the dataservers.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(300);

/// What every command gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// The client file that was named with `--cluster`.
    pub cluster: Option<PathBuf>,
    /// Whether output is for programs.
    pub json: bool,
    /// Whether standard output is a terminal.
    pub terminal: bool,
    /// The word of the command, for messages.
    pub command: &'static str,
}

impl Context {
    /// From the global flags.
    pub fn new(cluster: Option<PathBuf>, json: bool, command: &'static str) -> Context {
        Context {
            cluster,
            json,
            terminal: std::io::stdout().is_terminal(),
            command,
        }
    }

    /// Connects with the client file that is found.
    ///
    /// # Errors
    /// There is none, or the cluster can not be reached; [`Interrupted`].
    pub async fn connect(&self) -> Result<Client> {
        let found = ClientFile::find(self.cluster.as_deref())?;
        interruptible(connect(found, Options::default())).await
    }

    /// Connects, runs `body` until it is done or a signal comes, and ends the session.
    ///
    /// # Errors
    /// Those of `body`; [`Interrupted`] after Ctrl-C or SIGTERM.
    pub async fn with_client<T>(&self, body: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
        let found = ClientFile::find(self.cluster.as_deref())?;
        self.with_client_of(found, Options::default(), body).await
    }

    /// The same for what shows how the cluster is: that nobody can lead it is told after seconds.
    ///
    /// # Errors
    /// As [`Context::with_client`]; [`Leaderless`](crate::leaderless::Leaderless).
    pub async fn ask<T>(&self, body: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
        let found = ClientFile::find(self.cluster.as_deref())?;
        let file = found.1.clone();
        or_leaderless(&file, self.with_client_of(found, Options::default(), body)).await
    }

    /// The same for what may take hours and is not to be lost to an outage of minutes.
    ///
    /// # Errors
    /// As [`Context::with_client`].
    pub async fn with_patient_client<T>(
        &self,
        body: impl AsyncFnOnce(&Client) -> Result<T>,
    ) -> Result<T> {
        let found = ClientFile::find(self.cluster.as_deref())?;
        let options = Options {
            meta_deadline: TRANSFER_PATIENCE,
            ..Options::default()
        };
        self.with_client_of(found, options, body).await
    }

    /// The same with a client file and options at hand.
    ///
    /// # Errors
    /// As [`Context::with_client`].
    pub async fn with_client_of<T>(
        &self,
        found: (PathBuf, ClientFile),
        options: Options,
        body: impl AsyncFnOnce(&Client) -> Result<T>,
    ) -> Result<T> {
        let client = interruptible(connect(found, options)).await?;
        let result = interruptible(body(&client)).await;
        // What the session still held is given up at once; if that fails its lease ends it.
        if let Err(error) = client.close().await {
            tracing::debug!("the session could not be closed: {error}");
        }
        result
    }

    /// A name or a path for standard output: as it is for a pipe, escaped for a terminal.
    pub fn name<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self.terminal {
            true => Cow::Owned(escaped(bytes).into_bytes()),
            false => Cow::Borrowed(bytes),
        }
    }

    /// Writes a JSON value as a line.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print_json(&self, value: &serde_json::Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value).map_err(std::io::Error::from)?;
        writeln!(out)?;
        Ok(out.flush()?)
    }

    /// Writes text.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

/// Connects with a client file, and says what to do about one that will not be good for long.
///
/// # Errors
/// The cluster can not be reached.
pub async fn connect((path, file): (PathBuf, ClientFile), options: Options) -> Result<Client> {
    let client = Client::connect_with(file, options).await?;
    if let Some(words) = client.outdated() {
        tracing::warn!("{}: {words}", path.display());
    }
    Ok(client)
}

/// Runs something until it is done, or a signal to stop comes and it is dropped.
///
/// # Errors
/// Its own; [`Interrupted`].
pub async fn interruptible<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            Err(Interrupted.into())
        }
        _ = terminate.recv() => Err(Interrupted.into()),
    }
}
