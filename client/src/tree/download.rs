//! Downloading files and trees.

use super::local_write::{self, NewFile, local_name};
use super::{Copied, LONG_FILE_LEN, LONG_FILES_MAX, TreeOptions, TreeReport};
use crate::client::Client;
use crate::file::reader::{Reader, Sequence};
use crate::file::source::Piece;
use crate::namespace::shown;
use crate::progress::Progress;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Attr, DirEntry, FileKind};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Downloads the file at the path `remote` to `local`, with mode and times. The file appears whole
/// or not at all. Returns its length.
///
/// # Errors
/// `IsDirectory`; `Io` when no replica of a part can be read; of the local file, naming it.
pub async fn get_file(
    client: &Client,
    remote: &[u8],
    local: &Path,
    options: &TreeOptions,
    progress: &Arc<Progress>,
) -> Result<u64> {
    let attr = client.stat(remote).await?;
    match attr.kind {
        FileKind::File => {}
        FileKind::Directory => {
            let text = format!("{}: is a directory", shown(remote));
            return Err(Error::new(Code::IsDirectory, text));
        }
        _ => {
            let text = format!("{}: not a regular file", shown(remote));
            return Err(Error::new(Code::Invalid, text));
        }
    }
    Progress::add(&progress.files_total, 1);
    Progress::add(&progress.bytes_total, attr.size);
    progress.walk_done.store(true, Ordering::Relaxed);
    let name = shown(remote).into_owned();
    let len = fetch(client, attr, name, local, options, progress).await?;
    Progress::add(&progress.files, 1);
    Ok(len)
}

async fn fetch(
    client: &Client,
    attr: Attr,
    name: String,
    local: &Path,
    options: &TreeOptions,
    progress: &Arc<Progress>,
) -> Result<u64> {
    if !options.replace && local.symlink_metadata().is_ok() {
        let text = format!("{}: exists already", local.display());
        return Err(Error::new(Code::Exists, text));
    }
    let reader = Reader::new(client.clone(), attr.inode, name)?;
    let mut sequence = Sequence::new(Arc::new(reader), 0..attr.size);
    let mut file = NewFile::new(local);
    while let Some(piece) = sequence.next().await? {
        let len = match &piece {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Zeros(len) => *len,
        };
        file = file.write(piece).await?;
        Progress::add(&progress.bytes, len);
    }
    file.finish(attr, options.owners, options.replace).await
}

/// Copies what is at the path `remote` to `local`: a directory is made or merged into, single
/// files are replaced. What fails is reported, the rest goes on.
///
/// # Errors
/// Only when nothing can be begun: `remote` does not exist, `local` can not be made.
pub async fn get_tree(
    client: &Client,
    remote: &[u8],
    local: &Path,
    options: &TreeOptions,
    progress: &Arc<Progress>,
) -> Result<TreeReport> {
    let attr = client.stat(remote).await?;
    if attr.kind != FileKind::Directory {
        let bytes = get_file(client, remote, local, options, progress).await?;
        return Ok(TreeReport {
            files: 1,
            bytes,
            ..TreeReport::default()
        });
    }
    local_write::make_directory(local)?;
    let mut download = Download {
        context: Arc::new(Context {
            client: client.clone(),
            options: options.clone(),
            progress: progress.clone(),
            long_files: Semaphore::new(LONG_FILES_MAX),
        }),
        report: TreeReport::default(),
        running: JoinSet::new(),
        first_names: HashMap::new(),
        second_names: Vec::new(),
        directories: Vec::new(),
    };
    let mut path = remote.to_vec();
    while path.last() == Some(&b'/') {
        path.pop();
    }
    download.walk(path, attr, local.to_path_buf()).await;
    download.finish().await;
    Ok(download.report)
}

struct Context {
    client: Client,
    options: TreeOptions,
    progress: Arc<Progress>,
    long_files: Semaphore,
}

/// One download of a tree: walks depth first, files on their way in the background.
struct Download {
    context: Arc<Context>,
    report: TreeReport,
    running: JoinSet<(PathBuf, Result<Copied>)>,
    /// Where the first name of a file of several is.
    first_names: HashMap<InodeId, PathBuf>,
    second_names: Vec<(InodeId, PathBuf, PathBuf)>,
    /// Mode and times come last, when nothing changes in them any more.
    directories: Vec<(PathBuf, PathBuf, Attr)>,
}

/// A path in the cluster for a report.
fn reported(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(path))
}

