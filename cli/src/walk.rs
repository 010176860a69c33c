//! Everything below a directory of the cluster.

use crate::context::Context;
use crate::failure::Failures;
use crate::path::{escaped, join};
use anyhow::Result;
use quarry_client::Client;
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Attr, FileKind};

/// Calls `each` with the path and the attributes of everything below `dir`, whose path is `path`, a
/// directory before what is in it. Paths are for people: a directory is listed by its inode, whatever has
/// its name by then. What fails is reported, and the rest goes on.
///
/// # Errors
/// [`crate::failure::Reported`] if anything failed.
pub async fn walk(
    context: &Context,
    client: &Client,
    path: &[u8],
    dir: InodeId,
    each: &impl AsyncFn(&[u8], &Attr) -> Result<()>,
) -> Result<()> {
    let mut waiting = vec![(path.to_vec(), dir)];
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
    (dir, inode): &(Vec<u8>, InodeId),
    each: &impl AsyncFn(&[u8], &Attr) -> Result<()>,
    waiting: &mut Vec<(Vec<u8>, InodeId)>,
    failures: &mut Failures<'_>,
) -> Result<()> {
    let mut entries = client.list(*inode, true);
    let listed = |error: quarry_common::Error| error.context(escaped(dir));
    while let Some(entry) = entries.next().await.map_err(listed)? {
        let path = join(dir, &entry.name);
        let attr = match entry.attr {
            Some(attr) => attr,
            None => match client.lookup(*inode, &entry.name).await {
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
            waiting.push((path, attr.inode));
        }
    }
    Ok(())
}
