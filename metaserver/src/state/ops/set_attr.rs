//! Sets attributes, as chmod(2), chown(2), utimensat(2) and ftruncate(2) say.

use crate::kv::Family;
use crate::state::access::{self, Want, check_owner, in_group, shown};
use crate::state::depth;
use crate::state::extents::Edit;
use crate::state::keys;
use crate::state::records::{AtimeRecord, Flags, InodeRecord};
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::{Gid, InodeId, Uid};
use quarry_common::limits::FILE_LEN_MAX;
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{FileKind, OpReply, SetAttr, SetTime};
use quarry_common::{Code, Error, Result};

const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const GROUP_EXECUTES: u16 = 0o010;

/// All that is asked for, or nothing. What asks for nothing changes nothing.
pub fn set_attr(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    set: &SetAttr,
) -> OpResult<OpReply> {
    let mut record = txn.inode(inode)?;
    if *set == SetAttr::default() {
        return Ok(OpReply::Attr(txn.attr(inode, &record)?));
    }
    // Every check is about the inode as it was.
    check_owners(who, &record, set)?;
    check_mode(who, &record, set.mode)?;
    for time in [set.mtime, set.atime].into_iter().flatten() {
        check_time(who, &record, time)?;
    }
    if let Some(size) = set.size {
        check_size(who, &record, size)?;
    }

    if let Some(size) = set.size {
        if size != record.size {
            if record.links > 0 {
                depth::check(txn, record.parent, 0)?;
            }
            let mut edit = Edit::new(txn, inode, &mut record);
            edit.truncate(size)?;
            edit.touch();
            edit.finish()?;
        }
        record.mtime = txn.time();
        if !who.caller.superuser {
            drop_privileges(who, &mut record);
        }
    }
    if set.uid.is_some() || set.gid.is_some() {
        if !record.is_directory() {
            // By the group that it had, as Linux does.
            drop_privileges(who, &mut record);
        }
        record.uid = set.uid.unwrap_or(record.uid);
        record.gid = set.gid.unwrap_or(record.gid);
    }
    if let Some(mode) = set.mode {
        record.mode = mode & 0o7777;
        if !who.caller.superuser && !in_group(who.caller, record.gid) {
            record.mode &= !SET_GID;
        }
    }
    if let Some(time) = set.mtime {
        record.mtime = point(txn, time);
    }
    if let Some(time) = set.atime {
        let atime = AtimeRecord {
            atime: point(txn, time),
        };
        txn.put(Family::Atimes, keys::inode(inode), &atime);
        record.flags.set(Flags::HAS_ATIME, true);
    }
    record.ctime = txn.time();
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Attr(txn.attr(inode, &record)?))
}

/// A superuser gives a file to anybody; an owner to another group of its own. What is set to what
/// it is already needs ownership only.
fn check_owners(who: &Who<'_>, record: &InodeRecord, set: &SetAttr) -> Result<()> {
    let (uid, gid) = (set.uid, set.gid);
    if (uid.is_none() && gid.is_none()) || who.caller.superuser {
        return Ok(());
    }
    check_owner(who.caller, record, "change the owner or group of")?;
    let refuse = |text: String| Err(Error::new(Code::NotPermitted, text));
    if uid.is_some_and(|uid: Uid| uid != record.uid) {
        return refuse(format!(
            "only a superuser may give {} to another user",
            shown(record)
        ));
    }
    if gid.is_some_and(|gid: Gid| gid != record.gid && !in_group(who.caller, gid)) {
        return refuse(format!(
            "user {} is not in the group that {} is to have",
            who.caller.uid,
            shown(record)
        ));
    }
    Ok(())
}

fn check_mode(who: &Who<'_>, record: &InodeRecord, mode: Option<u16>) -> Result<()> {
    if mode.is_none() {
        return Ok(());
    }
    check_owner(who.caller, record, "change the mode of")?;
    if record.kind == FileKind::Symlink {
        let text = format!(
            "{} is a symbolic link, which has no mode of its own",
            shown(record)
        );
        return Err(Error::new(Code::NotSupported, text));
    }
    Ok(())
}

/// Who may write may say that it is now; any other time is for the owner.
fn check_time(who: &Who<'_>, record: &InodeRecord, time: SetTime) -> Result<()> {
    match time {
        SetTime::Now if access::owns(who.caller, record) => Ok(()),
        SetTime::Now => access::check(who.caller, record, Want::WRITE),
        SetTime::To(_) => check_owner(who.caller, record, "set the times of"),
    }
}

