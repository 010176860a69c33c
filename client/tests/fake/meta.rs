//! The metaserver of the fake cluster: one directory tree without permissions.

use super::{POOL, State};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::*;
use quarry_common::time::Nanos;
use quarry_common::token::{Access, Capability, Receipt};
use quarry_common::wire::meta::*;
use std::collections::{BTreeMap, HashMap};

#[derive(Default)]
pub struct Meta {
    nodes: HashMap<InodeId, Node>,
    last_inode: u64,
    pub sessions: u64,
    /// What the last renewal said is open.
    pub announced: Vec<InodeId>,
    answers: HashMap<(SessionId, RequestNumber), Result<OpReply>>,
    /// The greatest number that each lost session had used.
    pub lost: HashMap<SessionId, RequestNumber>,
    next_chunk: u64,
    /// Chunk ids and the sessions that were given them.
    grants: Vec<(SessionId, Range)>,
    /// Mutations that were carried out, by kind of interest.
    pub appends: u32,
    pub closed: u32,
    /// Dataservers that were reported.
    pub suspects: Vec<ServerId>,
}

struct Node {
    attr: Attr,
    children: BTreeMap<Vec<u8>, InodeId>,
    extents: BTreeMap<u64, (u64, ExtentSource)>,
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn capability(access: Access, first: ChunkId, last: ChunkId) -> Capability {
    Capability {
        key: KeyNumber(1),
        access,
        pool: POOL,
        first,
        last,
        expires_at: u64::MAX,
        mac: [0; 16],
    }
}

/// What is left of an extent from `from` on, of `len` bytes.
fn part(source: &ExtentSource, from: u64, len: u64) -> ExtentSource {
    match source {
        ExtentSource::Inline(bytes) => {
            let start = (from as usize).min(bytes.len());
            let end = ((from + len) as usize).min(bytes.len());
            ExtentSource::Inline(bytes[start..end].to_vec())
        }
        ExtentSource::Chunk { .. } => {
            let mut source = source.clone();
            if let ExtentSource::Chunk { offset, .. } = &mut source {
                offset.0 += from as u32;
            }
            source
        }
    }
}

/// Makes a hole.
fn cut(extents: &mut BTreeMap<u64, (u64, ExtentSource)>, hole: std::ops::Range<u64>) {
    let touched = extents.range(..hole.end);
    let touched = touched.filter(|(at, (len, _))| **at + len > hole.start);
    let touched: Vec<u64> = touched.map(|(at, _)| *at).collect();
    for at in touched {
        let (len, source) = extents.remove(&at).unwrap();
        if at < hole.start {
            let left = hole.start - at;
            extents.insert(at, (left, part(&source, 0, left)));
        }
        if at + len > hole.end {
            let from = hole.end - at;
            extents.insert(hole.end, (len - from, part(&source, from, len - from)));
        }
    }
}

fn no(code: Code, text: &str) -> Error {
    Error::new(code, text)
}

fn receipts_of(op: &Op) -> &[Receipt] {
    match op {
        Op::Publish(Publish {
            contents: Contents::Extents { receipts, .. },
            ..
        })
        | Op::CommitExtents { receipts, .. }
        | Op::Append { receipts, .. } => receipts,
        _ => &[],
    }
}

impl State {
    pub fn answer(&mut self, request: MetaRequest) -> Result<MetaAnswer> {
        let mut lose = false;
        let result = match request.body {
            MetaBody::OpenSession => {
                self.meta.sessions += 1;
                self.faults.sessions_lost = false;
                Ok(MetaReply::Session {
                    session: SessionId(self.meta.sessions),
                    lease_ms: 60_000,
                })
            }
            MetaBody::Map { since, from } => {
                let mut update = self.map.update_since(since, from);
                if std::mem::take(&mut self.faults.map_in_pages) {
                    let rest = update.rows.split_off(update.rows.len() / 2);
                    update.next = rest.first().map(|(pool, pg, _)| (*pool, *pg));
                    self.map.epoch = Epoch(self.map.epoch.0 + 1);
                    let first = &mut self.map.rows.get_mut(&POOL).unwrap()[0];
                    (first.epoch, first.changed_at) = (self.map.epoch, self.map.epoch);
                }
                Ok(MetaReply::Map(update))
            }
            MetaBody::Read(Read::List { dir, .. }) if self.faults.closed.contains(&dir) => {
                Err(no(Code::AccessDenied, "the directory is not yours"))
            }
            MetaBody::Read(read) => self.meta.read(read).map(MetaReply::Read),
            MetaBody::RenewSession(renewal) => {
                self.meta.announced = renewal.open;
                Ok(MetaReply::Renewed)
            }
            MetaBody::CloseSession(_) => {
                self.meta.closed += 1;
                Ok(MetaReply::Renewed)
            }
            MetaBody::Mutate {
                session,
                number,
                answered_below,
                op,
            } => {
                if self.faults.requests_lost > 0 {
                    self.faults.requests_lost -= 1;
                    return Err(no(Code::Disconnected, "the request was lost"));
                }
                if std::mem::take(&mut self.faults.sessions_lost) {
                    let used = self.meta.answers.keys().filter(|(of, _)| *of == session);
                    let last = used.map(|(_, number)| *number).max();
                    self.meta.lost.insert(session, last.unwrap_or_default());
                }
                if let Some(last) = self.meta.lost.get(&session) {
                    // As the state machine says it.
                    Err(match number <= *last {
                        true => no(Code::UnknownOutcome, "it may have been done"),
                        false => no(Code::SessionLost, "the session has ended"),
                    })
                } else if self.faults.overloaded > 0 {
                    self.faults.overloaded -= 1;
                    Err(no(Code::Overloaded, "there is too much to do"))
                } else if self.faults.long_answers && answered_below < number {
                    Err(no(Code::Overloaded, "take up your answers first"))
                } else if self.faults.old_receipts > 0 && !receipts_of(&op).is_empty() {
                    self.faults.old_receipts -= 1;
                    Err(no(Code::OldReceipt, "the members have changed"))
                } else if !self.meta.granted(session, receipts_of(&op)) {
                    Err(no(Code::BadReceipt, "chunks of another session"))
                } else if self.denies(&op) {
                    Err(no(Code::AccessDenied, "the directory is not yours"))
                } else if let Some(code) = self.refuses(&op) {
                    Err(no(code, "such things are refused"))
                } else if let Some(code) = self.remove_first(&op) {
                    Err(no(code, "somebody else has removed it"))
                } else {
                    lose = self.faults.answers_lost > 0;
                    if self.faults.ends_session.take_if(|is| is(&op)).is_some() {
                        self.meta.lost.insert(session, number);
                        lose = true;
                    }
                    self.faults.answers_lost = self.faults.answers_lost.saturating_sub(1);
                    let known = self.meta.answers.get(&(session, number)).cloned();
                    let done = known.unwrap_or_else(|| self.meta.mutate(op));
                    if let Ok(OpReply::Range(grant)) = &done {
                        self.meta.grants.push((session, grant.range));
                    }
                    self.meta.answers.insert((session, number), done.clone());
                    done.map(MetaReply::Done)
                }
            }
            MetaBody::Suspect(server) => {
                self.meta.suspects.push(server);
                Ok(MetaReply::Noted)
            }
            other => Err(Error::bug(format!("the fake does not know {other:?}"))),
        };
        if lose {
            return Err(no(Code::Disconnected, "the answer was lost"));
        }
        Ok(MetaAnswer {
            version: Version(1),
            epoch: self.map.epoch,
            result,
        })
    }
}

impl State {
    fn refuses(&self, op: &Op) -> Option<Code> {
        self.faults.refuses.as_ref()?(op)
    }

