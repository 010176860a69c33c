//! `quarry ln`.

use crate::context::Context;
use crate::failure::Misuse;
use crate::path::Remote;
use crate::target::Target;
use anyhow::Result;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Give a file a second name, or with -s make a symbolic link
#[derive(Debug, clap::Args)]
pub struct Ln {
    /// Make a symbolic link: TARGET is stored as it is and may be relative
    #[arg(short, long)]
    symbolic: bool,
    /// What the link leads to
    target: OsString,
    /// The new name, or a directory to put it in
    link: OsString,
}

impl Ln {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let link = Remote::parse(&self.link)?;
        let existing = match self.symbolic {
            true => None,
            false => Some(Remote::parse(&self.target)?),
        };
        let last = self.target.as_bytes().split(|byte| *byte == b'/');
        let name = last.rev().find(|name| !name.is_empty()).unwrap_or_default();
        context
            .with_client(async |client| {
                let at = Target::find(client, &link, false).await?;
                if matches!(at, Target::Into(_)) && name.is_empty() {
                    return Err(Misuse::new("the link needs a name of its own here").into());
                }
                let path = at.path_of(name);
                match &existing {
                    Some(existing) => client.link(existing.bytes(), path.bytes()).await?,
                    None => client.symlink(self.target.as_bytes(), path.bytes()).await?,
                };
                Ok(())
            })
            .await
    }
}
