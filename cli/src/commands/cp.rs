//! `quarry cp`.

use crate::context::Context;
use crate::copying::{self, Copying};
use crate::failure::{Misuse, ends_all};
use crate::path::Remote;
use crate::size::umask;
use crate::target::Target;
use anyhow::Result;
use quarry_client::{Client, Keep, TreeOptions};
use quarry_common::wire::meta::FileKind;
use std::ffi::OsString;

/// Copy files, or with -r whole trees, within the cluster
///
/// The copies share the chunks of what they were made from: no data moves. A copy appears whole or
/// not at all. Names of one file in what is copied with -r are names of one file in the copy. A file
/// by itself goes where a symbolic link leads.
#[derive(Debug, clap::Args)]
#[command(override_usage = "quarry cp [OPTIONS] <FROM>... <TO>")]
pub struct Cp {
    /// Directories with all that is in them; symbolic links stay links
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Requests under way at a time
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Keep modes, times and owners (owners as far as you may set them)
    #[arg(short, long)]
    preserve: bool,
    /// Fail if a file is there already
    #[arg(short, long)]
    no_clobber: bool,
    /// What is to be copied, then where it goes
    #[arg(required = true, num_args = 2.., value_names = ["FROM", "TO"])]
    paths: Vec<OsString>,
}

impl Cp {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        let Some((to, from)) = paths.split_last() else {
            return Err(Misuse::new("name what is to be copied, and where it goes").into());
        };
        let options = TreeOptions {
            jobs: usize::from(self.jobs),
            owners: self.preserve,
            replace: !self.no_clobber,
        };
        let mut begun = None;
        let done = context
            .with_patient_client(async |client| {
                let target = self.target(client, from, to).await?;
                let copying = begun.insert(Copying::start(context, options));
                for path in from {
                    if !copying.goes_on() {
                        break;
                    }
                    match self.copy(client, path, &target, copying).await {
                        Err(error) if from.len() == 1 || ends_all(&error) => return Err(error),
                        Err(error) => copying.fail(&error),
                        Ok(()) => {}
                    }
                }
                Ok(())
            })
            .await;
        copying::finish(context, begun, done, "copied")
    }

    async fn target(&self, client: &Client, from: &[Remote], to: &Remote) -> Result<Target> {
        match from {
            [one] if self.recursive => Target::find_for_one(client, to, one).await,
            _ => Target::find(client, to, from.len() > 1).await,
        }
    }

    /// Copies one of the things that were named. What fails within a tree was told.
    async fn copy(
        &self,
        client: &Client,
        from: &Remote,
        target: &Target,
        copying: &Copying,
    ) -> Result<()> {
        let keep = match self.preserve {
            true => Keep::All,
            false => Keep::Permissions { mask: umask() },
        };
        let attr = match self.recursive {
            true => client.lstat(from.bytes()).await?,
            false => client.stat(from.bytes()).await?,
        };
        let is_directory = attr.kind == FileKind::Directory;
        if is_directory && !self.recursive {
            let text = format!(
                "{}: is a directory: use -r to copy it with all that is in it",
                from.shown()
            );
            return Err(Misuse::new(text).into());
        }
        // As with cp(1), what ends in `.` or `..` stands for its contents.
        let to = match (from.name(), target) {
            (None, Target::Into(dir)) => dir.clone(),
            (name, target) => target.path_of(name.unwrap_or_default()),
        };
        let transfer = &copying.transfer;
        match is_directory {
            true => {
                let (from, to) = (from.trimmed(), to.trimmed());
                quarry_client::copy_tree(client, from, attr, to, keep, transfer).await?;
            }
            false => {
                let (from, to) = (from.bytes(), to.bytes());
                let names = self.recursive;
                quarry_client::copy_file(client, from, attr, to, keep, names, transfer).await?;
            }
        }
        Ok(())
    }
}