    fn denies(&self, op: &Op) -> bool {
        match op {
            Op::Unlink { name, .. } => self.faults.denied.contains(name),
            Op::List { ops, .. } => ops.iter().any(|op| self.denies(op)),
            _ => false,
        }
    }

    /// Removes what an operation is about to remove, if somebody else is to be faster; nothing of a list.
    fn remove_first(&mut self, op: &Op) -> Option<Code> {
        let code = |name: &Vec<u8>| self.faults.removed_first.get(name).copied();
        match op {
            Op::Unlink { parent, name } | Op::Rmdir { parent, name } => {
                let code = code(name)?;
                if let Some(parent) = self.meta.nodes.get_mut(parent) {
                    parent.children.remove(name);
                }
                Some(code)
            }
            Op::List { ops, .. } => ops.iter().find_map(|op| match op {
                Op::Unlink { name, .. } => code(name),
                _ => None,
            }),
            _ => None,
        }
    }
}

impl Meta {
    /// Changes the owner and the group of everything.
    pub fn give_to(&mut self, uid: Uid, gid: Gid) {
        for node in self.nodes.values_mut() {
            (node.attr.uid, node.attr.gid) = (uid, gid);
        }
    }

    /// Forgets an inode that has no name any more.
    pub fn purge(&mut self, inode: InodeId) {
        self.nodes.remove(&inode);
    }

