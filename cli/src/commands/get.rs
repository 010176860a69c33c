//! `quarry get`.

use crate::context::Context;
use crate::copying::{self, Copying};
use crate::failure::Misuse;
use crate::path::{Remote, escaped, local};
use anyhow::{Result, anyhow, bail};
use quarry_client::{Client, TreeOptions};
use quarry_common::wire::meta::FileKind;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// Fetch files, or with -r whole trees
///
/// Modes, times, symbolic links and extended attributes come along. A local file appears whole or
/// not at all, also if get is interrupted. '-' is standard output. A local symbolic link is followed,
/// and a device or a pipe gets the bytes; within a tree such things stay as they are: an error.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// Directories with all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Files under way at a time
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Keep owner and group (for root)
    #[arg(long)]
    owners: bool,
    /// Leave local files that are there already as they are: an error
    #[arg(short, long)]
    no_clobber: bool,
    /// Paths of the cluster
    #[arg(required = true, value_name = "REMOTE")]
    remote: Vec<OsString>,
    /// A local path, '-' is standard output
    local: OsString,
}

/// One thing of the cluster and where it goes.
struct Job {
    remote: Remote,
    local: PathBuf,
    is_directory: bool,
}

impl Get {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or the local disk says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let remote = Remote::parse_all(&self.remote)?;
        local(&self.local)?;
        let mut begun = None;
        let done = context
            .with_patient_client(async |client| {
                if self.local == "-" {
                    return standard_output(client, &remote).await;
                }
                let jobs = self.plan(client, remote).await?;
                let options = TreeOptions {
                    jobs: usize::from(self.jobs),
                    owners: self.owners,
                    replace: !self.no_clobber,
                };
                let copying = begun.insert(Copying::start(context, options));
                self.transfer(client, jobs, copying).await;
                Ok(())
            })
            .await;
        copying::finish(context, begun, done, "fetched")
    }

    async fn plan(&self, client: &Client, remote: Vec<Remote>) -> Result<Vec<Job>> {
        let local = Path::new(&self.local);
        let shown = escaped(self.local.as_bytes());
        let into = local.is_dir();
        let wants_directory = self.local.as_bytes().ends_with(b"/");
        if !into && remote.len() > 1 {
            return Err(Misuse::new(format!(
                "{shown}: several things can only go into a directory that exists"
            ))
            .into());
        }
        let mut jobs: Vec<Job> = Vec::new();
        for path in remote {
            let attr = client.stat(path.bytes()).await?;
            let is_directory = attr.kind == FileKind::Directory;
            if is_directory && !self.recursive {
                let text = format!(
                    "{}: is a directory: use -r to get it with all that is in it",
                    path.shown()
                );
                return Err(Misuse::new(text).into());
            }
            if !into && wants_directory && !is_directory {
                bail!("{shown}: there is no such local directory: make it first");
            }
            let to = match (into, path.name()) {
                (true, Some(name)) => local.join(OsStr::from_bytes(name)),
                _ => local.to_path_buf(),
            };
            check_kinds(&to, is_directory, &path)?;
            if !is_directory && jobs.iter().any(|job| job.local == to) {
                return Err(Misuse::new(format!(
                    "{}: two of the files would go there",
                    to.display()
                ))
                .into());
            }
            jobs.push(Job {
                remote: path,
                local: to,
                is_directory,
            });
        }
        Ok(jobs)
    }

    async fn transfer(&self, client: &Client, jobs: Vec<Job>, copying: &Copying) {
        let (trees, files): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| job.is_directory);
        if !get_files(client, files, usize::from(self.jobs), copying).await {
            return;
        }
        for job in trees {
            if !copying.goes_on() {
                return;
            }
            let transfer = &copying.transfer;
            let done =
                quarry_client::get_tree(client, job.remote.bytes(), &job.local, transfer).await;
            copying.handle(job.remote.bytes(), job.local.as_os_str().as_bytes(), done);
        }
    }
}

async fn standard_output(client: &Client, remote: &[Remote]) -> Result<()> {
    let mut out = tokio::io::stdout();
    for path in remote {
        client.read_to(path.bytes(), &mut out, None, None).await?;
    }
    Ok(out.flush().await?)
}

fn check_kinds(local: &Path, is_directory: bool, remote: &Remote) -> Result<()> {
    let Ok(there) = local.metadata() else {
        return Ok(());
    };
    match (is_directory, there.is_dir()) {
        (true, false) => bail!(
            "{}: exists and is not a directory, so the tree {} can not go there",
            local.display(),
            remote.shown()
        ),
        (false, true) => bail!(
            "{}: is a directory, the file {} can not replace it",
            local.display(),
            remote.shown()
        ),
        _ => Ok(()),
    }
}

/// Several files at a time; false if the rest was not tried.
async fn get_files(client: &Client, files: Vec<Job>, jobs: usize, copying: &Copying) -> bool {
    let mut waiting = files.into_iter().peekable();
    let mut running = JoinSet::new();
    let mut goes_on = true;
    loop {
        while goes_on && running.len() < jobs && waiting.peek().is_some() {
            goes_on = copying.goes_on();
            if goes_on && let Some(job) = waiting.next() {
                let (client, transfer) = (client.clone(), copying.transfer.clone());
                running.spawn(async move {
                    let from = job.remote.bytes();
                    let done = quarry_client::get_file(&client, from, &job.local, &transfer).await;
                    (job, done)
                });
            }
        }
        match running.join_next().await {
            None => return goes_on,
            Some(Ok((job, done))) => {
                copying.handle(job.remote.bytes(), job.local.as_os_str().as_bytes(), done);
            }
            Some(Err(failed)) => {
                copying.fail(&anyhow!("a transfer ended without an answer: {failed}"));
            }
        }
    }
}
