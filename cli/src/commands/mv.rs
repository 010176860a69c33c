//! `quarry mv`.

use super::for_each;
use crate::context::Context;
use crate::failure::Misuse;
use crate::path::Remote;
use crate::target::Target;
use anyhow::{Result, bail};
use quarry_client::Client;
use quarry_common::wire::meta::{Expectation, FileKind, Op, RenameMode, Resolved};
use std::ffi::OsString;

/// Rename files and directories, or move them into a directory
#[derive(Debug, clap::Args)]
#[command(override_usage = "quarry mv [OPTIONS] <FROM>... <TO>")]
pub struct Mv {
    /// Fail if the new name is taken
    #[arg(short, long, conflicts_with = "exchange")]
    no_clobber: bool,
    /// Let the two names change places, in one step
    #[arg(long)]
    exchange: bool,
    /// TO itself is the new name, even if it is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// What is to be moved, then where it goes
    #[arg(required = true, num_args = 2.., value_names = ["FROM", "TO"])]
    paths: Vec<OsString>,
}

impl Mv {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        let Some((to, from)) = paths.split_last() else {
            return Err(Misuse::new("name what is to be moved, and where it goes").into());
        };
        let exact = self.exchange || self.no_target_directory;
        if exact && from.len() > 1 {
            return Err(Misuse::new("with -T or --exchange only one thing can be moved").into());
        }
        let mode = match (self.exchange, self.no_clobber) {
            (true, _) => RenameMode::Exchange,
            (false, true) => RenameMode::NoReplace,
            (false, false) => RenameMode::Replace,
        };
        context
            .with_client(async |client| {
                let target = match exact {
                    true => Target::As(to.clone()),
                    false => match from {
                        [one] => Target::find_for_one(client, to, one).await?,
                        _ => Target::find(client, to, true).await?,
                    },
                };
                for_each(context, from, async |path| {
                    let name = path.name().ok_or_else(|| {
                        Misuse::new(format!(
                            "{}: can not be moved: name it by its own name",
                            path.shown()
                        ))
                    })?;
                    let new = target.path_of(name);
                    if mode != RenameMode::Exchange
                        && new.wants_directory()
                        && client.lstat(path.bytes()).await?.kind != FileKind::Directory
                    {
                        bail!("{}: is not a directory", path.shown());
                    }
                    if mode == RenameMode::Replace
                        && let Some(op) = removal_of_one(client, path, &new).await?
                    {
                        let removed = client.mutate(op).await;
                        return Ok(removed
                            .map(drop)
                            .map_err(|error| error.context(path.shown()))?);
                    }
                    Ok(client.rename(path.bytes(), new.bytes(), mode).await?)
                })
                .await
            })
            .await
    }
}

/// What moves one name of a file onto another one: a rename does nothing then, as POSIX has it, and `mv` removes the
/// first. `None` if they are not names of one file.
async fn removal_of_one(client: &Client, one: &Remote, other: &Remote) -> Result<Option<Op>> {
    let there = match client.resolve(other.bytes(), false).await {
        Ok(there) => there,
        // The rename says what is wrong, if anything is.
        Err(_) => return Ok(None),
    };
    let here = client.resolve(one.bytes(), false).await?;
    let inode = |found: &Resolved| found.attr.as_ref().map(|attr| attr.inode);
    if inode(&here) != inode(&there) {
        return Ok(None);
    }
    if (here.parent.inode, &here.name) == (there.parent.inode, &there.name) {
        bail!("{} and {} are the same file", one.shown(), other.shown());
    }
    let unlink = Op::Unlink {
        parent: here.parent.inode,
        name: here.name.clone(),
    };
    // Only while the other name is there as well: the file must not go with its last one.
    let expected = |found: Resolved| Expectation::Dentry {
        inode: inode(&found),
        parent: found.parent.inode,
        name: found.name,
    };
    Ok(Some(Op::List {
        expectations: vec![expected(here), expected(there)],
        ops: vec![unlink],
    }))
}