impl Download {
    async fn walk(&mut self, remote: Vec<u8>, attr: Attr, local: PathBuf) {
        let mut stack = vec![(remote, attr, local)];
        while let Some((remote, attr, local)) = stack.pop() {
            if self.report.is_hopeless() {
                return;
            }
            let mut entries = self.context.client.list(attr.inode, true);
            self.directories
                .push((reported(&remote), local.clone(), attr));
            loop {
                let entry = match entries.next().await {
                    Ok(Some(entry)) => entry,
                    Ok(None) => break,
                    Err(error) => {
                        self.report.failed.push((reported(&remote), error));
                        break;
                    }
                };
                let path = [&remote[..], b"/", &entry.name].concat();
                match self.begin(&path, entry, &local).await {
                    Ok(Some((attr, local))) => stack.push((path, attr, local)),
                    Ok(None) => {}
                    Err(error) => self.report.failed.push((reported(&path), error)),
                }
            }
        }
        self.context
            .progress
            .walk_done
            .store(true, Ordering::Relaxed);
    }

    /// Begins with an entry; returns a directory that is to be walked.
    async fn begin(
        &mut self,
        remote: &[u8],
        entry: DirEntry,
        folder: &Path,
    ) -> Result<Option<(Attr, PathBuf)>> {
        let local = folder.join(local_name(&entry.name)?);
        let client = &self.context.client;
        let attr = match entry.attr {
            Some(attr) => attr,
            None => client.stat_inode(entry.inode).await?,
        };
        if attr.kind == FileKind::Directory {
            local_write::make_directory(&local)?;
            return Ok(Some((attr, local)));
        }
        let progress = &self.context.progress;
        Progress::add(&progress.files_total, 1);
        if attr.links > 1 {
            if self.first_names.contains_key(&attr.inode) {
                self.second_names
                    .push((attr.inode, local, reported(remote)));
                return Ok(None);
            }
            self.first_names.insert(attr.inode, local.clone());
        }
        if attr.kind == FileKind::File {
            Progress::add(&progress.bytes_total, attr.size);
        }
        while self.running.len() >= self.context.options.jobs.max(1) {
            self.reap().await;
        }
        let context = self.context.clone();
        let remote = remote.to_vec();
        self.running.spawn(async move {
            let outcome = context.copy(&remote, attr, &local).await;
            (reported(&remote), outcome)
        });
        Ok(None)
    }

    async fn reap(&mut self) {
        match self.running.join_next().await {
            Some(Ok((path, outcome))) => {
                self.report.handle(path, outcome);
                Progress::add(&self.context.progress.files, 1);
            }
            Some(Err(error)) => {
                let error = Error::bug("a download's task failed").with_source(error);
                self.report.failed.push((PathBuf::new(), error));
            }
            None => {}
        }
    }

    async fn finish(&mut self) {
        while !self.running.is_empty() {
            self.reap().await;
        }
        let replace = self.context.options.replace;
        for (inode, local, remote) in std::mem::take(&mut self.second_names) {
            let linked = match self.first_names.get(&inode) {
                Some(first) => local_write::link(first, &local, replace),
                None => Err(Error::bug("a second name without a first")),
            };
            self.report.handle(remote, linked.map(|()| Copied::Link));
            Progress::add(&self.context.progress.files, 1);
        }
        let owners = self.context.options.owners;
        // Deepest first: a directory that may not be entered any more is done with.
        for (remote, local, attr) in self.directories.drain(..).rev() {
            match local_write::finish_node(&local, &attr, owners) {
                Ok(()) => {
                    self.report.directories += 1;
                    Progress::add(&self.context.progress.directories, 1);
                }
                Err(error) => self.report.failed.push((remote, error)),
            }
        }
    }
}

impl Context {
    async fn copy(&self, remote: &[u8], attr: Attr, local: &Path) -> Result<Copied> {
        let name = shown(remote).into_owned();
        let (owners, replace) = (self.options.owners, self.options.replace);
        match attr.kind {
            FileKind::File => {
                let _place = match attr.size > LONG_FILE_LEN {
                    true => Some(self.long_files.acquire().await),
                    false => None,
                };
                let (client, options) = (&self.client, &self.options);
                let len = fetch(client, attr, name, local, options, &self.progress).await?;
                Ok(Copied::File(len))
            }
            FileKind::Symlink => {
                let target = self.client.read_link_inode(attr.inode).await;
                let target = target.map_err(|error| error.context(name))?;
                local_write::symlink(&target, local, &attr, owners, replace)?;
                Ok(Copied::Link)
            }
            FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice => {
                local_write::make_node(local, &attr, owners, replace)
            }
            FileKind::Socket => Ok(Copied::Skipped("a socket belongs to its program".into())),
            FileKind::Directory => Err(Error::bug("a directory is not copied as a file")),
        }
    }
}
