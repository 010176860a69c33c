//! The commands, one file each. The doc comment of a command's arguments is its help.

pub mod append;
pub mod bench;
pub mod cat;
pub mod chmod;
pub mod chown;
#[cfg(feature = "servers")]
pub mod cluster;
#[cfg(feature = "servers")]
pub mod config;
pub mod cp;
#[cfg(feature = "servers")]
pub mod dataserver;
#[cfg(feature = "servers")]
pub mod dev;
pub mod disk;
pub mod get;
pub mod ln;
pub mod locate;
pub mod ls;
#[cfg(feature = "servers")]
pub mod metaserver;
pub mod mkdir;
#[cfg(feature = "mount")]
pub mod mount;
pub mod mv;
pub mod pg;
pub mod put;
pub mod rm;
pub mod rmdir;
pub mod stat;
pub mod status;
pub mod truncate;
#[cfg(feature = "mount")]
pub mod umount;
pub mod user;
pub mod xattr;

use crate::context::Context;
use crate::failure::{Failures, ends_all};
use crate::path::Remote;
use anyhow::Result;

/// Does something to each of several paths; one that fails is reported and the others go on.
///
/// # Errors
/// [`crate::failure::Reported`] if any failed; the one error itself if there was one path only.
pub async fn for_each(
    context: &Context,
    paths: &[Remote],
    mut each: impl AsyncFnMut(&Remote) -> Result<()>,
) -> Result<()> {
    if let [path] = paths {
        return each(path).await;
    }
    let mut failures = Failures::new(context);
    for path in paths {
        match each(path).await {
            Ok(()) => {}
            Err(error) if ends_all(&error) => return Err(error),
            Err(error) => failures.report(&error),
        }
    }
    failures.end()
}
