//! Names in a tree of the cluster: what is in the way goes first, and what is there already stays.

use super::transfer::Transfer;
use crate::client::Client;
use crate::namespace::attr_of;
use quarry_common::error::{Code, Result};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Attr, Op, XattrMode};

impl Transfer {
    /// Makes a name; one that is in the way goes first if things are replaced, unless it is a directory.
    pub(super) async fn make(
        &self,
        client: &Client,
        (parent, name): (InodeId, &[u8]),
        op: Op,
    ) -> Result<Attr> {
        let made = match client.mutate(op.clone()).await {
            Err(error) if error.code == Code::Exists && self.options.replace => {
                let unlink = Op::Unlink {
                    parent,
                    name: name.to_vec(),
                };
                match client.mutate(unlink).await {
                    Err(gone) if gone.code == Code::NotFound => {}
                    other => drop(other?),
                }
                client.mutate(op).await
            }
            made => made,
        };
        attr_of(made?)
    }

    /// Gives an inode one more name, which it may have already.
    pub(super) async fn link(
        &self,
        client: &Client,
        inode: InodeId,
        (parent, name): (InodeId, &[u8]),
    ) -> Result<()> {
        let op = Op::Link {
            inode,
            parent,
            name: name.to_vec(),
        };
        match client.mutate(op.clone()).await {
            Err(error) if error.code == Code::Exists => {}
            linked => return linked.map(drop),
        }
        let there = client.lookup(parent, name).await;
        if there.is_ok_and(|there| there.inode == inode) {
            return Ok(());
        }
        self.make(client, (parent, name), op).await.map(drop)
    }
}

/// Sets extended attributes of an inode, one after the other.
pub(super) async fn set_xattrs(
    client: &Client,
    inode: InodeId,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<()> {
    for (name, value) in xattrs {
        let op = Op::SetXattr {
            inode,
            name,
            value,
            mode: XattrMode::Set,
        };
        client.mutate(op).await?;
    }
    Ok(())
}
