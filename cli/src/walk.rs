//! Everything below a directory of the cluster.

use crate::context::Context;
use crate::failure::{Interrupted, Reported, report_one};
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
/// [`Reported`] if anything failed.
pub async fn walk(
    context: &Context,
    client: &Client,
    path: &[u8],
    dir: InodeId,
    each: &impl AsyncFn(&[u8], &Attr) -> Result<()>,
) -> Result<()> {
    let mut waiting = vec![(path.to_vec(), dir)];
    let mut failed = false;
    while let Some(dir) = waiting.pop() {
        if let Err(error) =
            one_directory(context, client, &dir, each, &mut waiting, &mut failed).await
        {
            if error.is::<Interrupted>() || error.is::<std::io::Error>() {
                return Err(error);
            }
            report_one(context.command, &error);
            failed = true;
        }
    }
    if failed { Err(Reported.into()) } else { Ok(()) }
}

async fn one_directory(
    context: &Context,
    client: &Client,
    (dir, inode): &(Vec<u8>, InodeId),
    each: &impl AsyncFn(&[u8], &Attr) -> Result<()>,
    waiting: &mut Vec<(Vec<u8>, InodeId)>,
    failed: &mut bool,
) -> Result<()> {
    let mut entries = client.list(*inode, true);
    let listed = |error: quarry_common::Error| error.context(escaped(dir));
    while let Some(entry) = entries.next().await.map_err(listed)? {
        let path = join(dir, &entry.name);
        let attr = match entry.attr {
            Some(attr) => attr,
            None => client.lookup(*inode, &entry.name).await?,
        };
        if let Err(error) = each(&path, &attr).await {
            report_one(context.command, &error);
            *failed = true;
        }
        if attr.kind == FileKind::Directory {
            waiting.push((path, attr.inode));
        }
    }
    Ok(())
}
