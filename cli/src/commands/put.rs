//! `quarry put`.

use crate::context::Context;
use crate::copying::{self, Copying};
use crate::failure::Misuse;
use crate::input::standard_input;
use crate::path::{Remote, escaped, local as local_path};
use crate::size::umask;
use crate::target::{Target, lstat_if_there, stat_if_there};
use anyhow::{Context as _, Result, anyhow, bail};
use quarry_client::{Client, PublishOptions, TreeOptions};
use quarry_common::wire::meta::FileKind;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Store local files, or with -r whole trees
///
/// Modes, times, symbolic links and extended attributes come along. A file is visible whole or not
/// at all, also if put is interrupted; when put has ended well, all is on stable storage. A file that
/// is written to while it is read is an error: it is stored as it was read, unless it shrank. '-' is
/// standard input. An existing directory takes things in, as cp does, and a file by itself goes where a
/// symbolic link leads.
#[derive(Debug, clap::Args)]
pub struct Put {
    /// Directories with all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Files under way at a time
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Keep owner and group (for admins)
    #[arg(long)]
    owners: bool,
    /// Leave files that are there already as they are: an error
    #[arg(short, long)]
    no_clobber: bool,
    /// Local files, '-' is standard input
    #[arg(required = true, value_name = "LOCAL")]
    local: Vec<OsString>,
    /// A path of the cluster
    remote: OsString,
}

/// One local thing and where it goes.
struct Job {
    local: PathBuf,
    remote: Remote,
    is_directory: bool,
}

impl Put {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or a local file says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let remote = Remote::parse(&self.remote)?;
        if self.local.iter().any(|name| name == "-") && self.local.len() > 1 {
            return Err(Misuse::new("'-' (standard input) can only be put alone").into());
        }
        // What can be known to fail without the cluster fails before anything is sent.
        let mut local = Vec::new();
        for name in self.local.iter().filter(|name| *name != "-") {
            let path = local_path(name)?.to_path_buf();
            let found = std::fs::metadata(&path).or_else(|_| std::fs::symlink_metadata(&path));
            let is_directory = found.with_context(|| escaped(name.as_bytes()))?.is_dir();
            if is_directory && !self.recursive {
                let shown = escaped(name.as_bytes());
                return Err(Misuse::new(format!(
                    "{shown}: is a directory: use -r to put it with all that is in it"
                ))
                .into());
            }
            local.push((path, is_directory));
        }
        let mut begun = None;
        let done = context
            .with_patient_client(async |client| match local.is_empty() {
                true => {
                    self.standard_input(context, client, &remote, &mut begun)
                        .await
                }
                false => {
                    let jobs = plan(client, local, &remote).await?;
                    let copying = begun.insert(Copying::start(context, self.options()));
                    self.transfer(client, jobs, copying).await;
                    Ok(())
                }
            })
            .await;
        copying::finish(context, begun, done, "stored")
    }

    fn options(&self) -> TreeOptions {
        TreeOptions {
            jobs: usize::from(self.jobs),
            owners: self.owners,
            replace: !self.no_clobber,
        }
    }

    async fn standard_input(
        &self,
        context: &Context,
        client: &Client,
        remote: &Remote,
        begun: &mut Option<Copying>,
    ) -> Result<()> {
        if let Target::Into(dir) = Target::find(client, remote, false).await? {
            bail!(
                "{}: is a directory: standard input needs the name of a file",
                dir.shown()
            );
        }
        let copying = begun.insert(Copying::start(context, self.options()));
        let progress = copying.transfer.progress();
        let options = PublishOptions {
            mode: 0o666 & !umask(),
            replace: !self.no_clobber,
            progress: Some(progress.clone()),
            ..PublishOptions::default()
        };
        let published = client
            .publish(remote.bytes(), standard_input(), options)
            .await;
        if published.is_ok() {
            progress.files.fetch_add(1, Ordering::Relaxed);
        }
        copying.handle(b"-", remote.bytes(), published);
        Ok(())
    }

    async fn transfer(&self, client: &Client, jobs: Vec<Job>, copying: &Copying) {
        let (trees, files): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| job.is_directory);
        if !put_files(client, files, usize::from(self.jobs), copying).await {
            return;
        }
        for job in trees {
            if !copying.goes_on() {
                return;
            }
            let transfer = &copying.transfer;
            let done =
                quarry_client::put_tree(client, &job.local, job.remote.bytes(), transfer).await;
            copying.handle(job.local.as_os_str().as_bytes(), job.remote.bytes(), done);
        }
    }
}

