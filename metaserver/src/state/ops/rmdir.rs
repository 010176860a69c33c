//! Removes an empty directory.

use super::names;
use crate::state::access::shown;
use crate::state::records::InodeRecord;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::OpReply;
use quarry_common::{Code, Error, Result};

/// The directory stays readable, empty, for who has it open.
pub fn rmdir(txn: &mut Txn<'_>, who: &Who<'_>, parent: InodeId, name: &[u8]) -> OpResult<OpReply> {
    let (mut parent_record, dentry) = names::look_up(txn, who, parent, name)?;
    let dentry = dentry.ok_or_else(|| names::not_found(&parent_record, name))?;
    let mut record = txn.referred_inode(dentry.inode)?;
    names::check_may_remove(who, &parent_record, &record)?;
    check_directory(&record)?;
    check_empty(&record)?;
    names::remove(
        txn,
        parent,
        &mut parent_record,
        name,
        dentry.inode,
        &mut record,
    )?;
    txn.put_inode(parent, &mut parent_record);
    txn.put_inode(dentry.inode, &mut record);
    Ok(OpReply::Nothing)
}

/// `NotDirectory` for anything else.
pub fn check_directory(record: &InodeRecord) -> Result<()> {
    if record.is_directory() {
        return Ok(());
    }
    Err(Error::new(
        Code::NotDirectory,
        format!("{} is not a directory", shown(record)),
    ))
}

/// `NotEmpty` for a directory with names in it.
pub fn check_empty(record: &InodeRecord) -> Result<()> {
    if record.entries == 0 {
        return Ok(());
    }
    let entries = match record.entries {
        1 => "1 entry".to_owned(),
        entries => format!("{entries} entries"),
    };
    let text = format!("directory {} is not empty: it has {entries}", shown(record));
    Err(Error::new(Code::NotEmpty, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::consistency::faults;
    use crate::state::testing::{on_both, refusal, root};

    const ROOT: InodeId = InodeId::ROOT;

    #[test]
    fn only_empty_directories_are_removed_and_links_follow() {
        on_both(|world| {
            let before = world.stat(ROOT).unwrap();
            let dir = world.mkdir(&root(), ROOT, "d", 0o755).unwrap().inode;
            assert_eq!(world.stat(ROOT).unwrap().links, before.links + 1);
            world.create(&root(), dir, "a", 0o644).unwrap();
            assert_eq!(refusal(world.rmdir(&root(), ROOT, "d")), Code::NotEmpty);
            assert_eq!(refusal(world.rmdir(&root(), dir, "a")), Code::NotDirectory);
            assert_eq!(refusal(world.rmdir(&root(), ROOT, "none")), Code::NotFound);
            world.unlink(&root(), dir, "a").unwrap();
            world.rmdir(&root(), ROOT, "d").unwrap();
            assert_eq!(world.stat(ROOT).unwrap().links, before.links);
            let gone = world.stat(dir).unwrap();
            assert_eq!((gone.links, gone.size), (0, 0));
            assert_eq!(world.names(dir), Vec::<String>::new());
            assert_eq!(faults(&*world.kv), Vec::<String>::new());
        });
    }
}