/// An owner may, whatever the mode: a file that was opened for writing when it was made stays
/// open for writing, which only its client knows. The client asks for `truncate` by path.
fn check_size(who: &Who<'_>, record: &InodeRecord, size: u64) -> Result<()> {
    match record.kind {
        FileKind::File => {}
        FileKind::Directory => {
            let text = format!(
                "{} is a directory, which has no length to set",
                shown(record)
            );
            return Err(Error::new(Code::IsDirectory, text));
        }
        _ => {
            let text = format!(
                "{} is not a regular file, only these have a length",
                shown(record)
            );
            return Err(Error::new(Code::Invalid, text));
        }
    }
    if !access::owns(who.caller, record) {
        access::check(who.caller, record, Want::WRITE)?;
    }
    if size > FILE_LEN_MAX {
        let text = format!(
            "{} can not have {size} bytes, {FILE_LEN_MAX} are the most",
            shown(record)
        );
        return Err(Error::new(Code::FileTooBig, text));
    }
    Ok(())
}

/// A program that somebody else may have changed no longer runs with its owner's rights. Without
/// group execution the set-group-id bit is no such right, and stays for members.
pub fn drop_privileges(who: &Who<'_>, record: &mut InodeRecord) {
    record.mode &= !SET_UID;
    let may_keep = who.caller.superuser || in_group(who.caller, record.gid);
    if record.mode & GROUP_EXECUTES != 0 || !may_keep {
        record.mode &= !SET_GID;
    }
}

