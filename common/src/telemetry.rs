//! Logs, to stderr.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The environment variable that says what is logged, as in `info,quarry_common::net=debug`.
pub const LOG_VARIABLE: &str = "QUARRY_LOG";

/// Starts logging, once for a process: `info` and above unless `QUARRY_LOG` says otherwise. With
/// `json` a line is an object; else it is for people, with colours on a terminal only. Later calls
/// change nothing.
pub fn init(json: bool) {
    init_from(json, LevelFilter::INFO);
}

/// The same, with `usual` and above unless `QUARRY_LOG` says otherwise: a command that a person types
/// says less than a server.
pub fn init_from(json: bool, usual: LevelFilter) {
    // openraft tells what only its developers read: while a member is away, an error at each barrier. What ends a
    // metaserver, it says itself.
    let quiet = format!("{usual},openraft=off");
    let named = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let asked = match named.is_empty() {
        true => Ok(EnvFilter::new(&quiet)),
        false => EnvFilter::builder()
            .with_default_directive(usual.into())
            .parse(&named),
    };
    let (filter, problem) = match asked {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(&quiet), Some(error)),
    };
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(!json && std::io::stderr().is_terminal());
    let started = match json {
        true => logger.json().try_init(),
        false => logger.try_init(),
    };
    if started.is_err() {
        return;
    }
    if let Some(error) = problem {
        tracing::warn!("{LOG_VARIABLE} is not understood ({error}): logging {usual} and above");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn starting_twice_is_harmless() {
        super::init(false);
        super::init(true);
    }
}