    /// Whether a session may commit these chunks.
    fn granted(&self, session: SessionId, receipts: &[Receipt]) -> bool {
        let own = |chunk: ChunkId| {
            self.grants.iter().any(|(of, range)| {
                let first = range.first.0;
                *of == session && (first..first + u64::from(range.count)).contains(&chunk.0)
            })
        };
        receipts.iter().all(|receipt| own(receipt.chunk))
    }

    fn make(&mut self, parent: InodeId, kind: FileKind, mode: u16) -> Attr {
        self.last_inode = self.last_inode.max(1) + 1;
        let inode = InodeId(self.last_inode);
        let attr = Attr {
            inode,
            kind,
            mode,
            uid: Uid(0),
            gid: Gid(0),
            size: 0,
            stored: 0,
            links: 1,
            device: 0,
            mtime: Nanos(0),
            ctime: Nanos(0),
            atime: Nanos(0),
            btime: Nanos(0),
            parent,
            data_version: Version(1),
            modified_at: Version(1),
            has_xattrs: false,
        };
        let node = Node {
            attr: attr.clone(),
            children: BTreeMap::new(),
            extents: BTreeMap::new(),
            target: Vec::new(),
            xattrs: BTreeMap::new(),
        };
        self.nodes.insert(inode, node);
        attr
    }

    fn node(&mut self, inode: InodeId) -> Result<&mut Node> {
        if self.nodes.is_empty() {
            let mut root = self.make(InodeId::ROOT, FileKind::Directory, 0o755);
            let mut node = self.nodes.remove(&root.inode).unwrap();
            root.inode = InodeId::ROOT;
            node.attr = root;
            self.nodes.insert(InodeId::ROOT, node);
        }
        self.nodes
            .get_mut(&inode)
            .ok_or_else(|| no(Code::Stale, "no such inode"))
    }

    fn child(&mut self, parent: InodeId, name: &[u8]) -> Result<Option<Attr>> {
        let child = self.node(parent)?.children.get(name).copied();
        child
            .map(|inode| Ok(self.node(inode)?.attr.clone()))
            .transpose()
    }

    fn add(&mut self, parent: InodeId, name: Vec<u8>, kind: FileKind, mode: u16) -> Result<Attr> {
        if self.child(parent, &name)?.is_some() {
            return Err(no(Code::Exists, "it exists"));
        }
        let attr = self.make(parent, kind, mode);
        self.node(parent)?.children.insert(name, attr.inode);
        Ok(attr)
    }

    fn extend(
        &mut self,
        inode: InodeId,
        at: u64,
        new: Vec<NewExtent>,
        receipts: &[Receipt],
    ) -> Result<()> {
        let node = self.node(inode)?;
        let mut spans: Vec<_> = new.iter().map(|one| (one.offset.0, one.len)).collect();
        spans.sort_unstable();
        if spans.windows(2).any(|two| two[0].0 + two[0].1 > two[1].0) {
            return Err(no(Code::Malformed, "extents of one commit overlap"));
        }
        for extent in new {
            let source = match extent.source {
                Source::Inline(bytes) => Some(ExtentSource::Inline(bytes)),
                Source::Hole => None,
                Source::Chunk {
                    receipt,
                    chunk_offset,
                } => {
                    let receipt = &receipts[receipt as usize];
                    assert_eq!(receipt.macs.len(), 3, "every member's word");
                    Some(ExtentSource::Chunk {
                        pool: POOL,
                        chunk: receipt.chunk,
                        offset: ChunkOffset(chunk_offset),
                        chunk_len: receipt.len,
                        chunk_crc: receipt.crc,
                        capability: capability(Access::Read, receipt.chunk, receipt.chunk),
                    })
                }
            };
            let offset = at + extent.offset.0;
            cut(&mut node.extents, offset..offset + extent.len);
            if let Some(source) = source {
                node.extents.insert(offset, (extent.len, source));
            }
            node.attr.size = node.attr.size.max(offset + extent.len);
        }
        Ok(())
    }

