//! Downloading files and trees.

use super::local_write::{self, NewFile, Onto, local_name};
use super::xattrs;
use super::{Copied, Transfer, TreeReport};
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

/// A file longer than this takes part in the limit of long downloads.
const LONG_FILE_LEN: u64 = 8 << 20;

/// Long files of a tree on their way at a time: each has its own read-ahead.
const LONG_FILES_MAX: usize = 4;

/// Downloads the file at the path `remote` to `local`, with mode and times. The file appears whole
/// or not at all. A symbolic link is followed; a device or a pipe that is there gets the bytes. Returns
/// its length.
///
/// # Errors
/// `IsDirectory`; `Exists` with `replace: false`; `Io` when no replica of a part can be read; of the local
/// file, naming it.
pub async fn get_file(
    client: &Client,
    remote: &[u8],
    local: &Path,
    transfer: &Transfer,
) -> Result<u64> {
    let fetched = get_one(client, remote, local, transfer).await;
    transfer.note(&fetched);
    fetched
}

async fn get_one(client: &Client, remote: &[u8], local: &Path, transfer: &Transfer) -> Result<u64> {
    let (options, progress) = (&transfer.options, &transfer.progress);
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
    if !options.replace && local.symlink_metadata().is_ok() {
        let text = format!("{}: exists already", local.display());
        return Err(Error::new(Code::Exists, text));
    }
    let name = shown(remote).into_owned();
    let len = match local_write::onto(local)? {
        Onto::Name(local) => fetch(client, attr, name, &local, transfer).await?,
        Onto::Stream => {
            let mut stream = local_write::open_stream(local).await?;
            let reader = Reader::new(client.clone(), attr.inode, name)?;
            let sequence = Sequence::new(Arc::new(reader), 0..attr.size);
            let written = sequence.write_to(&mut stream, Some(progress)).await;
            written.map_err(|mut error| {
                // It is the device that is full.
                if error.code == Code::ClusterFull {
                    error.code = Code::Io;
                }
                error.context(local.display())
            })?
        }
    };
    Progress::add(&progress.files, 1);
    Ok(len)
}

async fn fetch(
    client: &Client,
    attr: Attr,
    name: String,
    local: &Path,
    transfer: &Transfer,
) -> Result<u64> {
    let reader = Reader::new(client.clone(), attr.inode, name)?;
    let mut sequence = Sequence::new(Arc::new(reader), 0..attr.size);
    let mut file = NewFile::new(local);
    while let Some(piece) = sequence.next().await? {
        let len = match &piece {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Zeros(len) => *len,
        };
        file = file.write(piece).await?;
        Progress::add(&transfer.progress.bytes, len);
    }
    let xattrs = client.xattrs_inode(&attr, xattrs::USER).await?;
    let (owners, replace) = (transfer.options.owners, transfer.options.replace);
    let named = file.finish(attr, xattrs, owners, replace).await?;
    if named.without_xattrs {
        transfer.handle_without_xattrs(local);
    }
    Ok(named.len)
}

