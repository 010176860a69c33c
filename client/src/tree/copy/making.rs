//! What a copy is made of: directories, files that share chunks, and everything else.

use super::super::naming::set_xattrs;
use super::super::transfer::is_silence;
use super::steps::{STEP_LEN, Steps};
use super::{Context, Entry, Keep, Listed, Listing, Made, into_itself, join, owner_of};
use crate::namespace::{attr_of, shown};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{FileOffset, InodeId};
use quarry_common::limits::LIST_OPS_MAX;
use quarry_common::wire::meta::{
    Attr, CloneRange, Contents, FileKind, NodeKind, Op, OpReply, Publish, SetAttr, SetTime, View,
};

/// A file that is to be made.
struct Planned {
    entry: Entry,
    mode: u16,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Planned {
    /// Lets a copy share the chunks of a range.
    fn share(&self, to: InodeId, (offset, len): (u64, u64)) -> Op {
        Op::Clone(CloneRange {
            view: View::Live,
            from: self.entry.attr.inode,
            from_offset: FileOffset(offset),
            len,
            to,
            to_offset: FileOffset(offset),
        })
    }
}

impl Context {
    fn mode(&self, attr: &Attr) -> u16 {
        match self.keep {
            Keep::All => attr.mode,
            Keep::Permissions { mask } => attr.mode & 0o777 & !mask,
        }
    }

    async fn xattrs(&self, attr: &Attr) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        match self.keep {
            Keep::All => self.client.xattrs_inode(attr, b"").await,
            Keep::Permissions { .. } => Ok(Vec::new()),
        }
    }

    /// Makes the top of a copy, or takes the directory that is there, or is behind a link.
    pub(super) async fn top(&self, from: &[u8], attr: &Attr, to: &[u8]) -> Result<Made> {
        let inside = to.starts_with(from)
            && (to.len() == from.len() || from == b"/" || to[from.len()] == b'/');
        if inside {
            return Err(into_itself(to).context(shown(from)));
        }
        let (made, is_new) = match self.client.mkdir(to, self.mode(attr) | 0o700).await {
            Err(error) if error.code == Code::Exists => (self.client.stat(to).await?, false),
            made => (made?, true),
        };
        let made = self.take(from, attr, to, (made, is_new)).await;
        made.map_err(|error| error.context(shown(from)))
    }

    /// Takes what has the name of a directory, with the extended attributes that it is to have.
    async fn take(
        &self,
        from: &[u8],
        attr: &Attr,
        to: &[u8],
        (there, is_new): (Attr, bool),
    ) -> Result<Made> {
        if there.kind != FileKind::Directory {
            let text = format!(
                "{}: exists and is not a directory: remove it first",
                shown(to)
            );
            return Err(Error::new(Code::NotDirectory, text));
        }
        if there.inode == attr.inode {
            return Err(into_itself(to));
        }
        let xattrs = self.xattrs(attr).await?;
        let set = set_xattrs(&self.client, there.inode, xattrs).await;
        set.map_err(|error| error.context(shown(to)))?;
        Ok(Made {
            from: from.to_vec(),
            to: to.to_vec(),
            attr: attr.clone(),
            inode: there.inode,
            owner: owner_of(&there),
            is_new,
        })
    }

