//! `quarry cp`.

use super::for_each;
use crate::context::Context;
use crate::failure::{Failures, Misuse};
use crate::path::{Remote, escaped, join};
use crate::size::umask;
use crate::target::Target;
use anyhow::{Result, bail};
use quarry_client::Client;
use quarry_common::Code;
use quarry_common::ids::{FileOffset, InodeId};
use quarry_common::limits::CHUNK_LEN_MAX;
use quarry_common::wire::meta::{
    Attr, CloneRange, Contents, FileKind, NodeKind, Op, OpReply, Publish, SetAttr, SetTime, View,
    XattrMode,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;

/// Bytes of a file that share their chunks in the first step: an extent is at most a chunk long, so usual
/// files stay well below what one command may hold. Where extents are shorter, steps are; in holes they grow.
const STEP_LEN: u64 = 256 * CHUNK_LEN_MAX as u64;

/// Copy files, or with -r whole trees, within the cluster
///
/// The copies share the chunks of what they were made from: no data moves. A copy appears whole or
/// not at all. Names of one file in what is copied with -r are names of one file in the copy. A file
/// by itself goes where a symbolic link leads.
#[derive(Debug, clap::Args)]
pub struct Cp {
    /// Directories with all that is in them; symbolic links stay links
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Keep modes, times and owners (owners as far as you may set them)
    #[arg(short, long)]
    preserve: bool,
    /// Fail if a file is there already
    #[arg(short, long)]
    no_clobber: bool,
    /// What is to be copied, then where it goes
    #[arg(required = true, num_args = 2.., value_name = "FROM... TO")]
    paths: Vec<OsString>,
}

/// A copy that is under way.
struct Copying<'a> {
    client: &'a Client,
    preserve: bool,
    replace: bool,
    mask: u16,
    /// Files of several names that were copied, and their copies.
    copies: RefCell<HashMap<InodeId, InodeId>>,
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
        context
            .with_client(async |client| {
                let copying = Copying {
                    client,
                    preserve: self.preserve,
                    replace: !self.no_clobber,
                    mask: umask(),
                    copies: RefCell::default(),
                };
                let target = self.target(client, from, to).await?;
                for_each(context, from, async |path| {
                    let attr = match self.recursive {
                        true => client.lstat(path.bytes()).await?,
                        false => client.stat(path.bytes()).await?,
                    };
                    let is_directory = attr.kind == FileKind::Directory;
                    if is_directory && !self.recursive {
                        let text = format!(
                            "{}: is a directory: use -r to copy it with all that is in it",
                            path.shown()
                        );
                        return Err(Misuse::new(text).into());
                    }
                    // As with cp(1), what ends in `.` or `..` stands for its contents.
                    let new = match (path.name(), &target) {
                        (None, Target::Into(dir)) => dir.clone(),
                        (name, target) => target.path_of(name.unwrap_or_default()),
                    };
                    match is_directory {
                        true => {
                            copying
                                .tree(context, path.trimmed(), &attr, new.trimmed())
                                .await
                        }
                        false => copying.one(path.bytes(), &attr, new.bytes(), true).await,
                    }
                })
                .await
            })
            .await
    }

    async fn target(&self, client: &Client, from: &[Remote], to: &Remote) -> Result<Target> {
        match from {
            [one] if self.recursive => Target::find_for_one(client, to, one).await,
            _ => Target::find(client, to, from.len() > 1).await,
        }
    }
}

