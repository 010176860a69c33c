//! Where a copy, a move or an upload goes: onto a name, or into a directory, as `cp` decides it.

use crate::failure::Misuse;
use crate::path::Remote;
use anyhow::{Result, bail};
use quarry_client::Client;
use quarry_common::Code;
use quarry_common::wire::meta::{Attr, FileKind};

/// Where things go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into this directory, each under its own name.
    Into(Remote),
    /// To exactly this name.
    As(Remote),
}

impl Target {
    /// Decides by what is there: an existing directory takes things in.
    ///
    /// # Errors
    /// Several things can go only into a directory; a path that ends in `/` must be one.
    pub async fn find(client: &Client, to: &Remote, several: bool) -> Result<Target> {
        match stat_if_there(client, to).await? {
            Some(attr) if attr.kind == FileKind::Directory => Ok(Target::Into(to.clone())),
            Some(_) if several => Err(Misuse::new(format!(
                "{}: several things can only go into a directory",
                to.shown()
            ))
            .into()),
            None if several || to.wants_directory() => {
                bail!(
                    "{0}: there is no such directory; make it with 'quarry mkdir -p {0}'",
                    to.shown()
                )
            }
            _ => Ok(Target::As(to.clone())),
        }
    }

    /// As [`Target::find`], but a directory may go to a name with a slash that is not there.
    ///
    /// # Errors
    /// As [`Target::find`]; there is nothing at `from`.
    pub async fn find_for_one(client: &Client, to: &Remote, from: &Remote) -> Result<Target> {
        if to.wants_directory() {
            let is_directory = client.lstat(from.bytes()).await?.kind == FileKind::Directory;
            if is_directory && stat_if_there(client, to).await?.is_none() {
                return Ok(Target::As(to.clone()));
            }
        }
        Target::find(client, to, false).await
    }

    /// The path for something that is called `name`.
    pub fn path_of(&self, name: &[u8]) -> Remote {
        match self {
            Target::Into(dir) => dir.join(name),
            Target::As(path) => path.clone(),
        }
    }
}

/// What is at a path, links followed; `None` if there is nothing.
///
/// # Errors
/// Anything but `NotFound`.
pub async fn stat_if_there(client: &Client, path: &Remote) -> Result<Option<Attr>> {
    match client.stat(path.bytes()).await {
        Ok(attr) => Ok(Some(attr)),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is at a path, the link itself if it is one; `None` if there is nothing.
///
/// # Errors
/// Anything but `NotFound`.
pub async fn lstat_if_there(client: &Client, path: &Remote) -> Result<Option<Attr>> {
    match client.lstat(path.bytes()).await {
        Ok(attr) => Ok(Some(attr)),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