/// Decides where each local thing goes.
async fn plan(client: &Client, local: Vec<(PathBuf, bool)>, remote: &Remote) -> Result<Vec<Job>> {
    // A tree may become a directory that is not there yet, with or without a slash at its end.
    let one_tree = matches!(local.as_slice(), [(_, true)]);
    let missing = one_tree && lstat_if_there(client, remote).await?.is_none();
    let target = match missing {
        true => Target::As(remote.clone()),
        false => Target::find(client, remote, local.len() > 1).await?,
    };
    let mut jobs = Vec::new();
    for (path, is_directory) in local {
        let remote = match (name_of(&path), &target) {
            (None, Target::Into(dir)) => dir.clone(),
            (None, Target::As(path)) => path.clone(),
            (Some(name), target) => target.path_of(name.as_bytes()),
        };
        check_kinds(client, &path, is_directory, &remote).await?;
        // A link that was named leads to the tree; links within a tree stay links.
        let local = match is_directory {
            true => std::fs::canonicalize(&path)
                .with_context(|| escaped(path.as_os_str().as_bytes()))?,
            false => path,
        };
        jobs.push(Job {
            local,
            remote,
            is_directory,
        });
    }
    let mut names: Vec<&[u8]> = jobs.iter().map(|job| job.remote.bytes()).collect();
    names.sort_unstable();
    if let Some(twice) = names
        .windows(2)
        .find(|pair| pair[0] == pair[1] && target_is_one(&jobs, pair[0]))
    {
        return Err(Misuse::new(format!(
            "{}: two of the files would go there",
            escaped(twice[0])
        ))
        .into());
    }
    Ok(jobs)
}

/// Two trees may be merged into one directory, two files can not have one name.
fn target_is_one(jobs: &[Job], path: &[u8]) -> bool {
    jobs.iter()
        .any(|job| job.remote.bytes() == path && !job.is_directory)
}

/// The name under which a local path goes into a directory; none for what ends in `.` or `..`,
/// whose contents go there instead, as with `cp`.
fn name_of(path: &Path) -> Option<&OsStr> {
    let bytes = path.as_os_str().as_bytes();
    let last = bytes.rsplit(|byte| *byte == b'/').next();
    match last {
        Some(b"." | b"..") => None,
        _ => path.file_name(),
    }
}

async fn check_kinds(
    client: &Client,
    local: &Path,
    is_directory: bool,
    remote: &Remote,
) -> Result<()> {
    let found = match is_directory {
        true => lstat_if_there(client, remote).await?,
        false => stat_if_there(client, remote).await?,
    };
    let Some(attr) = found else {
        return Ok(());
    };
    let there = attr.kind == FileKind::Directory;
    match (is_directory, there) {
        (true, false) => Err(anyhow!(
            "{}: exists and is not a directory, so the tree {} can not go there: choose another name or remove it",
            remote.shown(),
            escaped(local.as_os_str().as_bytes())
        )),
        (false, true) => Err(anyhow!(
            "{}: is a directory, the file {} can not replace it: choose another name or remove it",
            remote.shown(),
            escaped(local.as_os_str().as_bytes())
        )),
        _ => Ok(()),
    }
}

/// Several files at a time; false if the rest was not tried.
async fn put_files(client: &Client, files: Vec<Job>, jobs: usize, copying: &Copying) -> bool {
    let mut waiting = files.into_iter().peekable();
    let mut running = JoinSet::new();
    let mut goes_on = true;
    loop {
        while goes_on && running.len() < jobs && waiting.peek().is_some() {
            goes_on = copying.goes_on();
            if goes_on && let Some(job) = waiting.next() {
                let (client, transfer) = (client.clone(), copying.transfer.clone());
                running.spawn(async move {
                    let to = job.remote.bytes();
                    let done = quarry_client::put_file(&client, &job.local, to, &transfer).await;
                    (job, done)
                });
            }
        }
        match running.join_next().await {
            None => return goes_on,
            Some(Ok((job, done))) => {
                copying.handle(job.local.as_os_str().as_bytes(), job.remote.bytes(), done);
            }
            Some(Err(failed)) => {
                copying.fail(&anyhow!("a transfer ended without an answer: {failed}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_ends_in_a_dot_stands_for_its_contents() {
        assert_eq!(name_of(Path::new("a/b")), Some(OsStr::new("b")));
        assert_eq!(name_of(Path::new("a/b/")), Some(OsStr::new("b")));
        assert_eq!(name_of(Path::new("a/b/.")), None);
        assert_eq!(name_of(Path::new(".")), None);
        assert_eq!(name_of(Path::new("..")), None);
        assert_eq!(name_of(Path::new("/")), None);
    }
}
