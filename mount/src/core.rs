//! What all requests of a mount share.

use crate::attributes;
use crate::fs::dir::OpenDir;
use crate::fs::open::OpenFile;
use crate::handles::Handles;
use crate::inodes::Inodes;
use crate::rights::Rights;
use crate::space::Room;
use crate::ttl::Ttl;
use fuser::FileAttr;
use quarry_client::Client;
use quarry_common::wire::meta::{Attr, FileKind};

/// What all requests of a mount share.
pub struct Core {
    /// The client, as the user of the client file.
    pub client: Client,
    /// Whose rights count.
    pub rights: Rights,
    /// What the kernel knows.
    pub inodes: Inodes,
    /// Open files.
    pub files: Handles<OpenFile>,
    /// Open directories.
    pub dirs: Handles<OpenDir>,
    /// How long the kernel may believe what it is told.
    pub ttl: Ttl,
    /// How much room there is.
    pub room: Room,
}

impl Core {
    /// Attributes as the kernel wants to have them.
    pub fn file_attr(&self, attr: &Attr) -> FileAttr {
        let number = self.inodes.number(attr.inode);
        attributes::file_attr(attr, number, self.rights.shown(attr))
    }

    /// The same attributes, with what was written here and is not committed yet.
    ///
    /// # Errors
    /// The failure of a write.
    pub async fn with_written(&self, attr: Attr) -> quarry_common::Result<Attr> {
        if attr.kind != FileKind::File {
            return Ok(attr);
        }
        match self.client.shared_if_open(attr.inode) {
            Some(file) => file.attr().await,
            None => Ok(attr),
        }
    }
}
