//! Walks paths, as path_resolution(7) says.

use super::Reader;
use crate::state::access::{self, Want, shown};
use crate::state::records::InodeRecord;
use crate::state::text::quoted;
use quarry_common::ids::InodeId;
use quarry_common::limits::{PATH_LEN_MAX, SYMLINKS_MAX};
use quarry_common::wire::meta::{FileKind, Resolved};
use quarry_common::{Code, Error, Result};
use std::borrow::Cow;

/// Where a walk is.
struct Place {
    inode: InodeId,
    record: InodeRecord,
}

/// How the last name of a path is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// It must exist; a symbolic link is followed.
    Follow,
    /// It must exist; a symbolic link is the end, unless a slash follows it.
    Stay,
    /// It need not exist; a symbolic link is the end.
    Parent,
}

impl Reader<'_> {
    /// The end of a path, which exists.
    pub(super) fn resolve(&self, base: InodeId, path: &[u8], follow: bool) -> Result<Resolved> {
        self.walk(base, path, if follow { Last::Follow } else { Last::Stay })
    }

    /// The directory of the last name of a path, and what that leads to, if anything.
    pub(super) fn resolve_parent(&self, base: InodeId, path: &[u8]) -> Result<Resolved> {
        self.walk(base, path, Last::Parent)
    }

    fn walk(&self, base: InodeId, path: &[u8], last: Last) -> Result<Resolved> {
        let whole = path;
        let refuse = |code, why: &str| Err(Error::new(code, format!("'{}': {why}", quoted(whole))));
        if path.len() > PATH_LEN_MAX {
            let text = format!(
                "a path of {} bytes is too long, {PATH_LEN_MAX} are the most",
                path.len()
            );
            return Err(Error::new(Code::NameTooLong, text));
        }
        if path.contains(&0) {
            return refuse(Code::Invalid, "a path has no NUL");
        }
        let mut at = self.start(base, path)?;
        let mut rest = Cow::Borrowed(path);
        let mut links_left = SYMLINKS_MAX;
        // The parent and the name of `at`, as walked; none at the start and after `.` and `..`.
        let mut walked: Option<(Place, Vec<u8>)> = None;
        while let Some(step) = Step::next(&rest) {
            if !at.record.is_directory() {
                return refuse(
                    Code::NotDirectory,
                    &format!("{} is not a directory", shown(&at.record)),
                );
            }
            access::check(self.caller, &at.record, Want::SEARCH)
                .map_err(|error| error.context(format!("'{}'", quoted(whole))))?;
            if let b"." | b".." = step.name {
                if step.is_last && last == Last::Parent {
                    return refuse(
                        Code::Invalid,
                        "a path that ends in '.' or '..' does not end in a name",
                    );
                }
                if step.name == b".." {
                    at = self.parent(&at)?;
                }
                walked = None;
            } else {
                let Some(dentry) = self.dentry(at.inode, &at.record, step.name)? else {
                    if step.is_last && last == Last::Parent {
                        let parent = self.attr(at.inode, &at.record)?;
                        return Ok(Resolved {
                            parent,
                            name: step.name.to_vec(),
                            attr: None,
                        });
                    }
                    let why = format!(
                        "there is no '{}' in directory {}",
                        quoted(step.name),
                        shown(&at.record)
                    );
                    return refuse(Code::NotFound, &why);
                };
                let found = Place {
                    inode: dentry.inode,
                    record: self.inode(dentry.inode)?,
                };
                let follow = match last {
                    _ if !step.is_last => true,
                    Last::Follow => true,
                    Last::Stay => step.slash_follows,
                    Last::Parent => false,
                };
                if found.record.kind == FileKind::Symlink && follow {
                    if links_left == 0 {
                        return refuse(
                            Code::TooManySymlinks,
                            &format!("more than {SYMLINKS_MAX} symbolic links on the way"),
                        );
                    }
                    links_left -= 1;
                    let target = found.record.target;
                    if target.first() == Some(&b'/') {
                        at = self.start(InodeId::ROOT, &[])?;
                        walked = None;
                    }
                    let mut joined = target;
                    // With its slash: a link before one must lead to a directory.
                    joined.extend_from_slice(&rest[step.end..]);
                    rest = Cow::Owned(joined);
                    continue;
                }
                if step.is_last && step.slash_follows && !found.record.is_directory() {
                    let why = format!("'{}' is not a directory", quoted(step.name));
                    return refuse(Code::NotDirectory, &why);
                }
                let name = step.name.to_vec();
                walked = Some((std::mem::replace(&mut at, found), name));
            }
            let end = step.end;
            match &mut rest {
                Cow::Borrowed(path) => *path = &path[end..],
                Cow::Owned(path) => {
                    path.drain(..end);
                }
            }
        }
        if path.ends_with(b"/") && !at.record.is_directory() {
            return refuse(
                Code::NotDirectory,
                &format!("{} is not a directory", shown(&at.record)),
            );
        }
        let (parent, name) = match walked {
            Some(walked) => walked,
            None => (self.parent(&at)?, at.record.name.clone()),
        };
        Ok(Resolved {
            parent: self.attr(parent.inode, &parent.record)?,
            name,
            attr: Some(self.attr(at.inode, &at.record)?),
        })
    }

    fn start(&self, base: InodeId, path: &[u8]) -> Result<Place> {
        let inode = if path.first() == Some(&b'/') {
            InodeId::ROOT
        } else {
            base
        };
        Ok(Place {
            inode,
            record: self.inode(inode)?,
        })
    }

    /// The directory above; of `/` and of what has no name, itself.
    fn parent(&self, at: &Place) -> Result<Place> {
        let inode = at.record.parent;
        Ok(Place {
            inode,
            record: self.inode(inode)?,
        })
    }
}

