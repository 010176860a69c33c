//! What the commands that run servers share: settings, the runtime, the end.

use anyhow::Result;
use quarry_common::config::ConfigFile;
use quarry_common::identity::{Identity, Role};
use quarry_common::{Code, Error};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::signal::unix::{SignalKind, signal};
use toml::Value;

/// Ends when the process is to stop: SIGTERM or Ctrl-C.
pub type Stopped = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a server on a runtime of its own until it has ended.
///
/// # Errors
/// Those of `body`.
pub fn run(body: impl AsyncFnOnce(Stopped) -> Result<()>) -> Result<()> {
    quarry_common::telemetry::init(false);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stopped = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        body(Box::pin(stopped)).await
    })
}

/// Tells whoever started the server that it serves.
///
/// # Errors
/// Those of standard output.
pub fn say_ready(what: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} is ready")?;
    Ok(out.flush()?)
}

/// A path from a flag, else from the file.
///
/// # Errors
/// `Configuration`: the file's value is no text.
pub fn path(file: &mut ConfigFile, key: &str, flag: &Option<PathBuf>) -> Result<Option<PathBuf>> {
    let in_file = file.take_path(key)?;
    Ok(flag.clone().or(in_file))
}

/// A metaserver as a flag names it: `ID=HOST:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_metaserver(text: &str) -> Result<(u32, String), String> {
    let parts = text.split_once('=');
    let parsed = parts.and_then(|(id, address)| Some((id.parse().ok()?, address.to_owned())));
    parsed.ok_or_else(|| format!("'{text}' is no metaserver: 1=host:7410 is"))
}

/// Puts the metaservers of flags, if there are some, over those of the file.
pub fn set_metaservers(file: &mut ConfigFile, metaservers: &[(u32, String)]) {
    let known = metaservers.iter().map(|(id, address)| {
        Value::Array(vec![
            Value::Integer(i64::from(*id)),
            Value::String(address.clone()),
        ])
    });
    let known: Vec<Value> = known.collect();
    file.set("metaservers", (!known.is_empty()).then_some(known));
}

/// A key that must have a value.
///
/// # Errors
/// `Configuration`, naming key and file.
pub fn needed<T>(file: &ConfigFile, key: &str, value: Option<T>) -> Result<T> {
    Ok(value.ok_or_else(|| file.wrong(&format!("the key '{key}' is missing")))?)
}

/// A path as a TOML text.
///
/// # Errors
/// `Configuration`: TOML has no way to write a path that is not UTF-8.
pub fn text(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let text = format!(
                "{}: a server's paths must be UTF-8: choose another",
                path.display()
            );
            Err(Error::new(Code::Configuration, text).into())
        }
    }
}

/// Reads a server's identity; its name and validity are for the server and its peers to judge.
///
/// # Errors
/// The file can not be read or understood.
pub fn load_identity(path: &Path) -> Result<Arc<Identity>> {
    Ok(Arc::new(Identity::load(path)?))
}

/// Reads the identity that a server is to be started with.
///
/// # Errors
/// As [`load_identity`]; nobody would talk to who has it, or it is another role's.
pub fn fit_identity(path: &Path, role: Role) -> Result<Arc<Identity>> {
    let identity = load_identity(path)?;
    let name = identity.name();
    let fits = match name.role == role {
        true => identity.check_valid(SystemTime::now()),
        false => {
            let text = format!(
                "{name} is the identity of a {}, not of a {role}: use the one that 'quarry cluster init' made for it",
                name.role
            );
            Err(Error::new(Code::Configuration, text))
        }
    };
    fits.map_err(|error| error.context(format_args!("the identity {}", path.display())))?;
    Ok(identity)
}
