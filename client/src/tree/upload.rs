//! Uploading files and trees.

use super::local_read::{LocalFile, Opened};
use super::naming::set_xattrs;
use super::transfer::is_silence;
use super::xattrs::{self, Xattrs};
use super::{Copied, Transfer, TreeReport, local_error};
use crate::client::Client;
use crate::file::publish::{PublishOptions, REPEATS, worth_repeating};
use crate::namespace::shown;
use crate::progress::Progress;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{Gid, InodeId, Uid};
use quarry_common::limits::LIST_OPS_MAX;
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{Attr, FileKind, NodeKind, Op, OpReply, SetAttr, SetTime};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Uploads one regular file to the path `remote`, or to where a symbolic link there leads, with its mode, times and
/// user attributes.
///
/// # Errors
/// As [`Client::publish`]; of the local file, naming it: also if it was written to meanwhile. (If it became
/// shorter nothing was stored, else what was read.)
pub async fn put_file(
    client: &Client,
    local: &Path,
    remote: &[u8],
    transfer: &Transfer,
) -> Result<Attr> {
    let stored = put_one(client, local, remote, transfer).await;
    transfer.note(&stored);
    stored
}

async fn put_one(
    client: &Client,
    local: &Path,
    remote: &[u8],
    transfer: &Transfer,
) -> Result<Attr> {
    let progress = &transfer.progress;
    let place = client.resolve_through(remote).await?;
    // One that can not be looked at can not be opened either, which is told then.
    let len = tokio::fs::metadata(local)
        .await
        .map_or(0, |meta| meta.len());
    Progress::add(&progress.bytes_total, len);
    Progress::add(&progress.files_total, 1);
    progress.walk_done.store(true, Ordering::Relaxed);
    let parent = place.parent.inode;
    let attr = publish_local(client, local, len, parent, &place.name, transfer)
        .await
        .map_err(|error| error.context(shown(remote)))?;
    Progress::add(&progress.files, 1);
    Ok(attr)
}