/// Copies what is at the path `remote` to `local`: a directory is made or merged into, single
/// files are replaced. Other things that are in the way below `local` stay, and are never followed.
/// What fails is reported, the rest goes on.
///
/// # Errors
/// Only when nothing can be begun: `remote` does not exist, `local` can not be made.
pub async fn get_tree(
    client: &Client,
    remote: &[u8],
    local: &Path,
    transfer: &Arc<Transfer>,
) -> Result<TreeReport> {
    let attr = client.stat(remote).await?;
    if attr.kind != FileKind::Directory {
        let bytes = get_file(client, remote, local, transfer).await?;
        return Ok(TreeReport {
            files: 1,
            bytes,
            ..TreeReport::default()
        });
    }
    local_write::make_top(local)?;
    let mut download = Download {
        context: Arc::new(Context {
            client: client.clone(),
            transfer: transfer.clone(),
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
    let given_up = download.walk(path, attr, local.to_path_buf()).await;
    let unfinished = download.finish().await;
    let given_up = given_up.or(unfinished);
    transfer.end(&mut download.report, &reported(remote), given_up);
    Ok(download.report)
}

struct Context {
    client: Client,
    transfer: Arc<Transfer>,
    long_files: Semaphore,
}

/// One download of a tree: walks depth first, files on their way in the background.
struct Download {
    context: Arc<Context>,
    report: TreeReport,
    running: JoinSet<(Entry, Result<(Copied, InodeId)>)>,
    /// Files of several names that were begun, and where they are once they are there.
    first_names: HashMap<InodeId, Option<PathBuf>>,
    second_names: Vec<Entry>,
    /// Mode and times come last, when nothing changes in them any more.
    directories: Vec<(PathBuf, PathBuf, Attr)>,
}

/// A thing to be copied, as it was when its directory was listed.
struct Entry {
    remote: Vec<u8>,
    parent: InodeId,
    attr: Attr,
    local: PathBuf,
}

/// A path in the cluster for a report.
fn reported(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(path))
}

impl Download {
    /// Returns why it was ended early, if it was.
    async fn walk(&mut self, remote: Vec<u8>, attr: Attr, local: PathBuf) -> Option<Error> {
        let mut stack = vec![(remote, attr, local)];
        while let Some((remote, attr, local)) = stack.pop() {
            let inode = attr.inode;
            let mut entries = self.context.client.list(inode, true);
            self.directories
                .push((reported(&remote), local.clone(), attr));
            loop {
                let given_up = self.context.transfer.given_up();
                if given_up.is_some() {
                    return given_up;
                }
                let entry = match entries.next().await {
                    Ok(Some(entry)) => entry,
                    Ok(None) => break,
                    Err(error) => {
                        self.fail(reported(&remote), error);
                        break;
                    }
                };
                let path = [&remote[..], b"/", &entry.name].concat();
                match self.begin(&path, inode, entry, &local).await {
                    Ok(Some((attr, local))) => stack.push((path, attr, local)),
                    Ok(None) => {}
                    Err(error) => self.fail(reported(&path), error),
                }
            }
        }
        self.context
            .transfer
            .progress
            .walk_done
            .store(true, Ordering::Relaxed);
        None
    }

    fn fail(&mut self, path: PathBuf, error: Error) {
        let transfer = &self.context.transfer;
        transfer.fail(&mut self.report, path, error);
    }

    /// Begins with an entry; returns a directory that is to be walked.
    async fn begin(
        &mut self,
        remote: &[u8],
        parent: InodeId,
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
        let progress = &self.context.transfer.progress;
        Progress::add(&progress.files_total, 1);
        let remote = remote.to_vec();
        let entry = Entry {
            remote,
            parent,
            attr,
            local,
        };
        if entry.attr.links > 1 {
            if self.first_names.contains_key(&entry.attr.inode) {
                self.second_names.push(entry);
                return Ok(None);
            }
            self.first_names.insert(entry.attr.inode, None);
        }
        if entry.attr.kind == FileKind::File {
            Progress::add(&progress.bytes_total, entry.attr.size);
        }
        while self.running.len() >= self.context.transfer.options.jobs.max(1) {
            self.reap().await;
        }
        let context = self.context.clone();
        self.running.spawn(async move {
            let outcome = context.copy(&entry).await;
            (entry, outcome)
        });
        Ok(None)
    }

    async fn reap(&mut self) {
        match self.running.join_next().await {
            Some(Ok((entry, outcome))) => self.handle(entry, outcome),
            Some(Err(error)) => {
                let error = Error::bug("a download's task failed").with_source(error);
                self.fail(PathBuf::new(), error);
            }
            None => {}
        }
    }

    fn handle(&mut self, entry: Entry, outcome: Result<(Copied, InodeId)>) {
        let Entry {
            remote,
            attr,
            local,
            ..
        } = entry;
        let is_there = match &outcome {
            Ok((Copied::File(_) | Copied::Link, inode)) => *inode == attr.inode,
            Ok((Copied::Skipped(_), _)) | Err(_) => false,
        };
        if attr.links > 1 && is_there {
            self.first_names.insert(attr.inode, Some(local));
        }
        let outcome = outcome.map(|(copied, _)| copied);
        let transfer = &self.context.transfer;
        transfer.handle(&mut self.report, reported(&remote), outcome);
    }

    /// Returns why something was not tried any more.
    async fn finish(&mut self) -> Option<Error> {
        while !self.running.is_empty() {
            self.reap().await;
        }
        let given_up = self.context.transfer.given_up();
        let mut left = false;
        for entry in std::mem::take(&mut self.second_names) {
            // One whose first name could not be copied becomes the first.
            let outcome = match self.first_names.get(&entry.attr.inode) {
                Some(Some(first)) => self.context.link(first, &entry),
                Some(None) | None if given_up.is_some() => {
                    left = true;
                    continue;
                }
                Some(None) | None => self.context.copy(&entry).await,
            };
            self.handle(entry, outcome);
        }
        // Deepest first: a directory that may not be entered any more is done with.
        for (remote, local, attr) in std::mem::take(&mut self.directories).into_iter().rev() {
            left |= attr.has_xattrs && given_up.is_some();
            let whole = given_up.is_none();
            match self.context.finish_directory(&local, &attr, whole).await {
                Ok(()) => {
                    self.report.directories += 1;
                    Progress::add(&self.context.transfer.progress.directories, 1);
                }
                Err(error) => self.fail(remote, error),
            }
        }
        given_up.filter(|_| left)
    }
}

impl Context {
    fn link(&self, first: &Path, entry: &Entry) -> Result<(Copied, InodeId)> {
        let replace = self.transfer.options.replace;
        local_write::make_way(&entry.local, entry.attr.kind, replace)?;
        local_write::link(first, &entry.local, replace)?;
        Ok((Copied::Link, entry.attr.inode))
    }

    /// `whole` says whether the cluster is asked for extended attributes.
    async fn finish_directory(&self, local: &Path, attr: &Attr, whole: bool) -> Result<()> {
        let owners = self.transfer.options.owners;
        let fetched = match whole {
            true => self.client.xattrs_inode(attr, xattrs::USER).await,
            false => Ok(Vec::new()),
        };
        let (xattrs, missing) = match fetched {
            Ok(xattrs) => (xattrs, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        if !local_write::finish_directory(local, attr, &xattrs, owners)? {
            self.transfer.handle_without_xattrs(local);
        }
        missing.map_or(Ok(()), Err)
    }

    /// Returns the inode that was copied: that of the entry, unless it is gone.
    async fn copy(&self, entry: &Entry) -> Result<(Copied, InodeId)> {
        let copied = self.copy_inode(entry, &entry.attr).await;
        match copied {
            // Another one may have got the name since it was listed.
            Err(error) if error.code == Code::Stale => {
                let name = entry.remote.rsplit(|byte| *byte == b'/').next();
                let name = name.unwrap_or_default();
                let attr = self.client.lookup(entry.parent, name).await?;
                let copied = self.copy_inode(entry, &attr).await;
                copied.map(|copied| (copied, attr.inode))
            }
            copied => copied.map(|copied| (copied, entry.attr.inode)),
        }
    }

    async fn copy_inode(&self, entry: &Entry, attr: &Attr) -> Result<Copied> {
        let Entry { remote, local, .. } = entry;
        let name = shown(remote).into_owned();
        let (owners, replace) = (self.transfer.options.owners, self.transfer.options.replace);
        if attr.kind != FileKind::Socket {
            local_write::make_way(local, attr.kind, replace)?;
        }
        match attr.kind {
            FileKind::File => {
                let _place = match attr.size > LONG_FILE_LEN {
                    true => Some(self.long_files.acquire().await),
                    false => None,
                };
                let attr = attr.clone();
                let len = fetch(&self.client, attr, name, local, &self.transfer).await?;
                Ok(Copied::File(len))
            }
            FileKind::Symlink => {
                let target = self.client.read_link_inode(attr.inode).await;
                let target = target.map_err(|error| error.context(name))?;
                local_write::symlink(&target, local, attr, owners, replace)?;
                Ok(Copied::Link)
            }
            FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice => {
                local_write::make_node(local, attr, owners, replace)
            }
            FileKind::Socket => Ok(Copied::Skipped("a socket belongs to its program".into())),
            FileKind::Directory => {
                let text = format!("{name}: became a directory meanwhile: get the tree again");
                Err(Error::new(Code::IsDirectory, text))
            }
        }
    }
}
