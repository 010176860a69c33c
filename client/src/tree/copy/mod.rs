//! Copying within the cluster: copies share the chunks of what they were made from, so that no data moves.

mod making;
mod steps;

use super::transfer::is_silence;
use super::{Copied, Transfer, TreeReport};
use crate::client::Client;
use crate::dir::Dir;
use crate::namespace::shown;
use crate::progress::Progress;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{Gid, InodeId, Uid};
use quarry_common::limits::LIST_OPS_MAX;
use quarry_common::wire::meta::{Attr, FileKind};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Entries of a tree that are copied together: files in two requests.
const ENTRIES_AT_ONCE: usize = 16;

/// What a copy keeps beside its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Permissions, but for those of the mask.
    Permissions {
        /// The mask.
        mask: u16,
    },
    /// Mode, times and extended attributes, and the owner as far as it may be set.
    All,
}

/// Copies anything but a directory from the path `from` to the path `to`; a file goes where a symbolic link at `to` leads.
/// With `keep_names` another name of a file that was copied before becomes one more name of that copy.
///
/// # Errors
/// `Exists` with `replace: false`; `Invalid` if both are one file; what the cluster says. They name the path they are of.
pub async fn copy_file(
    client: &Client,
    from: &[u8],
    attr: Attr,
    to: &[u8],
    keep: Keep,
    keep_names: bool,
    transfer: &Arc<Transfer>,
) -> Result<()> {
    let copied = async {
        let progress = &transfer.progress;
        note_found(progress, &attr);
        progress.walk_done.store(true, Ordering::Relaxed);
        let first = match has_names(&attr) && keep_names {
            true => transfer.copy_of(attr.inode),
            false => None,
        };
        let place = match attr.kind {
            FileKind::File => client.resolve_through(to).await?,
            _ => client.resolve_parent(to).await?,
        };
        let entry = Entry {
            from: from.to_vec(),
            to: to.to_vec(),
            attr,
            parent: place.parent.inode,
            name: place.name,
            may_be_there: true,
        };
        let context = Context {
            client: client.clone(),
            transfer: transfer.clone(),
            keep,
        };
        for (entry, copied) in context.copy_all(vec![(entry, first)]).await {
            let copied = copied.map_err(|error| error.context(shown(from)))?;
            if let Some(copy) = copied
                && has_names(&entry.attr)
            {
                transfer.keep_copy(entry.attr.inode, copy);
            }
            note_copied(progress, &entry.attr);
        }
        Progress::add(&progress.files, 1);
        Ok(())
    };
    let copied = copied.await;
    transfer.note(&copied);
    copied
}

/// Copies the directory at the path `from`, with all that is in it, to the path `to`: a directory is made or merged into,
/// files are replaced. Names of one file are names of one file in the copy. What fails is reported, the rest goes on.
///
/// # Errors
/// Only when nothing can be begun: `to` can not be made, or is `from`.
pub async fn copy_tree(
    client: &Client,
    from: &[u8],
    attr: Attr,
    to: &[u8],
    keep: Keep,
    transfer: &Arc<Transfer>,
) -> Result<TreeReport> {
    let context = Arc::new(Context {
        client: client.clone(),
        transfer: transfer.clone(),
        keep,
    });
    let top = context.top(from, &attr, to).await?;
    let mut copy = Copy {
        context,
        report: TreeReport::default(),
        top: top.inode,
        running: JoinSet::new(),
        listings: Vec::new(),
        entries: Vec::new(),
        copies: HashMap::new(),
        unlisted: 0,
        made: Vec::new(),
    };
    copy.enter(top);
    let given_up = copy.work().await;
    let unfinished = copy.finish().await;
    let path = path_of(from);
    transfer.end(&mut copy.report, &path, given_up.or(unfinished));
    Ok(copy.report)
}

fn note_found(progress: &Progress, attr: &Attr) {
    Progress::add(&progress.files_total, 1);
    if attr.kind == FileKind::File {
        Progress::add(&progress.bytes_total, attr.size);
    }
}