async fn publish_local(
    client: &Client,
    local: &Path,
    len: u64,
    parent: InodeId,
    name: &[u8],
    transfer: &Transfer,
) -> Result<Attr> {
    let (options, progress) = (&transfer.options, &transfer.progress);
    let _held = transfer.hold(len).await?;
    let mut repeats = 0;
    loop {
        let opened = LocalFile::open(local, Some(progress.clone())).await?;
        let Opened {
            mut file,
            meta,
            xattrs,
        } = opened;
        let publish = PublishOptions {
            mode: (meta.mode() & 0o7777) as u16,
            mtime: Some(mtime_of(&meta)),
            replace: options.replace,
            xattrs,
            progress: None,
        };
        match client.publish_at(parent, name, &mut file, &publish).await {
            Ok(mut attr) => {
                let finished = file.finish();
                if options.owners {
                    attr = client.set_attr_inode(attr.inode, owners_of(&meta)).await?;
                }
                return finished.map(|()| attr);
            }
            Err(error) if worth_repeating(&error) && repeats < REPEATS => {
                tracing::info!(path = %local.display(), %error, "the upload is begun again");
                repeats += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn mtime_of(meta: &Metadata) -> Nanos {
    Nanos::from_parts(meta.mtime(), meta.mtime_nsec() as u32)
}

fn owners_of(meta: &Metadata) -> SetAttr {
    SetAttr {
        uid: Some(Uid(meta.uid())),
        gid: Some(Gid(meta.gid())),
        // A change of the owner takes the set-id bits away.
        mode: (!meta.is_symlink()).then_some((meta.mode() & 0o7777) as u16),
        ..SetAttr::default()
    }
}

/// Copies the tree at `local` to the path `remote`: a directory is made or merged into, single
/// files are replaced. What fails is reported, the rest goes on.
///
/// # Errors
/// Only when nothing can be begun: `local` can not be read, `remote` can not be made.
pub async fn put_tree(
    client: &Client,
    local: &Path,
    remote: &[u8],
    transfer: &Arc<Transfer>,
) -> Result<TreeReport> {
    let meta = std::fs::metadata(local).map_err(|error| local_error(local, "be read", error))?;
    if !meta.is_dir() {
        let attr = put_file(client, local, remote, transfer).await?;
        return Ok(TreeReport {
            files: 1,
            bytes: attr.size,
            ..TreeReport::default()
        });
    }
    let counting = {
        let (local, progress) = (local.to_path_buf(), transfer.progress.clone());
        tokio::task::spawn_blocking(move || count(&local, &progress))
    };
    // Looked at first: the root of the cluster, or what ends in '.', can not be made.
    let root = match client.stat(remote).await {
        Err(error) if error.code == Code::NotFound => {
            match client.mkdir(remote, writable(&meta)).await {
                Err(error) if error.code == Code::Exists => client.stat(remote).await?,
                made => made?,
            }
        }
        found => found?,
    };
    if root.kind != FileKind::Directory {
        let text = format!("{}: exists and is not a directory", shown(remote));
        return Err(Error::new(Code::NotDirectory, text));
    }
    let mut upload = Upload {
        context: Arc::new(Context {
            client: client.clone(),
            transfer: transfer.clone(),
        }),
        report: TreeReport::default(),
        running: JoinSet::new(),
        first_names: HashMap::new(),
        second_names: Vec::new(),
        directories: Vec::new(),
    };
    let given_up = upload.walk(local.to_path_buf(), root.inode, meta).await;
    let unfinished = upload.finish().await;
    transfer.end(&mut upload.report, local, given_up.or(unfinished));
    if let Err(error) = counting.await {
        tracing::warn!(%error, "the tree could not be counted");
    }
    Ok(upload.report)
}

/// Adds up what is to be copied, for the progress; failures show when it is copied.
fn count(local: &Path, progress: &Progress) {
    for entry in walkdir::WalkDir::new(local).into_iter().flatten() {
        if entry.file_type().is_dir() {
            continue;
        }
        Progress::add(&progress.files_total, 1);
        if entry.file_type().is_file()
            && let Ok(meta) = entry.metadata()
        {
            Progress::add(&progress.bytes_total, meta.len());
        }
    }
    progress.walk_done.store(true, Ordering::Relaxed);
}

/// The mode of a directory while it is filled.
fn writable(meta: &Metadata) -> u16 {
    (meta.mode() & 0o7777) as u16 | 0o700
}

struct Context {
    client: Client,
    transfer: Arc<Transfer>,
}

/// One upload of a tree: walks depth first, files on their way in the background.
struct Upload {
    context: Arc<Context>,
    report: TreeReport,
    running: JoinSet<Finished>,
    /// Files of several names that were begun, and their inode when they are there.
    first_names: HashMap<FileKey, Option<InodeId>>,
    second_names: Vec<(FileKey, Entry)>,
    /// Their attributes come last, when nothing changes in them any more.
    directories: Vec<(InodeId, Metadata, PathBuf)>,
}

/// A file or link that was copied or not; with its inode for its second names.
type Finished = (PathBuf, Option<FileKey>, Result<(Copied, Option<InodeId>)>);

/// Device and number of a local file.
type FileKey = (u64, u64);

/// A thing to be copied.
struct Entry {
    path: PathBuf,
    meta: Metadata,
    parent: InodeId,
    name: Vec<u8>,
}

impl Upload {
    /// Returns why it was ended early, if it was.
    async fn walk(&mut self, local: PathBuf, inode: InodeId, meta: Metadata) -> Option<Error> {
        let mut stack = vec![(local, inode, meta)];
        while let Some((path, inode, meta)) = stack.pop() {
            let given_up = self.context.transfer.given_up();
            if given_up.is_some() {
                return given_up;
            }
            let listed = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read_directory(&path)).await
            };
            let Listed {
                entries,
                failed,
                xattrs,
            } = match listed {
                Ok(Ok(listed)) => listed,
                Ok(Err(error)) => {
                    let error = local_error(&path, "be listed", error);
                    self.fail(path, error);
                    continue;
                }
                Err(error) => {
                    let error = Error::bug("listing failed").with_source(error);
                    self.fail(path, error);
                    continue;
                }
            };
            for (path, error) in failed {
                self.fail(path, error);
            }
            // The root of the cluster is everybody's: it stays as open as it is.
            if inode != InodeId::ROOT {
                if let Err(error) = set_xattrs(&self.context.client, inode, xattrs).await {
                    self.fail(path.clone(), error);
                }
                self.directories.push((inode, meta, path));
            }
            let (below, others): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|(_, meta)| meta.is_dir());
            for (path, made, meta) in self.make_directories(inode, below).await {
                match made {
                    Ok(inode) => stack.push((path, inode, meta)),
                    Err(error) => self.fail(path, error),
                }
            }
            for (path, meta) in others {
                let given_up = self.context.transfer.given_up();
                if given_up.is_some() {
                    return given_up;
                }
                let name = name_of(&path);
                self.begin(Entry {
                    path,
                    meta,
                    parent: inode,
                    name,
                })
                .await;
            }
        }
        None
    }

    fn fail(&mut self, path: PathBuf, error: Error) {
        let transfer = &self.context.transfer;
        transfer.fail(&mut self.report, path, error);
    }

    /// Makes the subdirectories of one directory, in one step where none is there yet.
    async fn make_directories(
        &mut self,
        parent: InodeId,
        below: Vec<(PathBuf, Metadata)>,
    ) -> Vec<(PathBuf, Result<InodeId>, Metadata)> {
        let mut made = Vec::with_capacity(below.len());
        let mut below = below.into_iter().peekable();
        while below.peek().is_some() {
            let some: Vec<_> = below.by_ref().take(LIST_OPS_MAX).collect();
            let mkdir = |(path, meta): &(PathBuf, Metadata)| Op::Mkdir {
                parent,
                name: name_of(path),
                mode: writable(meta),
            };
            let op = Op::List {
                expectations: Vec::new(),
                ops: some.iter().map(mkdir).collect(),
            };
            let client = &self.context.client;
            let inodes = match client.mutate(op).await {
                Ok(OpReply::List(replies)) if replies.len() == some.len() => replies
                    .into_iter()
                    .map(|reply| match reply {
                        OpReply::Attr(attr) => Ok(attr.inode),
                        _ => Err(crate::meta::unexpected("attributes")),
                    })
                    .collect(),
                _ => {
                    let mut inodes: Vec<Result<InodeId>> = Vec::with_capacity(some.len());
                    for entry in &some {
                        let made = match inodes.last() {
                            Some(Err(error)) if is_silence(error.code) => Err(error.clone()),
                            _ => self.make_directory(parent, mkdir(entry), &entry.0).await,
                        };
                        inodes.push(made);
                    }
                    inodes
                }
            };
            let some = some.into_iter().zip(inodes);
            made.extend(some.map(|((path, meta), inode)| (path, inode, meta)));
        }
        made
    }

    async fn make_directory(&self, parent: InodeId, op: Op, path: &Path) -> Result<InodeId> {
        let client = &self.context.client;
        let attr = match client.mutate(op).await {
            Ok(OpReply::Attr(attr)) => attr,
            Ok(_) => return Err(crate::meta::unexpected("attributes")),
            Err(error) if error.code == Code::Exists => {
                client.lookup(parent, &name_of(path)).await?
            }
            Err(error) => return Err(error),
        };
        match attr.kind {
            FileKind::Directory => Ok(attr.inode),
            _ => {
                let text = format!("{}: exists there and is not a directory", path.display());
                Err(Error::new(Code::NotDirectory, text))
            }
        }
    }

    async fn begin(&mut self, entry: Entry) {
        let several = entry.meta.is_file() && entry.meta.nlink() > 1;
        let key = several.then(|| (entry.meta.dev(), entry.meta.ino()));
        if let Some(key) = key {
            if self.first_names.contains_key(&key) {
                self.second_names.push((key, entry));
                return;
            }
            self.first_names.insert(key, None);
        }
        while self.running.len() >= self.context.transfer.options.jobs.max(1) {
            self.reap().await;
        }
        let context = self.context.clone();
        self.running.spawn(async move {
            let path = entry.path.clone();
            let outcome = context.copy(entry).await;
            (path, key, outcome)
        });
    }

    /// Waits for one of the running.
    async fn reap(&mut self) {
        match self.running.join_next().await {
            Some(Ok((path, key, outcome))) => {
                if let (Some(key), Ok((_, inode))) = (key, &outcome) {
                    self.first_names.insert(key, *inode);
                }
                let outcome = outcome.map(|(copied, _)| copied);
                let transfer = &self.context.transfer;
                transfer.handle(&mut self.report, path, outcome);
            }
            Some(Err(error)) => {
                let error = Error::bug("an upload's task failed").with_source(error);
                self.fail(PathBuf::new(), error);
            }
            None => {}
        }
    }

    /// Returns why the rest was not tried, if it was not.
    async fn finish(&mut self) -> Option<Error> {
        while !self.running.is_empty() {
            self.reap().await;
        }
        for (key, entry) in std::mem::take(&mut self.second_names) {
            if let Some(silence) = self.silence() {
                return Some(silence);
            }
            let first = self.first_names.get(&key).copied().flatten();
            let path = entry.path.clone();
            let linked = match first {
                Some(inode) => {
                    let place = (entry.parent, &entry.name[..]);
                    let Context { client, transfer } = &*self.context;
                    transfer.link(client, inode, place).await
                }
                None => {
                    let text = format!("{}: its other name was not copied", path.display());
                    Err(Error::new(Code::NotFound, text))
                }
            };
            let linked = linked.map(|()| Copied::Link);
            let transfer = &self.context.transfer;
            transfer.handle(&mut self.report, path, linked);
        }
        // Deepest first, though only the times of their own entries matter.
        let directories = std::mem::take(&mut self.directories);
        for some in directories.rchunks(LIST_OPS_MAX) {
            if let Some(silence) = self.silence() {
                return Some(silence);
            }
            let ops: Vec<Op> = some
                .iter()
                .rev()
                .map(|(inode, meta, _)| self.context.attributes(*inode, meta))
                .collect();
            let list = Op::List {
                expectations: Vec::new(),
                ops: ops.clone(),
            };
            let mut done = some.len() as u64;
            if self.context.client.mutate(list).await.is_err() {
                // Those that can be set are set, the others are named.
                let mut last: Result<()> = Ok(());
                for (op, (_, _, path)) in ops.into_iter().zip(some.iter().rev()) {
                    last = match last {
                        Err(error) if is_silence(error.code) => Err(error),
                        _ => self.context.client.mutate(op).await.map(drop),
                    };
                    if let Err(error) = &last {
                        done -= 1;
                        self.fail(path.clone(), error.clone());
                    }
                }
            }
            self.report.directories += done;
            Progress::add(&self.context.transfer.progress.directories, done);
        }
        None
    }

    /// Why nobody is asked any more. A full cluster still takes names and attributes.
    fn silence(&self) -> Option<Error> {
        let given_up = self.context.transfer.given_up();
        given_up.filter(|error| is_silence(error.code))
    }
}

impl Context {
    async fn copy(&self, entry: Entry) -> Result<(Copied, Option<InodeId>)> {
        let kind = entry.meta.file_type();
        if kind.is_file() {
            let (path, len, name) = (&entry.path, entry.meta.len(), &entry.name);
            let published =
                publish_local(&self.client, path, len, entry.parent, name, &self.transfer);
            let attr = published.await?;
            return Ok((Copied::File(attr.size), Some(attr.inode)));
        }
        let (parent, name) = (entry.parent, entry.name.clone());
        let place = (parent, &entry.name[..]);
        if kind.is_symlink() {
            let target = std::fs::read_link(&entry.path)
                .map_err(|error| local_error(&entry.path, "be read", error))?;
            let op = Op::Symlink {
                parent,
                name,
                target: target.as_os_str().as_bytes().to_vec(),
                mtime: Some(mtime_of(&entry.meta)),
            };
            let attr = self.transfer.make(&self.client, place, op).await?;
            if self.transfer.options.owners {
                let set = owners_of(&entry.meta);
                self.client.set_attr_inode(attr.inode, set).await?;
            }
            return Ok((Copied::Link, None));
        }
        let (node, what) = if kind.is_fifo() {
            (NodeKind::Fifo, "a pipe")
        } else if kind.is_socket() {
            (NodeKind::Socket, "a socket")
        } else if kind.is_char_device() {
            (NodeKind::CharDevice(entry.meta.rdev()), "a device")
        } else {
            (NodeKind::BlockDevice(entry.meta.rdev()), "a device")
        };
        let op = Op::MakeNode {
            parent,
            name,
            mode: (entry.meta.mode() & 0o7777) as u16,
            kind: node,
        };
        match self.transfer.make(&self.client, place, op).await {
            Ok(attr) => {
                let op = self.attributes(attr.inode, &entry.meta);
                self.client.mutate(op).await?;
                Ok((Copied::File(0), None))
            }
            Err(error) if matches!(error.code, Code::NotPermitted | Code::NotSupported) => {
                let why = format!("{what} is only copied by a superuser");
                Ok((Copied::Skipped(why), None))
            }
            Err(error) => Err(error),
        }
    }

    fn attributes(&self, inode: InodeId, meta: &Metadata) -> Op {
        let owners = self.transfer.options.owners;
        let set = SetAttr {
            mode: Some((meta.mode() & 0o7777) as u16),
            uid: owners.then(|| Uid(meta.uid())),
            gid: owners.then(|| Gid(meta.gid())),
            mtime: Some(SetTime::To(mtime_of(meta))),
            ..SetAttr::default()
        };
        Op::SetAttr { inode, set }
    }
}

fn name_of(path: &Path) -> Vec<u8> {
    path.file_name().unwrap_or_default().as_bytes().to_vec()
}

/// What is in a directory.
struct Listed {
    /// In the order of their names.
    entries: Vec<(PathBuf, Metadata)>,
    /// Those that can not be read.
    failed: Vec<(PathBuf, Error)>,
    /// Its own extended attributes.
    xattrs: Xattrs,
}

fn read_directory(path: &Path) -> std::io::Result<Listed> {
    let xattrs = xattrs::read(&File::open(path)?)?;
    let mut entries = Vec::new();
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) => entries.push((entry.path(), meta)),
            Err(error) => {
                let path = entry.path();
                let error = local_error(&path, "be read", error);
                failed.push((path, error));
            }
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Listed {
        entries,
        failed,
        xattrs,
    })
}
