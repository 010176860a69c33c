//! Everything below a directory of the cluster.

use crate::context::Context;
use crate::failure::Failures;
use crate::path::join;
use anyhow::Result;
use quarry_client::Client;
use quarry_common::wire::meta::{Attr, FileKind};

/// Calls `each` with the path and the attributes of everything below `dir`, a directory before what
/// is in it. What fails is reported, and the rest goes on.
///
/// # Errors
/// [`crate::failure::Reported`] if anything failed.
pub async fn walk(
    context: &Context,
    client: &Client,
    dir: &[u8],
    each: &impl AsyncFn(&[u8], &Attr) -> Result<()>,
) -> Result<()> {
    let mut waiting = vec![dir.to_vec()];
    let mut failures = Failures::new(context);
    while let Some(dir) = waiting.pop() {
        let walked = one_directory(client, &dir, each, &mut waiting, &mut failures);
        if let Err(error) = walked.await {
            failures.report(&error);
        }
    }
    failures.end()
}

async fn one_directory(
    client: &Client,
    dir: &[u8],
    each: &impl AsyncFn(&[u8], &Attr) -> Result<()>,
    waiting: &mut Vec<Vec<u8>>,
    failures: &mut Failures<'_>,
) -> Result<()> {
    let mut entries = client.open_dir(dir, true).await?;
    while let Some(entry) = entries.next().await? {
        let path = join(dir, &entry.name);
        let attr = match entry.attr {
            Some(attr) => attr,
            None => match client.lstat(&path).await {
                Ok(attr) => attr,
                Err(error) => {
                    failures.report(&error.into());
                    continue;
                }
            },
        };
        if let Err(error) = each(&path, &attr).await {
            failures.report(&error);
        }
        if attr.kind == FileKind::Directory {
            waiting.push(path);
        }
    }
    Ok(())
}