fn note_copied(progress: &Progress, attr: &Attr) {
    if attr.kind == FileKind::File {
        Progress::add(&progress.bytes, attr.size);
    }
}

/// Whether it is a file of several names, of which one is copied and the others become names of the copy.
fn has_names(attr: &Attr) -> bool {
    attr.kind == FileKind::File && attr.links > 1
}

fn path_of(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let end = match dir.ends_with(b"/") {
        true => &b""[..],
        false => b"/",
    };
    [dir, end, name].concat()
}

fn into_itself(to: &[u8]) -> Error {
    let text = format!("can not be copied into itself, {}", shown(to));
    Error::new(Code::Invalid, text)
}

/// Anything but a directory that is to be copied.
struct Entry {
    from: Vec<u8>,
    to: Vec<u8>,
    attr: Attr,
    parent: InodeId,
    name: Vec<u8>,
    /// Whether something may have its name: its directory was not made for it.
    may_be_there: bool,
}

/// A directory that is there to be filled.
struct Made {
    from: Vec<u8>,
    to: Vec<u8>,
    /// What it is a copy of.
    attr: Attr,
    inode: InodeId,
    /// Of the copy.
    owner: Owner,
    is_new: bool,
}

type Owner = (Uid, Gid);

fn owner_of(attr: &Attr) -> Owner {
    (attr.uid, attr.gid)
}

/// A directory whose entries are being read.
struct Listing {
    dir: Dir,
    from: Vec<u8>,
    to: Vec<u8>,
    into: InodeId,
    is_new: bool,
}

/// Some entries of a directory.
#[derive(Default)]
struct Listed {
    entries: Vec<Entry>,
    /// Those that are directories; they were made.
    directories: Vec<Made>,
    failed: Vec<(Vec<u8>, Error)>,
    has_more: bool,
}

/// What a task has done.
enum Done {
    Listed(Box<Listing>, Listed),
    /// With the inode of each copy, unless it is one more name of it.
    Copied(Vec<(Entry, Result<Option<InodeId>>)>),
}

/// The copy of a file of several names.
enum FirstName {
    /// Its other names wait for it.
    UnderWay(Vec<Entry>),
    Copied(InodeId),
}

/// One copy of a tree: directories and entries are done in the background, deepest first.
struct Copy {
    context: Arc<Context>,
    report: TreeReport,
    /// What is made. However the paths are spelled: a copy that is copied again has no end.
    top: InodeId,
    running: JoinSet<Done>,
    listings: Vec<Listing>,
    entries: Vec<Entry>,
    copies: HashMap<InodeId, FirstName>,
    /// Directories that are not listed to their end.
    unlisted: usize,
    /// Their attributes come last, when nothing changes in them any more.
    made: Vec<Made>,
}

impl Copy {
    /// Returns why it was ended early, if it was.
    async fn work(&mut self) -> Option<Error> {
        loop {
            let given_up = self.context.transfer.given_up();
            let jobs = self.context.transfer.options.jobs.max(1);
            while given_up.is_none() && self.running.len() < jobs && self.begin() {}
            match self.running.join_next().await {
                None => return given_up,
                Some(Ok(done)) => self.handle(done),
                Some(Err(error)) => {
                    let error = Error::bug("a copy's task failed").with_source(error);
                    self.fail(&[], error);
                }
            }
        }
    }

    /// Begins with one thing; `false` if nothing is left to begin with.
    fn begin(&mut self) -> bool {
        let context = self.context.clone();
        let mut some = Vec::new();
        while some.len() < ENTRIES_AT_ONCE
            && let Some(entry) = self.entries.pop()
        {
            let mut first = None;
            if has_names(&entry.attr) {
                match self.copies.get_mut(&entry.attr.inode) {
                    Some(FirstName::UnderWay(waiting)) => {
                        waiting.push(entry);
                        continue;
                    }
                    Some(FirstName::Copied(copy)) => first = Some(*copy),
                    None => {
                        first = context.transfer.copy_of(entry.attr.inode);
                        let known = match first {
                            Some(copy) => FirstName::Copied(copy),
                            None => FirstName::UnderWay(Vec::new()),
                        };
                        self.copies.insert(entry.attr.inode, known);
                    }
                }
            }
            some.push((entry, first));
        }
        if !some.is_empty() {
            self.running
                .spawn(async move { Done::Copied(context.copy_all(some).await) });
            return true;
        }
        let Some(mut listing) = self.listings.pop() else {
            return false;
        };
        let top = self.top;
        self.running.spawn(async move {
            let listed = context.list(&mut listing, top).await;
            Done::Listed(Box::new(listing), listed)
        });
        true
    }

