//! The namespace: names, attributes, directories. Paths are absolute and bytes.

use crate::client::Client;
use crate::dir::Dir;
use crate::meta::unexpected;
use crate::text::escaped;
use quarry_common::error::{Code, Error, Kind, Result};
use quarry_common::ids::InodeId;
use quarry_common::limits::LIST_OPS_MAX;
use quarry_common::wire::meta::{
    Attr, FileKind, NodeKind, Op, OpReply, Read, ReadReply, RenameMode, Resolved, SetAttr, View,
    XattrMode,
};
use std::borrow::Cow;
use std::collections::HashSet;

/// What is below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of files.
    pub bytes: u64,
    /// Everything but directories.
    pub files: u64,
    /// Directories.
    pub directories: u64,
}

/// A path for a message.
pub(crate) fn shown(path: &[u8]) -> Cow<'_, str> {
    Cow::Owned(escaped(path))
}

/// The attributes that an operation replies.
pub(crate) fn attr_of(reply: OpReply) -> Result<Attr> {
    match reply {
        OpReply::Attr(attr) => Ok(attr),
        _ => Err(unexpected("attributes")),
    }
}

/// Whether a path ends in a name of its own, not in `/`, `.` or `..`.
fn ends_in_a_name(path: &[u8]) -> bool {
    let mut names = path.rsplit(|byte| *byte == b'/');
    let last = names.find(|name| !name.is_empty());
    last.is_some_and(|name| name != b"." && name != b"..")
}

/// Whether a server refused something, and not the network or the cluster as a whole.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::Posix(_))
}

/// Whether what was to be removed, or the directory that it was in, is there no more: somebody else did it.
fn is_gone(error: &Error) -> bool {
    matches!(error.code, Code::NotFound | Code::Stale)
}

fn path_of(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}

/// A directory that is being removed.
struct Doomed {
    inode: InodeId,
    path: Vec<u8>,
    parent: InodeId,
    name: Vec<u8>,
    /// Whether what could be removed of what is in it was.
    emptied: bool,
    /// Why it could not be listed.
    unlisted: Option<Error>,
}

fn not_found(path: &[u8]) -> Error {
    Error::new(
        Code::NotFound,
        format!("{}: there is no such file or directory", shown(path)),
    )
}

impl Client {
    /// Walks a path; `follow` says whether a symbolic link at its end is followed.
    ///
    /// # Errors
    /// `NotFound` if any part of it, the last one included, does not exist.
    pub async fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved> {
        let read = Read::Resolve {
            view: View::Live,
            base: InodeId::ROOT,
            path: path.to_vec(),
            follow,
        };
        match self.read(read).await {
            Ok(ReadReply::Resolved(resolved)) if resolved.attr.is_some() => Ok(resolved),
            Ok(ReadReply::Resolved(_)) => Err(not_found(path)),
            Ok(_) => Err(unexpected("the end of a path")),
            Err(error) => Err(error.context(shown(path))),
        }
    }

    /// Walks to the directory of the last name; `attr` is what has that name, if anything has it.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory` for the directories on the way.
    pub async fn resolve_parent(&self, path: &[u8]) -> Result<Resolved> {
        let read = Read::ResolveParent {
            view: View::Live,
            base: InodeId::ROOT,
            path: path.to_vec(),
        };
        match self.read(read).await {
            Ok(ReadReply::Resolved(resolved)) => Ok(resolved),
            Ok(_) => Err(unexpected("the end of a path")),
            Err(error) => Err(error.context(shown(path))),
        }
    }

    /// Walks to the name that contents which are stored at a path get: where a symbolic link there leads to, so
    /// that it stays.
    ///
    /// # Errors
    /// As [`Client::resolve_parent`]; `NotFound` for a link that leads to nothing.
    pub async fn resolve_through(&self, path: &[u8]) -> Result<Resolved> {
        let place = self.resolve_parent(path).await?;
        let is_link = |attr: &Attr| attr.kind == FileKind::Symlink;
        if !place.attr.as_ref().is_some_and(is_link) {
            return Ok(place);
        }
        match self.resolve(path, true).await {
            Err(error) if error.code == Code::NotFound => {
                let text = format!("{}: is a dangling link: not written through", shown(path));
                Err(Error::new(Code::NotFound, text))
            }
            found => found,
        }
    }