    fn mutate(&mut self, op: Op) -> Result<OpReply> {
        Ok(match op {
            Op::GrantRange { pool, count } => {
                let first = ChunkId(self.next_chunk + 1);
                self.next_chunk += u64::from(count);
                OpReply::Range(RangeGrant {
                    range: Range { pool, first, count },
                    capability: capability(Access::Write, first, ChunkId(self.next_chunk)),
                })
            }
            Op::Create {
                parent,
                name,
                mode,
                exclusive,
            } => match self.child(parent, &name)? {
                Some(attr) if !exclusive => OpReply::Attr(attr),
                _ => OpReply::Attr(self.add(parent, name, FileKind::File, mode)?),
            },
            Op::Mkdir { parent, name, mode } => {
                OpReply::Attr(self.add(parent, name, FileKind::Directory, mode)?)
            }
            Op::Symlink {
                parent,
                name,
                target,
                mtime,
            } => {
                let attr = self.add(parent, name, FileKind::Symlink, 0o777)?;
                let node = self.node(attr.inode)?;
                node.target = target;
                node.attr.mtime = mtime.unwrap_or_default();
                OpReply::Attr(node.attr.clone())
            }
            Op::Link {
                inode,
                parent,
                name,
            } => {
                self.node(parent)?.children.insert(name, inode);
                let node = self.node(inode)?;
                node.attr.links += 1;
                OpReply::Attr(node.attr.clone())
            }
            Op::Unlink { parent, name } => {
                let removed = self.node(parent)?.children.remove(&name);
                removed.ok_or_else(|| no(Code::NotFound, "no such file"))?;
                OpReply::Nothing
            }
            Op::Rmdir { parent, name } => {
                let child = self.child(parent, &name)?;
                let child = child.ok_or_else(|| no(Code::NotFound, "no such directory"))?;
                if !self.node(child.inode)?.children.is_empty() {
                    return Err(no(Code::NotEmpty, "it is not empty"));
                }
                self.node(parent)?.children.remove(&name);
                OpReply::Nothing
            }
            Op::RemoveTree { .. } => {
                return Err(no(Code::NotPermitted, "not the superuser"));
            }
            Op::SetAttr { inode, set } => {
                let node = self.node(inode)?;
                node.attr.mode = set.mode.unwrap_or(node.attr.mode);
                if let Some(SetTime::To(time)) = set.mtime {
                    node.attr.mtime = time;
                }
                if let Some(size) = set.size {
                    cut(&mut node.extents, size..u64::MAX);
                    node.attr.size = size;
                }
                OpReply::Attr(node.attr.clone())
            }
            Op::Publish(publish) => {
                let inode = match publish.contents {
                    Contents::Unnamed(inode) => inode,
                    Contents::Extents {
                        size,
                        extents,
                        receipts,
                    } => {
                        let inode = self.make(publish.parent, FileKind::File, 0).inode;
                        self.extend(inode, 0, extents, &receipts)?;
                        self.node(inode)?.attr.size = size;
                        inode
                    }
                };
                if !publish.replace && self.child(publish.parent, &publish.name)?.is_some() {
                    return Err(no(Code::Exists, "it exists"));
                }
                let parent = self.node(publish.parent)?;
                parent.children.insert(publish.name, inode);
                let node = self.node(inode)?;
                node.attr.mode = publish.mode;
                node.attr.mtime = publish.mtime.unwrap_or_default();
                node.attr.has_xattrs = !publish.xattrs.is_empty();
                node.xattrs = publish.xattrs.into_iter().collect();
                OpReply::Attr(node.attr.clone())
            }
            Op::CreateUnnamed { parent, mode } => {
                OpReply::Attr(self.make(parent, FileKind::File, mode))
            }
            Op::CommitExtents {
                inode,
                extents,
                receipts,
                size,
                mtime,
            } => {
                self.extend(inode, 0, extents, &receipts)?;
                let node = self.node(inode)?;
                node.attr.mtime = mtime.unwrap_or(node.attr.mtime);
                node.attr.size = node.attr.size.max(size.unwrap_or(0));
                OpReply::Attr(node.attr.clone())
            }
            Op::Append {
                inode,
                extents,
                receipts,
                len,
            } => {
                self.appends += 1;
                let at = self.node(inode)?.attr.size;
                self.extend(inode, at, extents, &receipts)?;
                let node = self.node(inode)?;
                node.attr.size = at + len;
                OpReply::Appended {
                    offset: FileOffset(at),
                    attr: node.attr.clone(),
                }
            }
            Op::SetXattr {
                inode, name, value, ..
            } => {
                let node = self.node(inode)?;
                node.xattrs.insert(name, value);
                node.attr.has_xattrs = true;
                OpReply::Nothing
            }
            Op::List { ops, .. } => {
                let replies = ops.into_iter().map(|op| self.mutate(op));
                OpReply::List(replies.collect::<Result<_>>()?)
            }
            other => return Err(Error::bug(format!("the fake does not know {other:?}"))),
        })
    }