    fn handle(&mut self, done: Done) {
        match done {
            Done::Listed(listing, listed) => self.handle_listed(*listing, listed),
            Done::Copied(all) => all
                .into_iter()
                .for_each(|(entry, outcome)| self.handle_copied(&entry, outcome)),
        }
    }

    fn handle_listed(&mut self, listing: Listing, listed: Listed) {
        let progress = self.context.transfer.progress.clone();
        for (path, error) in listed.failed {
            self.fail(&path, error);
        }
        for entry in &listed.entries {
            note_found(&progress, &entry.attr);
        }
        self.entries.extend(listed.entries.into_iter().rev());
        match listed.has_more {
            true => self.listings.push(listing),
            false => self.unlisted -= 1,
        }
        for made in listed.directories.into_iter().rev() {
            self.enter(made);
        }
        let is_all = self.unlisted == 0;
        progress.walk_done.store(is_all, Ordering::Relaxed);
    }

    fn handle_copied(&mut self, entry: &Entry, outcome: Result<Option<InodeId>>) {
        let mut copied = match entry.attr.kind {
            FileKind::Symlink => Copied::Link,
            _ => Copied::File(entry.attr.size),
        };
        if has_names(&entry.attr) {
            match &outcome {
                Ok(Some(copy)) => {
                    self.context.transfer.keep_copy(entry.attr.inode, *copy);
                    let known = FirstName::Copied(*copy);
                    let waiting = self.copies.insert(entry.attr.inode, known);
                    self.go_on(waiting);
                }
                Ok(None) => copied = Copied::Link,
                // The next one is the first.
                Err(_) => {
                    let waiting = self.copies.remove(&entry.attr.inode);
                    self.go_on(waiting);
                }
            }
        }
        let transfer = &self.context.transfer;
        if outcome.is_ok() {
            note_copied(&transfer.progress, &entry.attr);
        }
        let outcome = outcome.map(|_| copied);
        transfer.handle(&mut self.report, path_of(&entry.from), outcome);
    }

    fn go_on(&mut self, waiting: Option<FirstName>) {
        if let Some(FirstName::UnderWay(waiting)) = waiting {
            self.entries.extend(waiting);
        }
    }

    fn fail(&mut self, from: &[u8], error: Error) {
        let transfer = &self.context.transfer;
        transfer.fail(&mut self.report, path_of(from), error);
    }

    fn enter(&mut self, made: Made) {
        self.unlisted += 1;
        self.listings.push(Listing {
            dir: self.context.client.list(made.attr.inode, true),
            from: made.from.clone(),
            to: made.to.clone(),
            into: made.inode,
            is_new: made.is_new,
        });
        self.made.push(made);
    }

    /// Returns why the rest was not tried, if it was not. After all was put into them: that changes their times.
    async fn finish(&mut self) -> Option<Error> {
        let transfer = self.context.transfer.clone();
        let made = std::mem::take(&mut self.made);
        for some in made.rchunks(LIST_OPS_MAX) {
            let given_up = transfer.given_up();
            if let Some(silence) = given_up.filter(|error| is_silence(error.code)) {
                return Some(silence);
            }
            let kept = self.context.keep_all(some).await;
            for (made, kept) in some.iter().zip(kept) {
                match kept {
                    Ok(()) => {
                        self.report.directories += 1;
                        Progress::add(&transfer.progress.directories, 1);
                    }
                    Err(error) => self.fail(&made.from, error.context(shown(&made.to))),
                }
            }
        }
        None
    }
}

struct Context {
    client: Client,
    transfer: Arc<Transfer>,
    keep: Keep,
}