/// The first name of a path.
struct Step<'a> {
    name: &'a [u8],
    /// Where the name ends in the path.
    end: usize,
    /// Whether no name follows.
    is_last: bool,
    /// Whether a slash follows.
    slash_follows: bool,
}

impl Step<'_> {
    fn next(path: &[u8]) -> Option<Step<'_>> {
        let start = path.iter().position(|byte| *byte != b'/')?;
        let len = path[start..].iter().position(|byte| *byte == b'/');
        let end = len.map_or(path.len(), |len| start + len);
        let after = &path[end..];
        Some(Step {
            name: &path[start..end],
            end,
            is_last: after.iter().all(|byte| *byte == b'/'),
            slash_follows: !after.is_empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::state::testing::{World, on_both, refusal, root, user};
    use quarry_common::ids::InodeId;
    use quarry_common::wire::meta::{Read, ReadReply, Resolved, View};
    use quarry_common::{Code, Result};

    const ROOT: InodeId = InodeId::ROOT;

    fn resolved(reply: Result<ReadReply>) -> Result<Resolved> {
        match reply? {
            ReadReply::Resolved(resolved) => Ok(resolved),
            other => panic!("{other:?}"),
        }
    }

    fn resolve(world: &World, base: InodeId, path: &str, follow: bool) -> Result<Resolved> {
        let path = path.as_bytes().to_vec();
        resolved(world.read(
            &root(),
            Read::Resolve {
                view: View::Live,
                base,
                path,
                follow,
            },
        ))
    }

    fn parent(world: &World, path: &str) -> Result<Resolved> {
        let path = path.as_bytes().to_vec();
        resolved(world.read(
            &root(),
            Read::ResolveParent {
                view: View::Live,
                base: ROOT,
                path,
            },
        ))
    }

    /// `/a/b/file`, `/link -> a/b`, `/a/up -> ../a/b/file`, `/abs -> /a`, `/loop -> loop`, `/gone -> none`
    fn tree(world: &mut World) -> [InodeId; 3] {
        let a = world.mkdir(&root(), ROOT, "a", 0o755).unwrap().inode;
        let b = world.mkdir(&root(), a, "b", 0o755).unwrap().inode;
        let file = world.create(&root(), b, "file", 0o644).unwrap().inode;
        world.symlink(ROOT, "link", "a/b");
        world.symlink(a, "up", "../a/b/file");
        world.symlink(ROOT, "abs", "/a/");
        world.symlink(ROOT, "loop", "loop");
        world.symlink(ROOT, "gone", "none");
        [a, b, file]
    }

    #[test]
    fn paths_lead_where_posix_says() {
        on_both(|world| {
            let [a, b, file] = tree(world);
            for (base, path, inode, parent, name) in [
                (ROOT, "/", ROOT, ROOT, ""),
                (ROOT, "", ROOT, ROOT, ""),
                (b, "", b, a, "b"),
                (b, "/a", a, ROOT, "a"),
                (ROOT, "a//b/./file", file, b, "file"),
                (ROOT, "/a/b/", b, a, "b"),
                (b, "../..", ROOT, ROOT, ""),
                (ROOT, "/../../a", a, ROOT, "a"),
                (b, "..", a, ROOT, "a"),
                (b, ".", b, a, "b"),
                (ROOT, "link/file", file, b, "file"),
                (ROOT, "link/../b", b, a, "b"),
                (ROOT, "link/", b, a, "b"),
                (ROOT, "a/up", file, b, "file"),
                (ROOT, "abs/b", b, a, "b"),
                (b, "/abs", a, ROOT, "a"),
            ] {
                let found = resolve(world, base, path, true).unwrap();
                assert_eq!(found.attr.unwrap().inode, inode, "{path}");
                assert_eq!(
                    (found.parent.inode, &found.name[..]),
                    (parent, name.as_bytes()),
                    "{path}"
                );
            }
            let link = resolve(world, ROOT, "link", false).unwrap();
            assert_eq!((link.parent.inode, &link.name[..]), (ROOT, &b"link"[..]));
            assert_eq!(
                resolve(world, ROOT, "link/", false)
                    .unwrap()
                    .attr
                    .unwrap()
                    .inode,
                b
            );
        });
    }

    #[test]
    fn paths_that_lead_nowhere_are_refused() {
        on_both(|world| {
            tree(world);
            for (path, code) in [
                ("none", Code::NotFound),
                ("none/a", Code::NotFound),
                ("gone", Code::NotFound),
                ("a/b/file/", Code::NotDirectory),
                ("a/b/file/x", Code::NotDirectory),
                ("a/b/file/..", Code::NotDirectory),
                ("a/up/", Code::NotDirectory),
                ("loop", Code::TooManySymlinks),
                ("a\0b", Code::Invalid),
                (&"x".repeat(256), Code::NameTooLong),
                (&"a/../".repeat(900), Code::NameTooLong),
            ] {
                assert_eq!(refusal(resolve(world, ROOT, path, true)), code, "{path}");
            }
            let error = resolve(world, ROOT, "/a/x/y", true).unwrap_err();
            assert_eq!(error.text, "'/a/x/y': there is no 'x' in directory 'a'");
        });
    }

    #[test]
    fn forty_symbolic_links_are_followed_and_no_more() {
        let mut world = World::in_memory();
        world.create(&root(), ROOT, "0", 0o644).unwrap();
        for link in 1..=41 {
            world.symlink(ROOT, &link.to_string(), &(link - 1).to_string());
        }
        assert!(resolve(&world, ROOT, "40", true).is_ok());
        assert_eq!(
            refusal(resolve(&world, ROOT, "41", true)),
            Code::TooManySymlinks
        );
    }

    #[test]
    fn the_parent_of_a_new_name_is_found_whether_the_name_exists_or_not() {
        on_both(|world| {
            let [_, b, file] = tree(world);
            for (path, inode, name) in [
                ("link/new", None, "new"),
                ("link/new/", None, "new"),
                ("/a/b/file", Some(file), "file"),
            ] {
                let found = parent(world, path).unwrap();
                assert_eq!(
                    (found.parent.inode, &found.name[..]),
                    (b, name.as_bytes()),
                    "{path}"
                );
                assert_eq!(found.attr.map(|attr| attr.inode), inode, "{path}");
            }
            // The link itself, not what it leads to.
            let link = parent(world, "gone").unwrap();
            assert_eq!((link.parent.inode, &link.name[..]), (ROOT, &b"gone"[..]));
            assert_eq!(parent(world, "/").unwrap().name, b"");
            assert_eq!(refusal(parent(world, "a/..")), Code::Invalid);
            assert_eq!(refusal(parent(world, "none/x")), Code::NotFound);
            assert_eq!(refusal(parent(world, "a/b/file/")), Code::NotDirectory);
        });
    }

    #[test]
    fn every_directory_on_the_way_must_be_searchable() {
        on_both(|world| {
            let closed = world.mkdir(&root(), ROOT, "closed", 0o600).unwrap().inode;
            world.mkdir(&root(), closed, "in", 0o777).unwrap();
            let ann = user(1000, &[1000]);
            let walk = |path: &str| {
                let path = path.as_bytes().to_vec();
                resolved(world.read(
                    &ann,
                    Read::Resolve {
                        view: View::Live,
                        base: ROOT,
                        path,
                        follow: true,
                    },
                ))
            };
            assert!(walk("closed").is_ok());
            for path in ["closed/in", "closed/none", "closed/..", "closed/."] {
                assert_eq!(refusal(walk(path)), Code::AccessDenied, "{path}");
            }
        });
    }
}