    /// Lists some entries of a directory, and makes those that are directories.
    pub(super) async fn list(&self, listing: &mut Listing, top: InodeId) -> Listed {
        let mut listed = Listed::default();
        let mut below = Vec::new();
        while listed.entries.len() + below.len() < LIST_OPS_MAX {
            let entry = match listing.dir.next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => {
                    listed.failed.push((listing.from.clone(), error));
                    break;
                }
            };
            let from = join(&listing.from, &entry.name);
            let to = join(&listing.to, &entry.name);
            let attr = match entry.attr {
                Some(attr) => Ok(attr),
                None => self.client.lookup(listing.dir.inode(), &entry.name).await,
            };
            match attr {
                Ok(attr) if attr.inode == top => listed.failed.push((from, into_itself(&to))),
                Ok(attr) => {
                    let entry = Entry {
                        from,
                        to,
                        attr,
                        parent: listing.into,
                        name: entry.name,
                        may_be_there: !listing.is_new,
                    };
                    match entry.attr.kind {
                        FileKind::Directory => below.push(entry),
                        _ => listed.entries.push(entry),
                    }
                }
                Err(error) => listed.failed.push((from, error)),
            }
        }
        listed.has_more = listed.entries.len() + below.len() == LIST_OPS_MAX;
        // The owner must be able to fill it, whatever its mode will be.
        let mkdir = |entry: &Entry| Op::Mkdir {
            parent: entry.parent,
            name: entry.name.clone(),
            mode: self.mode(&entry.attr) | 0o700,
        };
        let made = self.each(below.iter().map(mkdir).collect()).await;
        for (entry, made) in below.into_iter().zip(made) {
            let failed = listed.failed.last();
            if let Some((_, silence)) = failed.filter(|(_, error)| is_silence(error.code)) {
                let silence = silence.clone();
                listed.failed.push((entry.from, silence));
                continue;
            }
            let there = match made.and_then(attr_of) {
                Err(error) if error.code == Code::Exists => {
                    let there = self.client.lookup(entry.parent, &entry.name).await;
                    there.map(|there| (there, false))
                }
                made => made.map(|made| (made, true)),
            };
            let made = match there {
                Ok(there) => self.take(&entry.from, &entry.attr, &entry.to, there).await,
                Err(error) => Err(error.context(shown(&entry.to))),
            };
            match made {
                Ok(made) => listed.directories.push(made),
                Err(error) => listed.failed.push((entry.from, error)),
            }
        }
        listed
    }

    /// Does several things in one step; where that is refused each by itself, as long as somebody answers.
    async fn each(&self, ops: Vec<Op>) -> Vec<Result<OpReply>> {
        if ops.len() > 1 {
            let list = Op::List {
                expectations: Vec::new(),
                ops: ops.clone(),
            };
            match self.client.mutate(list).await {
                Ok(OpReply::List(replies)) if replies.len() == ops.len() => {
                    return replies.into_iter().map(Ok).collect();
                }
                Err(error) if is_silence(error.code) => {
                    return ops.iter().map(|_| Err(error.clone())).collect();
                }
                _ => {}
            }
        }
        let mut done: Vec<Result<OpReply>> = Vec::with_capacity(ops.len());
        for op in ops {
            let one = match done.last() {
                Some(Err(error)) if is_silence(error.code) => Err(error.clone()),
                _ => self.client.mutate(op).await,
            };
            done.push(one);
        }
        done
    }

    /// Copies anything but directories, each into a new inode or as one more name of a copy.
    pub(super) async fn copy_all(
        &self,
        entries: Vec<(Entry, Option<InodeId>)>,
    ) -> Vec<(Entry, Result<Option<InodeId>>)> {
        let mut planned = Vec::new();
        let mut done: Vec<(Entry, Result<Option<InodeId>>)> = Vec::with_capacity(entries.len());
        for (entry, first) in entries {
            // One answer that does not come is waited for: minutes.
            if let Some(silence) = silence_of(&done) {
                done.push((entry, Err(silence)));
            } else if let Some(copy) = first {
                let linked = self.link(copy, &entry).await;
                done.push((entry, linked.map(|()| None)));
            } else if entry.attr.kind != FileKind::File {
                let made = self.node(&entry).await;
                done.push((entry, made));
            } else {
                match self.plan(entry).await {
                    Ok(file) => planned.push(file),
                    Err((entry, error)) => done.push((*entry, Err(error))),
                }
            }
        }
        let copies = match silence_of(&done) {
            Some(silence) => planned.iter().map(|_| Err(silence.clone())).collect(),
            None => self.assemble(&planned).await,
        };
        for (file, copy) in planned.into_iter().zip(copies) {
            let copied = match (copy, silence_of(&done)) {
                (Ok(copy), None) => self
                    .keep(&copy, &file.entry)
                    .await
                    .map(|()| Some(copy.inode)),
                (Err(error), _) | (Ok(_), Some(error)) => Err(error),
            };
            done.push((file.entry, copied));
        }
        done
    }

    /// What has no data: a symbolic link, a pipe, a device.
    async fn node(&self, entry: &Entry) -> Result<Option<InodeId>> {
        let attr = &entry.attr;
        let (parent, name) = (entry.parent, entry.name.clone());
        let kind = match attr.kind {
            FileKind::Fifo => NodeKind::Fifo,
            FileKind::CharDevice => NodeKind::CharDevice(attr.device),
            FileKind::BlockDevice => NodeKind::BlockDevice(attr.device),
            _ => NodeKind::Socket,
        };
        let op = match attr.kind {
            FileKind::Symlink => Op::Symlink {
                parent,
                name,
                target: self.client.read_link_inode(attr.inode).await?,
                mtime: (self.keep == Keep::All).then_some(attr.mtime),
            },
            _ => Op::MakeNode {
                parent,
                name,
                mode: self.mode(attr),
                kind,
            },
        };
        let place = (entry.parent, &entry.name[..]);
        let made = self.transfer.make(&self.client, place, op).await;
        let made = made.map_err(|error| error.context(shown(&entry.to)))?;
        self.keep(&made, entry).await?;
        Ok(Some(made.inode))
    }

    /// Gives a copy one more name; another file that has it goes.
    async fn link(&self, copy: InodeId, entry: &Entry) -> Result<()> {
        let place = (entry.parent, &entry.name[..]);
        let linked = self.transfer.link(&self.client, copy, place).await;
        linked.map_err(|error| error.context(shown(&entry.to)))
    }

    /// Looks at what has the name of a file that is to be made.
    async fn plan(&self, entry: Entry) -> std::result::Result<Planned, (Box<Entry>, Error)> {
        let there = match entry.may_be_there {
            true => match self.client.lookup(entry.parent, &entry.name).await {
                Ok(there) => Some(there),
                Err(error) if error.code == Code::NotFound => None,
                Err(error) => {
                    let error = error.context(shown(&entry.to));
                    return Err((Box::new(entry), error));
                }
            },
            false => None,
        };
        let (attr, to) = (&entry.attr, shown(&entry.to));
        let refused = match &there {
            Some(there) if there.inode == attr.inode => {
                let text = format!("is the same file as {to}");
                Some(Error::new(Code::Invalid, text))
            }
            Some(there) if there.kind == FileKind::Directory => {
                let text = "is a directory, which a file can not replace";
                Some(Error::new(Code::IsDirectory, text).context(to))
            }
            // What is made for it and can not have its name would be held as long as the session lives.
            Some(_) if !self.transfer.options.replace => {
                Some(Error::new(Code::Exists, "is there already").context(to))
            }
            _ => None,
        };
        // An existing file keeps its permissions, as with cp(1).
        let mode = match (&there, self.keep) {
            (Some(there), Keep::Permissions { .. }) if there.kind == FileKind::File => there.mode,
            _ => self.mode(attr),
        };
        let xattrs = match refused {
            Some(error) => Err(error),
            None => self.xattrs(attr).await,
        };
        match xattrs {
            Ok(xattrs) => Ok(Planned {
                entry,
                mode,
                xattrs,
            }),
            Err(error) => Err((Box::new(entry), error)),
        }
    }

    /// Assembles copies in files without names, and gives each its name in one step.
    async fn assemble(&self, files: &[Planned]) -> Vec<Result<Attr>> {
        if files.is_empty() {
            return Vec::new();
        }
        let unnamed = files.iter().map(|file| Op::CreateUnnamed {
            parent: file.entry.parent,
            mode: file.mode,
        });
        let made = self.each(unnamed.collect()).await.into_iter();
        let made = files.iter().zip(made.map(|made| made.and_then(attr_of)));
        let mut copies: Vec<Result<Attr>> = made
            .map(|(file, made)| made.map_err(|error| error.context(shown(&file.entry.to))))
            .collect();
        let mut ops = Vec::with_capacity(2 * files.len());
        for (file, copy) in files.iter().zip(&copies) {
            let size = file.entry.attr.size;
            if let Ok(copy) = copy
                && size <= STEP_LEN
            {
                ops.push(file.share(copy.inode, (0, size)));
                ops.push(self.publish(file, copy.inode));
            }
        }
        // What is wrong, and with which of them, is told when each is done by itself.
        if ops.len() == 2 * files.len() {
            let count = ops.len();
            let all = Op::List {
                expectations: Vec::new(),
                ops,
            };
            match self.client.mutate(all).await {
                Ok(OpReply::List(replies)) if replies.len() == count => {
                    let published = replies.into_iter().skip(1).step_by(2);
                    return published.map(attr_of).collect();
                }
                Err(error) if is_silence(error.code) => {
                    return files.iter().map(|_| Err(error.clone())).collect();
                }
                _ => {}
            }
        }
        let mut silence = None;
        for (file, copy) in files.iter().zip(&mut copies) {
            let Ok(unnamed) = copy else { continue };
            *copy = match &silence {
                Some(error) => Err(Error::clone(error)),
                None => self.assemble_one(file, unnamed.inode).await,
            };
            if let Err(error) = copy
                && is_silence(error.code)
            {
                silence = Some(error.clone());
            }
        }
        copies
    }

    async fn assemble_one(&self, file: &Planned, copy: InodeId) -> Result<Attr> {
        let mut steps = Steps::new(file.entry.attr.size);
        while let Some(step) = steps.next() {
            let shared = self.client.mutate(file.share(copy, step)).await;
            steps.handle(step, shared.map(drop))?;
        }
        let published = self.client.mutate(self.publish(file, copy)).await;
        attr_of(published.map_err(|error| error.context(shown(&file.entry.to)))?)
    }

    fn publish(&self, file: &Planned, copy: InodeId) -> Op {
        Op::Publish(Publish {
            parent: file.entry.parent,
            name: file.entry.name.clone(),
            mode: file.mode,
            mtime: (self.keep == Keep::All).then_some(file.entry.attr.mtime),
            replace: self.transfer.options.replace,
            xattrs: file.xattrs.clone(),
            contents: Contents::Unnamed(copy),
        })
    }

    /// Sets what a copy is to keep and does not have yet.
    async fn keep(&self, copy: &Attr, entry: &Entry) -> Result<()> {
        let attr = &entry.attr;
        if self.keep != Keep::All {
            return Ok(());
        }
        let named = |error: Error| error.context(shown(&entry.to));
        let is_given = owner_of(copy) != owner_of(attr);
        if is_given {
            let set = self.client.mutate(owners(copy.inode, attr)).await;
            unless_not_permitted(set).map_err(named)?;
        }
        let is_same = copy.mode == attr.mode || attr.kind == FileKind::Symlink;
        if is_given || !is_same || copy.mtime != attr.mtime {
            let set = self.client.mutate(attributes(copy.inode, attr)).await;
            set.map_err(named)?;
        }
        Ok(())
    }

    /// The same for directories that were filled.
    pub(super) async fn keep_all(&self, made: &[Made]) -> Vec<Result<()>> {
        if self.keep != Keep::All {
            return made.iter().map(|_| Ok(())).collect();
        }
        let given = made
            .iter()
            .filter(|made| made.owner != owner_of(&made.attr));
        let given = given.map(|made| owners(made.inode, &made.attr)).collect();
        let mut given = self.each(given).await.into_iter().map(unless_not_permitted);
        let set = made.iter().map(|made| attributes(made.inode, &made.attr));
        let set = self.each(set.collect()).await;
        let both = made.iter().zip(set).map(|(made, set)| {
            let given = match made.owner == owner_of(&made.attr) {
                true => Ok(()),
                false => given.next().unwrap_or(Ok(())),
            };
            given.and(set.map(drop))
        });
        both.collect()
    }
}

/// That nobody answered the last request.
fn silence_of<T>(done: &[(Entry, Result<T>)]) -> Option<Error> {
    let (_, last) = done.last()?;
    let error = last.as_ref().err()?;
    is_silence(error.code).then(|| error.clone())
}

fn owners(copy: InodeId, attr: &Attr) -> Op {
    let set = SetAttr {
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        ..SetAttr::default()
    };
    Op::SetAttr { inode: copy, set }
}

/// What is set after the owner: giving a file away takes its set-id bits.
fn attributes(copy: InodeId, attr: &Attr) -> Op {
    let set = SetAttr {
        mode: (attr.kind != FileKind::Symlink).then_some(attr.mode),
        mtime: Some(SetTime::To(attr.mtime)),
        ..SetAttr::default()
    };
    Op::SetAttr { inode: copy, set }
}

/// Who may not give a file away keeps it.
fn unless_not_permitted(set: Result<OpReply>) -> Result<()> {
    match set {
        Err(error) if error.code == Code::NotPermitted => Ok(()),
        set => set.map(drop),
    }
}