fn point(txn: &Txn<'_>, time: SetTime) -> Nanos {
    match time {
        SetTime::Now => txn.time(),
        SetTime::To(time) => time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, on_both, refusal, root, user};
    use quarry_common::wire::meta::{Attr, Caller, Op};

    const ROOT: InodeId = InodeId::ROOT;

    fn set(world: &mut World, caller: &Caller, inode: InodeId, set: SetAttr) -> Result<Attr> {
        world.attr_of(caller, Op::SetAttr { inode, set })
    }

    fn mode(mode: u16) -> SetAttr {
        SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        }
    }

    fn owner(uid: Option<u32>, gid: Option<u32>) -> SetAttr {
        SetAttr {
            uid: uid.map(Uid),
            gid: gid.map(Gid),
            ..SetAttr::default()
        }
    }

    /// A directory where everybody may make files, and ann in groups 1000 and 7.
    fn begin(world: &mut World) -> (InodeId, Caller) {
        let dir = world.mkdir(&root(), ROOT, "d", 0o777).unwrap().inode;
        (dir, user(1000, &[1000, 7]))
    }

    #[test]
    fn owners_change_modes_and_others_do_not() {
        on_both(|world| {
            let (dir, ann) = begin(world);
            let file = world.create(&ann, dir, "a", 0o644).unwrap();
            assert_eq!(
                refusal(set(world, &user(1, &[1000]), file.inode, mode(0o777))),
                Code::NotPermitted
            );
            let changed = set(world, &ann, file.inode, mode(0o6755)).unwrap();
            assert_eq!(changed.mode, 0o6755);
            assert_eq!(
                (changed.mtime, changed.data_version),
                (file.mtime, file.data_version)
            );
            assert!(changed.ctime > file.ctime);
            let link = world.symlink(dir, "l", "a").inode;
            assert_eq!(
                refusal(set(world, &root(), link, mode(0o777))),
                Code::NotSupported
            );
            // A group that ann is not in: no program of hers runs as it.
            set(world, &root(), file.inode, owner(None, Some(99))).unwrap();
            assert_eq!(
                set(world, &ann, file.inode, mode(0o2755)).unwrap().mode,
                0o755
            );
            // Without group execution the bit stays for members of the group that the file had: not of the new one.
            for (group, kept) in [(99, 0o644), (1000, 0o2644)] {
                set(world, &root(), file.inode, owner(None, Some(group))).unwrap();
                set(world, &root(), file.inode, mode(0o2644)).unwrap();
                let given = set(world, &ann, file.inode, owner(None, Some(7)));
                assert_eq!(given.unwrap().mode, kept, "from {group}");
            }
        });
    }

    #[test]
    fn files_are_given_away_by_superusers_and_groups_by_members() {
        on_both(|world| {
            let (dir, ann) = begin(world);
            let file = world.create(&ann, dir, "a", 0o644).unwrap().inode;
            assert_eq!(
                refusal(set(world, &ann, file, owner(Some(1), None))),
                Code::NotPermitted
            );
            assert_eq!(
                refusal(set(world, &ann, file, owner(None, Some(8)))),
                Code::NotPermitted
            );
            assert_eq!(
                set(world, &ann, file, owner(Some(1000), Some(7)))
                    .unwrap()
                    .gid,
                Gid(7)
            );
            set(world, &ann, file, mode(0o6755)).unwrap();
            // Set-user-id and set-group-id do not survive a change of owner, root's neither.
            let given = set(world, &root(), file, owner(Some(1), None)).unwrap();
            assert_eq!((given.uid, given.mode), (Uid(1), 0o755));
            assert_eq!(
                refusal(set(world, &ann, file, owner(None, Some(7)))),
                Code::NotPermitted
            );
            // Of a directory the bit only says which group its files get.
            let sub = world.mkdir(&ann, dir, "sub", 0o2755).unwrap().inode;
            assert_eq!(
                set(world, &ann, sub, owner(None, Some(7))).unwrap().mode,
                0o2755
            );
        });
    }

    #[test]
    fn now_is_for_writers_and_other_times_for_owners() {
        on_both(|world| {
            let (dir, ann) = begin(world);
            let file = world.create(&ann, dir, "a", 0o666).unwrap();
            let times = |time| SetAttr {
                mtime: Some(time),
                atime: Some(time),
                ..SetAttr::default()
            };
            let other = user(1, &[1]);
            let past = SetTime::To(Nanos(-77));
            assert_eq!(
                refusal(set(world, &other, file.inode, times(past))),
                Code::NotPermitted
            );
            let now = set(world, &other, file.inode, times(SetTime::Now)).unwrap();
            assert!(now.mtime > file.mtime && now.atime == now.mtime);
            let then = set(world, &ann, file.inode, times(past)).unwrap();
            assert_eq!((then.mtime, then.atime), (Nanos(-77), Nanos(-77)));
            assert!(then.ctime > now.ctime);
            assert_eq!(then.data_version, file.data_version);
            assert_eq!(world.stat(file.inode).unwrap(), then);
            set(world, &ann, file.inode, mode(0o644)).unwrap();
            assert_eq!(
                refusal(set(world, &other, file.inode, times(SetTime::Now))),
                Code::AccessDenied
            );
        });
    }

    #[test]
    fn a_size_is_for_files_and_changes_what_readers_see() {
        on_both(|world| {
            let (dir, ann) = begin(world);
            let size = |size| SetAttr {
                size: Some(size),
                ..SetAttr::default()
            };
            let file = world.put(dir, "a", b"contents");
            assert_eq!(
                refusal(set(world, &ann, file.inode, size(1))),
                Code::AccessDenied
            );
            let cut = set(world, &root(), file.inode, size(3)).unwrap();
            assert_eq!(cut.size, 3);
            assert!(cut.data_version > file.data_version && cut.mtime > file.mtime);
            let same = set(world, &root(), file.inode, size(3)).unwrap();
            assert_eq!(same.data_version, cut.data_version);
            assert_eq!(
                refusal(set(world, &root(), file.inode, size(1 << 63))),
                Code::FileTooBig
            );
            assert_eq!(
                refusal(set(world, &root(), dir, size(0))),
                Code::IsDirectory
            );
            assert_eq!(
                crate::state::consistency::faults(&*world.kv),
                Vec::<String>::new()
            );
            // Who opened a file for writing when it was made goes on, and its privileges go.
            let own = world.create(&ann, dir, "b", 0o4555).unwrap().inode;
            let grown = set(world, &ann, own, size(10)).unwrap();
            assert_eq!((grown.size, grown.mode), (10, 0o555));
        });
    }

    #[test]
    fn one_refusal_refuses_all_and_nothing_asked_changes_nothing() {
        on_both(|world| {
            let (dir, ann) = begin(world);
            let file = world.create(&ann, dir, "a", 0o644).unwrap();
            let both = SetAttr {
                mode: Some(0o777),
                uid: Some(Uid(1)),
                ..SetAttr::default()
            };
            assert_eq!(
                refusal(set(world, &ann, file.inode, both)),
                Code::NotPermitted
            );
            assert_eq!(world.stat(file.inode).unwrap(), file);
            assert_eq!(
                set(world, &user(9, &[]), file.inode, SetAttr::default()).unwrap(),
                file
            );
            assert_eq!(
                refusal(set(world, &ann, InodeId(999), mode(0o777))),
                Code::Stale
            );
        });
    }
}
