//! Creates or replaces a file with its contents in one step: it appears whole or not at all.

use super::{contents, make, names, xattrs};
use crate::state::extents::Edit;
use crate::state::records::InodeRecord;
use crate::state::session;
use crate::state::stop::OpResult;
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who, stale};
use quarry_common::ids::InodeId;
use quarry_common::limits::FILE_LEN_MAX;
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{Contents, FileKind, NewExtent, OpReply, Publish, XattrMode};
use quarry_common::{Code, Error};

/// What had the name before loses it, and goes when it has no other and nobody has it open. A
/// directory is never replaced.
pub fn publish(txn: &mut Txn<'_>, who: &Who<'_>, publish: &Publish) -> OpResult<OpReply> {
    let Publish { parent, name, .. } = publish;
    session::check_open(txn, who.session)?;
    let (mut parent_record, dentry) = names::look_up(txn, who, *parent, name)?;
    names::check_may_add(who, *parent, &parent_record)?;
    if let Some(dentry) = dentry {
        if dentry.kind == FileKind::Directory {
            let text = format!("'{}' is a directory, which a file does not replace", quoted(name));
            return Err(Error::new(Code::IsDirectory, text).into());
        }
        if !publish.replace {
            return Err(names::exists(*parent, &parent_record, name).into());
        }
        let mut old = txn.referred_inode(dentry.inode)?;
        names::check_may_remove(who, &parent_record, &old)?;
        names::remove(txn, *parent, &mut parent_record, name, dentry.inode, &mut old)?;
        txn.put_inode(dentry.inode, &mut old);
    }
    let (inode, mut record) = match &publish.contents {
        Contents::Extents { size, extents, receipts } => {
            let mut record = make::new_inode(txn, who, &parent_record, FileKind::File, publish.mode);
            let inode = txn.new_inode_id(parent.slot())?;
            fill(txn, who, inode, &mut record, *size, extents, receipts)?;
            (inode, record)
        }
        Contents::Unnamed(inode) => (*inode, take(txn, who, *inode, &parent_record, publish.mode)?),
    };
    names::insert(txn, *parent, &mut parent_record, name, inode, &mut record)?;
    for (attribute, value) in &publish.xattrs {
        xattrs::set(txn, who, inode, &mut record, attribute, value, XattrMode::Set)?;
    }
    record.mtime = publish.mtime.unwrap_or(txn.time());
    record.ctime = txn.time();
    txn.put_inode(*parent, &mut parent_record);
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Attr(txn.attr(inode, &record)?))
}

/// The contents of a new file.
fn fill(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    record: &mut InodeRecord,
    size: u64,
    extents: &[NewExtent],
    receipts: &[Receipt],
) -> OpResult<()> {
    if size > FILE_LEN_MAX {
        return Err(contents::too_long().into());
    }
    let pieces = contents::accept(txn, who, 0, extents, receipts, false)?;
    if pieces.iter().any(|piece| piece.span.end > size) {
        return Err(Error::new(Code::Invalid, format!("an extent goes beyond the {size} bytes of the file")).into());
    }
    let mut edit = Edit::new(txn, inode, record);
    contents::write(&mut edit, pieces)?;
    edit.extend(size);
    edit.finish()
}

/// An unnamed file of the session, with the mode that a new file in that directory would have.
fn take(txn: &mut Txn<'_>, who: &Who<'_>, inode: InodeId, parent: &InodeRecord, mode: u16) -> OpResult<InodeRecord> {
    let record = txn.inode(inode)?;
    let unnamed = record.links == 0 && record.orphaned_at.is_none();
    if !unnamed || !session::holds(txn, who.session, inode)? {
        return Err(stale(inode).context("only a file without a name that the session made can be published").into());
    }
    session::release(txn, who.session, inode);
    let mode = make::new_inode(txn, who, parent, FileKind::File, mode).mode;
    Ok(InodeRecord { mode, ..record })
}
