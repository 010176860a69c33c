//! `quarry truncate`.

use super::for_each;
use crate::context::Context;
use crate::path::Remote;
use crate::size::{parse_size, umask};
use crate::target::stat_if_there;
use anyhow::{Result, bail};
use quarry_common::wire::meta::{FileKind, SetAttr};
use std::ffi::OsString;

/// Cut files, or extend them with zeros that take no space
#[derive(Debug, clap::Args)]
pub struct Truncate {
    /// The new size: 0, 4096, 64K, 1G; +SIZE adds, -SIZE takes away
    #[arg(short, long, value_name = "SIZE", value_parser = parse_change, allow_hyphen_values = true)]
    size: Change,
    /// Do not make files that are not there
    #[arg(short = 'c', long)]
    no_create: bool,
    /// Files of the cluster
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    To(u64),
    Add(u64),
    Take(u64),
}

fn parse_change(text: &str) -> Result<Change, String> {
    match text.as_bytes().first() {
        Some(b'+') => parse_size(&text[1..]).map(Change::Add),
        Some(b'-') => parse_size(&text[1..]).map(Change::Take),
        _ => parse_size(text).map(Change::To),
    }
}

impl Change {
    fn of(self, size: u64) -> Option<u64> {
        match self {
            Change::To(size) => Some(size),
            Change::Add(more) => size.checked_add(more),
            Change::Take(less) => Some(size.saturating_sub(less)),
        }
    }
}

impl Truncate {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        context
            .with_client(async |client| {
                for_each(context, &paths, async |path| {
                    let attr = match stat_if_there(client, path).await? {
                        Some(attr) if attr.kind != FileKind::File => {
                            bail!("{}: is not a regular file", path.shown())
                        }
                        Some(attr) => attr,
                        None if self.no_create => return Ok(()),
                        None => client.create(path.bytes(), 0o666 & !umask(), false).await?,
                    };
                    let Some(size) = self.size.of(attr.size) else {
                        bail!("{}: would be longer than 2^64 bytes", path.shown());
                    };
                    let set = SetAttr {
                        size: Some(size),
                        ..SetAttr::default()
                    };
                    client.set_attr(path.bytes(), true, set).await?;
                    Ok(())
                })
                .await
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_relative() {
        assert_eq!(parse_change("1K").unwrap().of(7), Some(1024));
        assert_eq!(parse_change("+1K").unwrap().of(7), Some(1031));
        assert_eq!(parse_change("-1K").unwrap().of(7), Some(0));
        assert_eq!(parse_change("+1").unwrap().of(u64::MAX), None);
        assert!(parse_change("+-1").is_err());
    }
}