    async fn inode(&self, path: &[u8], follow: bool) -> Result<Attr> {
        let resolved = self.resolve(path, follow).await?;
        resolved.attr.ok_or_else(|| not_found(path))
    }

    /// Attributes; a symbolic link is followed.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `TooManySymlinks`.
    pub async fn stat(&self, path: &[u8]) -> Result<Attr> {
        self.inode(path, true).await
    }

    /// Attributes; those of a symbolic link itself.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`.
    pub async fn lstat(&self, path: &[u8]) -> Result<Attr> {
        self.inode(path, false).await
    }

    /// Attributes of up to 4,096 inodes, all from one state.
    ///
    /// # Errors
    /// Of the whole request; each inode has a result of its own.
    pub async fn stat_inodes(&self, inodes: &[InodeId]) -> Result<Vec<Result<Attr>>> {
        let read = Read::Stat {
            view: View::Live,
            inodes: inodes.to_vec(),
        };
        match self.read(read).await? {
            ReadReply::Attrs(attrs) if attrs.len() == inodes.len() => Ok(attrs),
            _ => Err(unexpected("attributes")),
        }
    }

    /// One name in a directory; a symbolic link is not followed.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub async fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Attr> {
        let read = Read::Lookup {
            view: View::Live,
            parent,
            name: name.to_vec(),
        };
        match self.read(read).await {
            Ok(ReadReply::Attr(attr)) => Ok(attr),
            Ok(_) => Err(unexpected("attributes")),
            Err(error) => Err(error.context(shown(name))),
        }
    }

    /// The entries of a directory, in byte order of their names.
    pub fn list(&self, dir: InodeId, with_attrs: bool) -> Dir {
        Dir::new(self.clone(), dir, with_attrs)
    }

    /// The entries of the directory at a path.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub async fn open_dir(&self, path: &[u8], with_attrs: bool) -> Result<Dir> {
        let attr = self.stat(path).await?;
        if attr.kind != FileKind::Directory {
            let text = format!("{}: not a directory", shown(path));
            return Err(Error::new(Code::NotDirectory, text));
        }
        Ok(self.list(attr.inode, with_attrs))
    }

    /// Does something to a name in its directory.
    async fn at<T>(
        &self,
        path: &[u8],
        op: impl FnOnce(InodeId, Vec<u8>) -> Op,
        outcome: impl FnOnce(OpReply) -> Result<T>,
    ) -> Result<T> {
        let parent = self.resolve_parent(path).await?;
        let op = op(parent.parent.inode, parent.name);
        let done = self.mutate(op).await.and_then(outcome);
        done.map_err(|error| error.context(shown(path)))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `AccessDenied`.
    pub async fn mkdir(&self, path: &[u8], mode: u16) -> Result<Attr> {
        if !ends_in_a_name(path) {
            self.stat(path).await?;
            let text = format!("{}: exists", shown(path));
            return Err(Error::new(Code::Exists, text));
        }
        let op = |parent, name| Op::Mkdir { parent, name, mode };
        self.at(path, op, attr_of).await
    }

    /// Makes a directory and those above it that are missing; one that exists is fine.
    ///
    /// # Errors
    /// `NotDirectory` if something else is in the way.
    pub async fn mkdir_all(&self, path: &[u8], mode: u16) -> Result<Attr> {
        match self.stat(path).await {
            Ok(attr) if attr.kind == FileKind::Directory => return Ok(attr),
            Ok(_) => {
                let text = format!("{}: exists and is not a directory", shown(path));
                return Err(Error::new(Code::NotDirectory, text));
            }
            Err(error) if error.code != Code::NotFound => return Err(error),
            Err(_) => {}
        }
        let mut made = None;
        let ends = (1..=path.len()).filter(|end| {
            let next_is_slash = path.get(*end).is_none_or(|byte| *byte == b'/');
            path[*end - 1] != b'/' && next_is_slash
        });
        for end in ends {
            let part = &path[..end];
            made = Some(match self.mkdir(part, mode).await {
                Err(error) if error.code == Code::Exists => self.stat(part).await?,
                // A directory above that the caller may only pass through is there already.
                Err(error) if error.code == Code::AccessDenied && end < path.len() => {
                    self.stat(part).await.map_err(|_| error)?
                }
                other => other?,
            });
        }
        match made {
            Some(attr) if attr.kind == FileKind::Directory => Ok(attr),
            Some(_) => {
                let text = format!("{}: exists and is not a directory", shown(path));
                Err(Error::new(Code::NotDirectory, text))
            }
            None => self.stat(path).await,
        }
    }

    /// Makes an empty file; without `exclusive`, an existing one is returned as it is.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `AccessDenied`; `IsDirectory` for a path that ends in a slash.
    pub async fn create(&self, path: &[u8], mode: u16, exclusive: bool) -> Result<Attr> {
        if path.ends_with(b"/") {
            let text = format!("{}: a file's name can not end in '/'", shown(path));
            return Err(Error::new(Code::IsDirectory, text));
        }
        let op = |parent, name| Op::Create {
            parent,
            name,
            mode,
            exclusive,
        };
        self.at(path, op, attr_of).await
    }

    /// Makes a pipe, a socket or a device.
    ///
    /// # Errors
    /// `Exists`, `NotPermitted` for devices.
    pub async fn make_node(&self, path: &[u8], mode: u16, kind: NodeKind) -> Result<Attr> {
        let op = |parent, name| Op::MakeNode {
            parent,
            name,
            mode,
            kind,
        };
        self.at(path, op, attr_of).await
    }

    /// Makes a symbolic link at `path`.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `AccessDenied`.
    pub async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<Attr> {
        let op = |parent, name| Op::Symlink {
            parent,
            name,
            target: target.to_vec(),
            mtime: None,
        };
        self.at(path, op, attr_of).await
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for anything but a symbolic link.
    pub async fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let inode = self.lstat(path).await?.inode;
        self.read_link_inode(inode)
            .await
            .map_err(|error| error.context(shown(path)))
    }

    /// Gives the file at `existing` the name `new` as well.
    ///
    /// # Errors
    /// `NotPermitted` for directories, `Exists`, `TooManyLinks`.
    pub async fn link(&self, existing: &[u8], new: &[u8]) -> Result<Attr> {
        let inode = self.lstat(existing).await?.inode;
        let op = |parent, name| Op::Link {
            inode,
            parent,
            name,
        };
        self.at(new, op, attr_of).await
    }

    /// Moves a name.
    ///
    /// # Errors
    /// As rename(2).
    pub async fn rename(&self, from: &[u8], to: &[u8], mode: RenameMode) -> Result<()> {
        let source = self.resolve_parent(from).await?;
        let target = self.resolve_parent(to).await?;
        let op = Op::Rename {
            from: source.parent.inode,
            from_name: source.name,
            to: target.parent.inode,
            to_name: target.name,
            mode,
        };
        self.mutate(op).await.map(drop).map_err(|error| {
            let names = format!("{} to {}", shown(from), shown(to));
            error.context(names)
        })
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `AccessDenied`.
    pub async fn unlink(&self, path: &[u8]) -> Result<()> {
        let op = |parent, name| Op::Unlink { parent, name };
        self.at(path, op, |_| Ok(())).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `NotDirectory`.
    pub async fn rmdir(&self, path: &[u8]) -> Result<()> {
        let op = |parent, name| Op::Rmdir { parent, name };
        self.at(path, op, |_| Ok(())).await
    }

    /// Removes whatever is at a path with all that is below; returns how many names it removed one
    /// by one. A superuser's tree goes in one step and counts as one.
    ///
    /// # Errors
    /// The first failure; what could be removed is removed.
    pub async fn remove_tree(&self, path: &[u8]) -> Result<u64> {
        let mut first = None;
        let failed = |error: Error| {
            first.get_or_insert(error);
        };
        let removed = self.remove_tree_with(path, failed).await?;
        first.map_or(Ok(removed), Err)
    }

    /// The same; what can not be removed goes to `failed`, and stays with the directories that it is in.
    ///
    /// # Errors
    /// There is nothing at the path, or the cluster can not be reached.
    pub async fn remove_tree_with(
        &self,
        path: &[u8],
        failed: impl FnMut(Error) + Send,
    ) -> Result<u64> {
        let found = self.resolve(path, false).await?;
        let attr = found.attr.ok_or_else(|| not_found(path))?;
        let (parent, name) = (found.parent.inode, found.name);
        if attr.kind != FileKind::Directory {
            self.unlink(path).await?;
            return Ok(1);
        }
        let whole = Op::RemoveTree {
            parent,
            name: name.clone(),
        };
        match self.mutate(whole).await {
            Ok(_) => return Ok(1),
            Err(error)
                if matches!(
                    error.code,
                    Code::NotPermitted | Code::AccessDenied | Code::NotSupported
                ) => {}
            Err(error) => return Err(error.context(shown(path))),
        }
        let top = Doomed {
            inode: attr.inode,
            path: path.to_vec(),
            parent,
            name,
            emptied: false,
            unlisted: None,
        };
        let removed = self.remove_all(top, failed).await;
        removed.map_err(|error| error.context(shown(path)))
    }

    /// Removes a directory and everything in it, names in lists, deepest first.
    async fn remove_all(&self, top: Doomed, mut failed: impl FnMut(Error)) -> Result<u64> {
        let mut removed = 0;
        // In which something stays; so do those above them.
        let mut kept = HashSet::new();
        // Each is pushed again above its subdirectories.
        let mut stack = vec![top];
        while let Some(mut dir) = stack.pop() {
            if !dir.emptied {
                dir.emptied = true;
                let (inode, path) = (dir.inode, dir.path.clone());
                let at = stack.len();
                stack.push(dir);
                let mut names = Vec::new();
                let mut entries = self.list(inode, false);
                loop {
                    let entry = match entries.next().await {
                        Ok(entry) => entry,
                        Err(error) if is_refusal(&error) => {
                            stack[at].unlisted = Some(error);
                            None
                        }
                        Err(error) => return Err(error),
                    };
                    let last = entry.is_none();
                    match entry {
                        Some(entry) if entry.kind == FileKind::Directory => stack.push(Doomed {
                            inode: entry.inode,
                            path: path_of(&path, &entry.name),
                            parent: inode,
                            name: entry.name,
                            emptied: false,
                            unlisted: None,
                        }),
                        Some(entry) => names.push(entry.name),
                        None => {}
                    }
                    if names.len() == LIST_OPS_MAX || (last && !names.is_empty()) {
                        let names = std::mem::take(&mut names);
                        let unlinked = self.unlink_all((inode, &path), names, &mut failed);
                        let (count, all) = unlinked.await?;
                        removed += count;
                        if !all {
                            kept.insert(inode);
                        }
                    }
                    if last {
                        break;
                    }
                }
                continue;
            }
            if kept.remove(&dir.inode) {
                kept.insert(dir.parent);
                continue;
            }
            let rmdir = Op::Rmdir {
                parent: dir.parent,
                name: dir.name,
            };
            match self.mutate(rmdir).await {
                Ok(_) => removed += 1,
                Err(error) if is_gone(&error) => {}
                Err(error) if is_refusal(&error) => {
                    kept.insert(dir.parent);
                    let error = dir.unlisted.unwrap_or(error);
                    failed(error.context(shown(&dir.path)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Removes names in a directory: how many, and whether none of them is there any more.
    async fn unlink_all(
        &self,
        (parent, path): (InodeId, &[u8]),
        names: Vec<Vec<u8>>,
        failed: &mut impl FnMut(Error),
    ) -> Result<(u64, bool)> {
        let unlink = |name: &Vec<u8>| Op::Unlink {
            parent,
            name: name.clone(),
        };
        let list = Op::List {
            expectations: Vec::new(),
            ops: names.iter().map(unlink).collect(),
        };
        match self.mutate(list).await {
            Ok(_) => return Ok((names.len() as u64, true)),
            // One of them was: the others can go.
            Err(error) if is_refusal(&error) => {}
            Err(error) => return Err(error),
        }
        let (mut removed, mut all) = (0, true);
        for name in &names {
            match self.mutate(unlink(name)).await {
                Ok(_) => removed += 1,
                Err(error) if is_gone(&error) => {}
                Err(error) if is_refusal(&error) => {
                    all = false;
                    failed(error.context(shown(&path_of(path, name))));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((removed, all))
    }

    /// Sets attributes of what is at a path.
    ///
    /// # Errors
    /// `NotPermitted`, `AccessDenied`, `NotFound`.
    pub async fn set_attr(&self, path: &[u8], follow: bool, set: SetAttr) -> Result<Attr> {
        let inode = self.inode(path, follow).await?.inode;
        let done = self.set_attr_inode(inode, set).await;
        done.map_err(|error| error.context(shown(path)))
    }

    /// Sets attributes of an inode.
    ///
    /// # Errors
    /// `NotPermitted`, `AccessDenied`, `Stale`.
    pub async fn set_attr_inode(&self, inode: InodeId, set: SetAttr) -> Result<Attr> {
        attr_of(self.mutate(Op::SetAttr { inode, set }).await?)
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`.
    pub async fn get_xattr(&self, path: &[u8], name: &[u8]) -> Result<Vec<u8>> {
        let inode = self.stat(path).await?.inode;
        let value = self.get_xattr_inode(inode, name).await;
        value.map_err(|error| error.context(shown(path)))
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`.
    pub async fn list_xattr(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let inode = self.stat(path).await?.inode;
        let names = self.list_xattr_inode(inode).await;
        names.map_err(|error| error.context(shown(path)))
    }

    /// The extended attributes whose names begin with `kind`, with their values.
    pub(crate) async fn xattrs_inode(
        &self,
        attr: &Attr,
        kind: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut xattrs = Vec::new();
        if !attr.has_xattrs {
            return Ok(xattrs);
        }
        let names = self.list_xattr_inode(attr.inode).await?;
        for name in names.into_iter().filter(|name| name.starts_with(kind)) {
            match self.get_xattr_inode(attr.inode, &name).await {
                Ok(value) => xattrs.push((name, value)),
                // It was removed meanwhile.
                Err(error) if error.code == Code::NoAttribute => {}
                Err(error) => return Err(error),
            }
        }
        Ok(xattrs)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists`, `NoAttribute` as `mode` says; `TooBig`.
    pub async fn set_xattr(
        &self,
        path: &[u8],
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let op = Op::SetXattr {
            inode: self.stat(path).await?.inode,
            name: name.to_vec(),
            value: value.to_vec(),
            mode,
        };
        let done = self.mutate(op).await.map(drop);
        done.map_err(|error| error.context(shown(path)))
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`.
    pub async fn remove_xattr(&self, path: &[u8], name: &[u8]) -> Result<()> {
        let op = Op::RemoveXattr {
            inode: self.stat(path).await?.inode,
            name: name.to_vec(),
        };
        let done = self.mutate(op).await.map(drop);
        done.map_err(|error| error.context(shown(path)))
    }

    /// What is below a directory, from counters.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub async fn usage(&self, path: &[u8]) -> Result<Usage> {
        let read = Read::Usage {
            view: View::Live,
            dir: self.stat(path).await?.inode,
        };
        match self.read(read).await {
            Ok(ReadReply::Usage {
                bytes,
                files,
                directories,
            }) => Ok(Usage {
                bytes,
                files,
                directories,
            }),
            Ok(_) => Err(unexpected("a usage")),
            Err(error) => Err(error.context(shown(path))),
        }
    }
}
