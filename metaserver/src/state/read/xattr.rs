//! Reads extended attributes.

use super::Reader;
use crate::kv::{Family, after_prefix};
use crate::state::keys;
use crate::state::ops::xattrs::{check_may_get, is_listed, no_attribute};
use crate::state::records::XattrRecord;
use crate::state::txn::load;
use quarry_common::Result;
use quarry_common::ids::InodeId;
use std::ops::ControlFlow;

impl Reader<'_> {
    /// The value of an attribute.
    pub(super) fn get_xattr(&self, inode: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        let record = self.inode(inode)?;
        check_may_get(self.caller, &record, name)?;
        let found = load::<XattrRecord>(self.state, Family::Xattrs, &keys::xattr(inode, name))?;
        Ok(found.ok_or_else(|| no_attribute(&record, name))?.value)
    }

    /// The names of all attributes that the caller may know of, in byte order.
    pub(super) fn list_xattrs(&self, inode: InodeId) -> Result<Vec<Vec<u8>>> {
        let record = self.inode(inode)?;
        let mut names = Vec::new();
        if record.xattr_names_len == 0 {
            return Ok(names);
        }
        let prefix = keys::inode(inode);
        let to = after_prefix(&prefix);
        self.state
            .scan(Family::Xattrs, &prefix, to.as_deref(), &mut |key, _| {
                let name = &key[prefix.len()..];
                if is_listed(self.caller, name) {
                    names.push(name.to_vec());
                }
                ControlFlow::Continue(())
            })?;
        Ok(names)
    }
}