impl Copying<'_> {
    /// Anything but a directory; `at_top` if it was named itself, and is not in a tree.
    async fn one(&self, from: &[u8], attr: &Attr, to: &[u8], at_top: bool) -> Result<()> {
        if attr.kind == FileKind::File {
            return self.file(from, attr, to, at_top).await.map(drop);
        }
        let made = match self.make(from, attr, to).await {
            Err(error) if error.code == Code::Exists && self.replace => {
                self.client.unlink(to).await?;
                self.make(from, attr, to).await
            }
            made => made,
        };
        self.keep(made?.inode, to, attr).await
    }

    /// What has no data: a symbolic link, a pipe, a device.
    async fn make(&self, from: &[u8], attr: &Attr, to: &[u8]) -> quarry_common::Result<Attr> {
        let node = match attr.kind {
            FileKind::Symlink => {
                let target = self.client.read_link(from).await?;
                return self.client.symlink(&target, to).await;
            }
            FileKind::Fifo => NodeKind::Fifo,
            FileKind::CharDevice => NodeKind::CharDevice(attr.device),
            FileKind::BlockDevice => NodeKind::BlockDevice(attr.device),
            _ => NodeKind::Socket,
        };
        self.client.make_node(to, self.mode(attr), node).await
    }

    /// Anything but a directory, of a tree.
    async fn part(&self, from: &[u8], attr: &Attr, to: &[u8]) -> Result<()> {
        if attr.kind != FileKind::File || attr.links < 2 {
            return self.one(from, attr, to, false).await;
        }
        let known = self.copies.borrow().get(&attr.inode).copied();
        match known {
            Some(copy) => self.link(copy, to).await,
            None => {
                let copy = self.file(from, attr, to, false).await?;
                self.copies.borrow_mut().insert(attr.inode, copy);
                Ok(())
            }
        }
    }

    /// Gives a copy one more name; another file that has it goes.
    async fn link(&self, copy: InodeId, to: &[u8]) -> Result<()> {
        let client = self.client;
        let at = client.resolve_parent(to).await?;
        let link = Op::Link {
            inode: copy,
            parent: at.parent.inode,
            name: at.name.clone(),
        };
        let named = |error: quarry_common::Error| error.context(escaped(to));
        match client.mutate(link.clone()).await {
            Err(error) if error.code == Code::Exists && self.replace => {
                let there = client.lookup(at.parent.inode, &at.name).await?;
                if there.inode != copy {
                    let unlink = Op::Unlink {
                        parent: at.parent.inode,
                        name: at.name,
                    };
                    client.mutate(unlink).await.map_err(named)?;
                    client.mutate(link).await.map_err(named)?;
                }
                Ok(())
            }
            other => Ok(other.map(drop).map_err(named)?),
        }
    }

    /// Assembles the copy in a file without a name, then gives it its name in one step; with `follow` one where a
    /// link leads.
    async fn file(&self, from: &[u8], attr: &Attr, to: &[u8], follow: bool) -> Result<InodeId> {
        let client = self.client;
        let at = match follow {
            true => client.resolve_through(to).await?,
            false => client.resolve_parent(to).await?,
        };
        let there = client.lookup(at.parent.inode, &at.name).await;
        if let Ok(there) = &there {
            if there.inode == attr.inode {
                bail!("{} and {} are the same file", escaped(from), escaped(to));
            }
            if there.kind == FileKind::Directory {
                bail!(
                    "{}: is a directory, the file {} can not replace it",
                    escaped(to),
                    escaped(from)
                );
            }
        }
        // An existing file keeps its permissions, as with cp(1).
        let mode = match (&there, self.preserve) {
            (Ok(there), false) if there.kind == FileKind::File => there.mode,
            _ => self.mode(attr),
        };
        let unnamed = Op::CreateUnnamed {
            parent: at.parent.inode,
            mode,
        };
        let made = client.mutate(unnamed).await;
        let made = made.map_err(|error| error.context(escaped(to)))?;
        let OpReply::Attr(copy) = made else {
            bail!("the metaserver answered something else than a new file");
        };
        let shared = self.share(attr, copy.inode).await;
        shared.map_err(|error| error.context(escaped(from)))?;
        let publish = Op::Publish(Publish {
            parent: at.parent.inode,
            name: at.name,
            mode,
            mtime: self.preserve.then_some(attr.mtime),
            replace: self.replace,
            xattrs: self.xattrs(from, attr).await?,
            contents: Contents::Unnamed(copy.inode),
        });
        let published = client.mutate(publish).await;
        published.map_err(|error| error.context(escaped(to)))?;
        self.keep(copy.inode, to, attr).await?;
        Ok(copy.inode)
    }

    /// Makes the new file share all chunks of the old.
    async fn share(&self, from: &Attr, to: InodeId) -> quarry_common::Result<()> {
        in_steps(from.size, async |offset, len| {
            let clone = Op::Clone(CloneRange {
                view: View::Live,
                from: from.inode,
                from_offset: FileOffset(offset),
                len,
                to,
                to_offset: FileOffset(offset),
            });
            self.client.mutate(clone).await.map(drop)
        })
        .await
    }

    async fn xattrs(&self, from: &[u8], attr: &Attr) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        if self.preserve && attr.has_xattrs {
            for name in self.client.list_xattr(from).await? {
                let value = self.client.get_xattr(from, &name).await?;
                all.push((name, value));
            }
        }
        Ok(all)
    }

    fn mode(&self, attr: &Attr) -> u16 {
        match self.preserve {
            true => attr.mode,
            false => attr.mode & 0o777 & !self.mask,
        }
    }

    /// Sets what a copy that keeps everything keeps.
    async fn keep(&self, copy: InodeId, to: &[u8], attr: &Attr) -> Result<()> {
        if !self.preserve {
            return Ok(());
        }
        let named = |error: quarry_common::Error| error.context(escaped(to));
        let owners = SetAttr {
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            ..SetAttr::default()
        };
        if let Err(error) = self.client.set_attr_inode(copy, owners).await
            && error.code != Code::NotPermitted
        {
            return Err(named(error).into());
        }
        // After the owner: giving a file away takes its set-id bits.
        let set = SetAttr {
            mode: (attr.kind != FileKind::Symlink).then_some(attr.mode),
            mtime: Some(SetTime::To(attr.mtime)),
            ..SetAttr::default()
        };
        self.client.set_attr_inode(copy, set).await.map_err(named)?;
        Ok(())
    }

    /// A directory with all that is in it.
    async fn tree(&self, context: &Context, from: &[u8], attr: &Attr, to: &[u8]) -> Result<()> {
        let inside = to.starts_with(from)
            && (to.len() == from.len() || from == b"/" || to[from.len()] == b'/');
        if inside {
            return Err(into_itself(from, to));
        }
        let mut failures = Failures::new(context);
        let mut waiting = vec![(from.to_vec(), attr.clone(), to.to_vec())];
        let mut made = Vec::new();
        // However the paths are spelled: a copy that is copied again has no end.
        let mut top = None;
        while let Some((from, attr, to)) = waiting.pop() {
            // Only the top may be behind a link, as with cp(1).
            let follow = top.is_none();
            let inode = match self.directory(&from, &to, &attr, follow).await {
                Ok(inode) => inode,
                Err(error) => {
                    failures.report(&error);
                    continue;
                }
            };
            let top = *top.get_or_insert(inode);
            let filled = self.fill(&mut failures, (&from[..], &to[..]), top, &mut waiting);
            if let Err(error) = filled.await {
                failures.report(&error);
            }
            made.push((inode, to, attr));
        }
        // Deepest first, and after all was put into them: what is put in changes their times.
        for (inode, to, attr) in made.iter().rev() {
            if let Err(error) = self.keep(*inode, to, attr).await {
                failures.report(&error);
            }
        }
        failures.end()
    }

    /// Copies what is in a directory but for directories, which go to `waiting`.
    async fn fill(
        &self,
        failures: &mut Failures<'_>,
        (from, to): (&[u8], &[u8]),
        top: InodeId,
        waiting: &mut Vec<(Vec<u8>, Attr, Vec<u8>)>,
    ) -> Result<()> {
        let mut entries = self.client.open_dir(from, true).await?;
        let listed = |error: quarry_common::Error| error.context(escaped(from));
        while let Some(entry) = entries.next().await.map_err(listed)? {
            let (old, new) = (join(from, &entry.name), join(to, &entry.name));
            let found = match entry.attr {
                Some(attr) => Ok(attr),
                None => self.client.lstat(&old).await,
            };
            let copied = match found {
                Ok(attr) if attr.inode == top => Err(into_itself(&old, &new)),
                Ok(attr) if attr.kind == FileKind::Directory => {
                    waiting.push((old, attr, new));
                    Ok(())
                }
                Ok(attr) => self.part(&old, &attr, &new).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = copied {
                failures.report(&error);
            }
        }
        Ok(())
    }

    /// Makes a directory, or takes the one that is there.
    async fn directory(
        &self,
        from: &[u8],
        to: &[u8],
        attr: &Attr,
        follow: bool,
    ) -> Result<InodeId> {
        // The owner must be able to fill it, whatever its mode will be.
        let made = match self.client.mkdir(to, self.mode(attr) | 0o700).await {
            Err(error) if error.code == Code::Exists => {
                let there = match follow {
                    true => self.client.stat(to).await?,
                    false => self.client.lstat(to).await?,
                };
                if there.kind != FileKind::Directory {
                    bail!(
                        "{}: exists and is not a directory, {} can not go there: remove it first",
                        escaped(to),
                        escaped(from)
                    );
                }
                there
            }
            made => made?,
        };
        if made.inode == attr.inode {
            return Err(into_itself(from, to));
        }
        for (name, value) in self.xattrs(from, attr).await? {
            self.client
                .set_xattr(to, &name, &value, XattrMode::Set)
                .await?;
        }
        Ok(made.inode)
    }
}

