//! Listing a directory, page by page.

use crate::client::Client;
use crate::meta::unexpected;
use quarry_common::error::Result;
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{DirEntry, Read, ReadReply, View};
use std::collections::VecDeque;

/// Entries asked for at a time: with attributes about 300 KiB.
const PAGE: u32 = 2_048;

/// The entries of a directory in byte order of their names. Each page is from one state; names
/// that come or go between two pages may be seen or not, all others are seen once.
pub struct Dir {
    client: Client,
    dir: InodeId,
    with_attrs: bool,
    page: VecDeque<DirEntry>,
    after: Option<Vec<u8>>,
    more: bool,
}

impl Dir {
    pub(crate) fn new(client: Client, dir: InodeId, with_attrs: bool) -> Dir {
        Dir {
            client,
            dir,
            with_attrs,
            page: VecDeque::new(),
            after: None,
            more: true,
        }
    }

    /// The directory.
    pub fn inode(&self) -> InodeId {
        self.dir
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// `AccessDenied`, `NotDirectory`, `Stale`.
    pub async fn next(&mut self) -> Result<Option<DirEntry>> {
        while self.page.is_empty() && self.more {
            let read = Read::List {
                view: View::Live,
                dir: self.dir,
                after: self.after.take(),
                limit: PAGE,
                with_attrs: self.with_attrs,
            };
            let ReadReply::Page(page) = self.client.read(read).await? else {
                return Err(unexpected("entries of a directory"));
            };
            self.after = page.entries.last().map(|entry| entry.name.clone());
            // A page without entries can not be continued.
            self.more = page.more && self.after.is_some();
            self.page = page.entries.into();
        }
        Ok(self.page.pop_front())
    }
}
