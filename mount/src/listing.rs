//! A directory that is being listed: positions that stay good while it changes.
//!
//! The cluster lists by name, from after a name on; the kernel wants positions that are numbers. So entries are counted as they
//! are handed out, and the place of each page is remembered by the name before it. The last pages are kept: who goes back
//! further is given the entries that come after that name now, counted anew.

use quarry_client::Client;
use quarry_common::error::Result;
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{DirEntry, Page};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Pages that are kept.
const KEPT_PAGES: usize = 3;

/// Entries of a page, without and with attributes: about 300 KiB in either case.
const PAGE_ENTRIES: (u32, u32) = (4_096, 2_048);

/// A directory that is being listed.
#[derive(Debug)]
pub struct Listing {
    dir: InodeId,
    with_attrs: bool,
    places: Mutex<Places>,
}

/// Some entries, of one state of the directory.
#[derive(Debug)]
pub struct Entries {
    /// The number of the first.
    first: u64,
    entries: Vec<DirEntry>,
}

impl Entries {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Entries from a number on, each with its number.
    pub fn from(&self, number: u64) -> impl Iterator<Item = (u64, &DirEntry)> {
        let skipped = number.saturating_sub(self.first) as usize;
        (number..).zip(self.entries.iter().skip(skipped))
    }
}

/// What is known of the numbers of entries.
#[derive(Debug)]
struct Places {
    /// Where pages begin, ascending: the number of the first entry, and the name before it.
    pages: Vec<(u64, Option<Vec<u8>>)>,
    kept: VecDeque<Arc<Entries>>,
    /// What comes after the last page that was fetched.
    next: (u64, Option<Vec<u8>>),
    more: bool,
}

/// Where an entry is.
#[derive(Debug)]
enum Place {
    Here(Arc<Entries>),
    /// In a page that is to be fetched: the one after this name.
    After(Option<Vec<u8>>),
    /// Behind the last entry.
    End,
}

impl Places {
    fn new() -> Places {
        Places {
            pages: Vec::new(),
            kept: VecDeque::new(),
            next: (0, None),
            more: true,
        }
    }

    /// Where the entry of a number is. Who goes back behind what is kept has the pages from there on counted anew.
    fn of(&mut self, number: u64) -> Place {
        let has = |page: &&Arc<Entries>| page.first <= number && number < page.end();
        if let Some(page) = self.kept.iter().find(has) {
            return Place::Here(page.clone());
        }
        if number < self.next.0 {
            let after = self.pages.partition_point(|(first, _)| *first <= number);
            // The first page begins with number 0.
            let at = after.saturating_sub(1);
            if let Some(page) = self.pages.get(at).cloned() {
                self.pages.truncate(at);
                self.kept.clear();
                self.next = page;
                self.more = true;
            }
        }
        match self.more {
            true => Place::After(self.next.1.clone()),
            false => Place::End,
        }
    }

    /// Takes the page after the last one.
    fn take(&mut self, page: Page) {
        let (first, after) = self.next.clone();
        let last = page.entries.last().map(|entry| entry.name.clone());
        self.more = page.more && last.is_some();
        let Some(last) = last else {
            return;
        };
        let entries = Entries {
            first,
            entries: page.entries,
        };
        self.pages.push((first, after));
        self.next = (entries.end(), Some(last));
        if self.kept.len() == KEPT_PAGES {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::new(entries));
    }
}

impl Listing {
    /// Of a directory; nothing is asked for yet.
    pub fn new(dir: InodeId, with_attrs: bool) -> Listing {
        Listing {
            dir,
            with_attrs,
            places: Mutex::new(Places::new()),
        }
    }

    /// Begins again, with the directory as it is now.
    pub async fn rewind(&self) {
        *self.places.lock().await = Places::new();
    }

    /// Entries from a number on: `None` at the end.
    ///
    /// # Errors
    /// `AccessDenied`, `NotDirectory`, `Stale`.
    pub async fn entries(&self, client: &Client, number: u64) -> Result<Option<Arc<Entries>>> {
        let mut places = self.places.lock().await;
        let limit = match self.with_attrs {
            true => PAGE_ENTRIES.1,
            false => PAGE_ENTRIES.0,
        };
        loop {
            match places.of(number) {
                Place::Here(entries) => return Ok(Some(entries)),
                Place::End => return Ok(None),
                Place::After(name) => {
                    let page = client.list_page(self.dir, name.as_deref(), limit, self.with_attrs);
                    places.take(page.await?);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::wire::meta::FileKind;
    use std::collections::BTreeSet;

    /// A directory with pages of ten entries.
    struct Dir(BTreeSet<u32>);

    impl Dir {
        fn page(&self, after: Option<Vec<u8>>) -> Page {
            let name = |number: &u32| format!("{number:06}").into_bytes();
            let names = self.0.iter().map(name);
            let mut names = names.filter(|name| after.as_ref().is_none_or(|after| name > after));
            let entries = names.by_ref().take(10).map(|name| DirEntry {
                name,
                inode: InodeId(1),
                kind: FileKind::File,
                attr: None,
            });
            Page {
                entries: entries.collect(),
                more: names.next().is_some(),
            }
        }

        /// The names from a number on, at most `most`.
        fn read(&self, places: &mut Places, mut number: u64, most: usize) -> Vec<u32> {
            let mut found = Vec::new();
            while found.len() < most {
                match places.of(number) {
                    Place::End => break,
                    Place::After(name) => places.take(self.page(name)),
                    Place::Here(entries) => {
                        for (at, entry) in entries.from(number).take(most - found.len()) {
                            let name = std::str::from_utf8(&entry.name).unwrap();
                            found.push(name.parse().unwrap());
                            number = at + 1;
                        }
                    }
                }
            }
            found
        }
    }

    #[test]
    fn every_entry_that_stays_is_seen_once_while_others_come_and_go() {
        let mut dir = Dir((0..500).map(|number| number * 10).collect());
        let mut places = Places::new();
        let mut seen = Vec::new();
        while let [first, ..] = dir.read(&mut places, seen.len() as u64, 7)[..] {
            let some = dir.read(&mut places, seen.len() as u64, 7);
            assert_eq!(some[0], first, "asked again, the same");
            // What was read is removed, as `rm -r` does it, and others come before and behind.
            for number in some.iter().filter(|number| *number % 20 == 0) {
                dir.0.remove(number);
            }
            dir.0.insert(some[0] + 1);
            seen.extend(some);
        }
        let stayed = (0..500).map(|number| number * 10);
        for number in stayed {
            let times = seen.iter().filter(|seen| **seen == number).count();
            assert_eq!(times, 1, "{number}");
        }
        let distinct: BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "nothing is seen twice");
    }

    #[test]
    fn who_goes_back_finds_what_was_there() {
        let dir = Dir((0..200).collect());
        let mut places = Places::new();
        assert_eq!(dir.read(&mut places, 0, 1_000).len(), 200);
        for number in [199, 150, 5, 0, 73, 10, 190] {
            let found = dir.read(&mut places, number, 3);
            assert_eq!(found[0], number as u32);
        }
        assert!(dir.read(&mut places, 200, 1).is_empty());
        assert!(dir.read(&mut places, 5_000, 1).is_empty());
        let empty = Dir(BTreeSet::new());
        assert!(empty.read(&mut Places::new(), 0, 1).is_empty());
    }
}