    fn walk(&mut self, path: &[u8]) -> Result<(Attr, Vec<u8>, Option<Attr>)> {
        let mut here = self.node(InodeId::ROOT)?.attr.clone();
        let mut names = path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .peekable();
        if names.peek().is_none() {
            return Ok((here.clone(), Vec::new(), Some(here)));
        }
        while let Some(name) = names.next() {
            if let b"." | b".." = name {
                if name == b".." {
                    here = self.node(here.parent)?.attr.clone();
                }
                if names.peek().is_none() {
                    return Ok((here.clone(), name.to_vec(), Some(here)));
                }
                continue;
            }
            let child = self.child(here.inode, name)?;
            if names.peek().is_none() {
                return Ok((here, name.to_vec(), child));
            }
            here = child.ok_or_else(|| no(Code::NotFound, "no such directory"))?;
        }
        Err(Error::bug("a path without names"))
    }

    fn read(&mut self, read: Read) -> Result<ReadReply> {
        Ok(match read {
            Read::Resolve {
                mut path, follow, ..
            } => {
                let (mut parent, mut name, mut attr) = self.walk(&path)?;
                while let Some(link) = attr
                    .as_ref()
                    .filter(|attr| follow && attr.kind == FileKind::Symlink)
                {
                    let target = self.node(link.inode)?.target.clone();
                    path.truncate(path.len() - name.len());
                    path = match target.starts_with(b"/") {
                        true => target,
                        false => [path, target].concat(),
                    };
                    (parent, name, attr) = self.walk(&path)?;
                }
                if attr.is_none() {
                    return Err(no(Code::NotFound, "no such file"));
                }
                ReadReply::Resolved(Resolved { parent, name, attr })
            }
            Read::ResolveParent { path, .. } => {
                let (parent, name, attr) = self.walk(&path)?;
                if let b"." | b".." = &name[..] {
                    return Err(no(Code::Invalid, "it does not end in a name"));
                }
                ReadReply::Resolved(Resolved { parent, name, attr })
            }
            Read::Lookup { parent, name, .. } => match self.child(parent, &name)? {
                Some(attr) => ReadReply::Attr(attr),
                None => return Err(no(Code::NotFound, "no such file")),
            },
            Read::Stat { inodes, .. } => {
                let attr = |inode| Ok(self.node(inode)?.attr.clone());
                ReadReply::Attrs(inodes.into_iter().map(attr).collect())
            }
            Read::List { dir, after, .. } => {
                let mut entries = Vec::new();
                for (name, inode) in self.node(dir)?.children.clone() {
                    if after.as_ref().is_none_or(|after| name > *after) {
                        let attr = self.node(inode)?.attr.clone();
                        entries.push(DirEntry {
                            name,
                            inode,
                            kind: attr.kind,
                            attr: Some(attr),
                        });
                    }
                }
                let more = entries.len() > 3;
                entries.truncate(3);
                ReadReply::Page(Page { entries, more })
            }
            Read::ListXattr { inode, .. } => {
                ReadReply::Names(self.node(inode)?.xattrs.keys().cloned().collect())
            }
            Read::GetXattr { inode, name, .. } => match self.node(inode)?.xattrs.get(&name) {
                Some(value) => ReadReply::Bytes(value.clone()),
                None => return Err(no(Code::NoAttribute, "no such attribute")),
            },
            Read::ReadLink { inode, .. } => ReadReply::Bytes(self.node(inode)?.target.clone()),
            Read::Extents {
                inode, offset, len, ..
            } => {
                let node = self.node(inode)?;
                let end = offset.0.saturating_add(len);
                let touches = |at: u64, len: u64| at < end && at + len > offset.0;
                let extents = node
                    .extents
                    .iter()
                    .filter(|(at, (len, _))| touches(**at, *len));
                ReadReply::Extents(ExtentPage {
                    size: node.attr.size,
                    data_version: Version(1),
                    extents: extents
                        .map(|(at, (len, source))| Extent {
                            offset: FileOffset(*at),
                            len: *len,
                            source: source.clone(),
                        })
                        .collect(),
                    more: false,
                })
            }
            other => return Err(Error::bug(format!("the fake does not know {other:?}"))),
        })
    }
}