fn into_itself(from: &[u8], to: &[u8]) -> anyhow::Error {
    let (from, to) = (escaped(from), escaped(to));
    anyhow::anyhow!("{from} can not be copied into itself, {to}")
}

/// Does something to all of `size` bytes, range after range. One in which there is too much for a step is halved;
/// after each that was done the next one is twice as long.
async fn in_steps(
    size: u64,
    each: impl AsyncFn(u64, u64) -> quarry_common::Result<()>,
) -> quarry_common::Result<()> {
    let (mut offset, mut step) = (0, STEP_LEN);
    while offset < size {
        let len = step.min(size - offset);
        match each(offset, len).await {
            Ok(()) => {
                offset += len;
                step = step.saturating_mul(2);
            }
            // A power of two, so that chunks are cut at few places.
            Err(error) if error.code == Code::TooBig && len > 1 => {
                step = (len / 2).next_power_of_two();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::Error;

    #[tokio::test]
    async fn a_file_of_many_extents_is_shared_in_shorter_steps_that_grow_again() {
        // Records of ten bytes, then long extents.
        let (records_end, size) = (50_000, 100 * STEP_LEN);
        let done = RefCell::new(Vec::new());
        let refused = RefCell::new(0);
        let shared = in_steps(size, async |offset, len| {
            let records = records_end.min(offset + len).saturating_sub(offset) / 10;
            if records > 1_000 {
                *refused.borrow_mut() += 1;
                return Err(Error::new(Code::TooBig, "too many extents"));
            }
            done.borrow_mut().push((offset, len));
            Ok(())
        });
        shared.await.unwrap();
        let done = done.into_inner();
        let mut end = 0;
        for (offset, len) in &done {
            assert_eq!(*offset, end);
            end += len;
        }
        assert_eq!(end, size);
        assert!(done.len() < 150, "{}", done.len());
        assert!(refused.into_inner() < 50);
        let never = in_steps(5, async |_, _| Err(Error::new(Code::TooBig, "one byte")));
        assert_eq!(never.await.unwrap_err().code, Code::TooBig);
    }
}
