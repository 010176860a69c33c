//! `quarry chmod`.

use super::for_each;
use crate::context::Context;
use crate::mode::{ModeChange, parse_mode};
use crate::path::{Remote, escaped};
use crate::size::umask;
use crate::walk::walk;
use anyhow::Result;
use quarry_common::wire::meta::{Attr, FileKind, SetAttr};
use std::ffi::OsString;

/// Change permissions: octal (644) or symbolic (u+x,go-w)
#[derive(Debug, clap::Args)]
pub struct Chmod {
    /// Directories with all that is in them
    #[arg(short = 'R', long)]
    recursive: bool,
    /// 644, u+x, go-w,a+r
    #[arg(value_parser = parse_mode, allow_hyphen_values = true)]
    mode: ModeChange,
    /// Files of the cluster
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<OsString>,
}

impl Chmod {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        let mask = umask();
        context
            .with_client(async |client| {
                let change = async |path: &[u8], attr: &Attr| {
                    // A link has no permissions of its own.
                    if attr.kind == FileKind::Symlink {
                        return Ok(());
                    }
                    let is_directory = attr.kind == FileKind::Directory;
                    let set = SetAttr {
                        mode: Some(self.mode.apply(attr.mode, is_directory, mask)),
                        ..SetAttr::default()
                    };
                    let done = client.set_attr_inode(attr.inode, set).await;
                    done.map(drop)
                        .map_err(|error| error.context(escaped(path)).into())
                };
                for_each(context, &paths, async |path| {
                    let attr = client.stat(path.bytes()).await?;
                    change(path.bytes(), &attr).await?;
                    match self.recursive && attr.kind == FileKind::Directory {
                        true => walk(context, client, path.bytes(), attr.inode, &change).await,
                        false => Ok(()),
                    }
                })
                .await
            })
            .await
    }
}
