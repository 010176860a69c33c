//! What must be true of every state, checked from the whole of it: for tests.

use super::keys::{self, SessionKey};
use super::records::{
    DentryRecord, ExtentRecord, Flags, InodeRecord, Record, UsageRecord, XattrRecord,
};
use super::txn::HIDDEN_DIRECTORY;
use crate::kv::{Family, KvRead};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::FileKind;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Everything that does not fit together.
pub(crate) fn faults(state: &dyn KvRead) -> Vec<String> {
    let whole = Whole::load(state);
    let mut faults = Vec::new();
    whole.check_names(&mut faults);
    whole.check_directories(&mut faults);
    whole.check_orphans(&mut faults);
    whole.check_contents(&mut faults);
    whole.check_usage(&mut faults);
    faults
}

type Name = (InodeId, Vec<u8>);

struct Whole {
    inodes: BTreeMap<InodeId, InodeRecord>,
    dentries: BTreeMap<Name, DentryRecord>,
    names: BTreeSet<(InodeId, Name)>,
    orphans: BTreeSet<(u64, InodeId)>,
    unnamed: BTreeSet<InodeId>,
    usage: BTreeMap<InodeId, UsageRecord>,
    extents: BTreeMap<InodeId, Vec<ExtentRecord>>,
    xattrs: BTreeMap<InodeId, u32>,
    atimes: BTreeSet<InodeId>,
    trimmed: BTreeSet<InodeId>,
}

fn each(state: &dyn KvRead, family: Family, mut visit: impl FnMut(&[u8], &[u8])) {
    state
        .scan(family, &[], None, &mut |key, value| {
            visit(key, value);
            ControlFlow::Continue(())
        })
        .unwrap();
}

impl Whole {
    fn load(state: &dyn KvRead) -> Whole {
        let mut whole = Whole {
            inodes: BTreeMap::new(),
            dentries: BTreeMap::new(),
            names: BTreeSet::new(),
            orphans: BTreeSet::new(),
            unnamed: BTreeSet::new(),
            usage: BTreeMap::new(),
            extents: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            atimes: BTreeSet::new(),
            trimmed: BTreeSet::new(),
        };
        each(state, Family::Inodes, |key, value| {
            let record = InodeRecord::from_bytes(value).unwrap();
            whole.inodes.insert(keys::parse_inode(key).unwrap(), record);
        });
        each(state, Family::Dentries, |key, value| {
            let (parent, name) = keys::parse_dentry(key).unwrap();
            let record = DentryRecord::from_bytes(value).unwrap();
            whole.dentries.insert((parent, name.to_vec()), record);
        });
        each(state, Family::Names, |key, _| {
            let (inode, parent, name) = keys::parse_name(key).unwrap();
            whole.names.insert((inode, (parent, name.to_vec())));
        });
        each(state, Family::System, |key, _| {
            if key.starts_with(&keys::orphans()) {
                let (at, inode) = keys::parse_orphan(key).unwrap();
                whole.orphans.insert((at.0, inode));
            } else if key.starts_with(&keys::trimmed()) {
                whole.trimmed.insert(keys::parse_trimmed(key).unwrap());
            }
        });
        each(state, Family::Sessions, |key, _| {
            if let Ok((_, SessionKey::Unnamed(inode))) = keys::parse_session(key) {
                whole.unnamed.insert(inode);
            }
        });
        each(state, Family::Usage, |key, value| {
            let record = UsageRecord::from_bytes(value).unwrap();
            whole.usage.insert(keys::parse_inode(key).unwrap(), record);
        });
        each(state, Family::Extents, |key, value| {
            let (inode, _) = keys::parse_extent(key).unwrap();
            let record = ExtentRecord::from_bytes(value).unwrap();
            whole.extents.entry(inode).or_default().push(record);
        });
        each(state, Family::Xattrs, |key, value| {
            let (inode, name) = keys::parse_xattr(key).unwrap();
            XattrRecord::from_bytes(value).unwrap();
            *whole.xattrs.entry(inode).or_default() += name.len() as u32 + 1;
        });
        each(state, Family::Atimes, |key, _| {
            whole.atimes.insert(keys::parse_inode(key).unwrap());
        });
        whole
    }

    /// Links, primary names and the `names` family are what the dentries say.
    fn check_names(&self, faults: &mut Vec<String>) {
        let mut names: BTreeMap<InodeId, Vec<&Name>> = BTreeMap::new();
        for (name, dentry) in &self.dentries {
            names.entry(dentry.inode).or_default().push(name);
            match self.inodes.get(&dentry.inode) {
                Some(record) if record.kind == dentry.kind => {}
                other => faults.push(format!(
                    "{name:?} leads to {:?}, which is {other:?}",
                    dentry.inode
                )),
            }
        }
        let mut expected = BTreeSet::new();
        for (inode, record) in &self.inodes {
            let names = names.get(inode).map(Vec::as_slice).unwrap_or_default();
            if *inode == InodeId::ROOT || *inode == HIDDEN_DIRECTORY {
                if !names.is_empty() || record.links != 1 || record.parent != *inode {
                    faults.push(format!("{inode} has names, or links {}", record.links));
                }
                continue;
            }
            if record.links as usize != names.len() {
                faults.push(format!(
                    "{inode} counts {} names and has {names:?}",
                    record.links
                ));
            }
            let primary = (record.parent, record.name.clone());
            let primary_fits = match names.is_empty() {
                true => primary == (*inode, Vec::new()),
                false => names.contains(&&primary),
            };
            if !primary_fits {
                faults.push(format!(
                    "the primary name of {inode} is {primary:?} and its names are {names:?}"
                ));
            }
            if names.len() > 1 {
                expected.extend(names.iter().map(|name| (*inode, (*name).clone())));
            }
        }
        if expected != self.names {
            faults.push(format!(
                "the family of names has {:?} and not {expected:?}",
                self.names
            ));
        }
    }

    fn check_directories(&self, faults: &mut Vec<String>) {
        let mut entries: BTreeMap<InodeId, (u64, u64)> = BTreeMap::new();
        for ((parent, _), dentry) in &self.dentries {
            let counts = entries.entry(*parent).or_default();
            counts.0 += 1;
            counts.1 += u64::from(dentry.kind == FileKind::Directory);
        }
        for (inode, record) in &self.inodes {
            let counted = entries.remove(inode).unwrap_or_default();
            if counted != (record.entries, record.subdirectories) {
                faults.push(format!(
                    "{inode} counts {} entries and {} directories, has {counted:?}",
                    record.entries, record.subdirectories
                ));
            }
            if counted.0 > 0 && !record.is_directory() {
                faults.push(format!("{inode} has entries and is {:?}", record.kind));
            }
            if record.is_directory() && record.links > 0 {
                let mut at = *inode;
                for _ in 0..self.inodes.len() {
                    at = self.inodes.get(&at).map_or(at, |record| record.parent);
                }
                if at != InodeId::ROOT && at != HIDDEN_DIRECTORY {
                    faults.push(format!(
                        "{inode} is not below the root: its way ends at {at}"
                    ));
                }
            }
        }
        faults.extend(
            entries
                .keys()
                .map(|gone| format!("{gone} has entries and does not exist")),
        );
    }

    /// What has no name is an orphan, or held by a session.
    fn check_orphans(&self, faults: &mut Vec<String>) {
        let mut expected = BTreeSet::new();
        let mut held = BTreeSet::new();
        for (inode, record) in &self.inodes {
            match (record.links, record.orphaned_at) {
                (0, Some(at)) => drop(expected.insert((at.0, *inode))),
                (0, None) => drop(held.insert(*inode)),
                (_, Some(_)) => faults.push(format!("{inode} has a name and is an orphan")),
                (_, None) => {}
            }
        }
        if expected != self.orphans {
            faults.push(format!(
                "orphans are {:?} and not {expected:?}",
                self.orphans
            ));
        }
        if held != self.unnamed {
            faults.push(format!("sessions hold {:?} and not {held:?}", self.unnamed));
        }
    }

    fn check_contents(&self, faults: &mut Vec<String>) {
        for (inode, record) in &self.inodes {
            let extents = self
                .extents
                .get(inode)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let stored: u64 = extents.iter().map(|extent| extent.len).sum();
            if (extents.len() as u64, stored) != (record.extents, record.stored) {
                faults.push(format!(
                    "{inode} counts {} extents with {} bytes, has {} with {stored}",
                    record.extents,
                    record.stored,
                    extents.len()
                ));
            }
            if self.xattrs.get(inode).copied().unwrap_or(0) != record.xattr_names_len {
                faults.push(format!(
                    "{inode} counts {} bytes of attribute names",
                    record.xattr_names_len
                ));
            }
            // Who removes the inode removes only what its record speaks of.
            if self.atimes.contains(inode) != record.flags.has(Flags::HAS_ATIME) {
                faults.push(format!("{inode} has an access time, or says it has"));
            }
            if self.trimmed.contains(inode) == record.trims.is_empty() {
                faults.push(format!("{inode} waits to be trimmed, or says it does"));
            }
        }
        let with_parts = self
            .extents
            .keys()
            .chain(self.xattrs.keys())
            .chain(&self.atimes)
            .chain(&self.trimmed);
        for inode in with_parts.filter(|inode| !self.inodes.contains_key(inode)) {
            faults.push(format!("{inode} has parts and does not exist"));
        }
    }

    /// The sums are what adding up says.
    fn check_usage(&self, faults: &mut Vec<String>) {
        let mut expected: BTreeMap<InodeId, UsageRecord> = BTreeMap::new();
        for (inode, record) in &self.inodes {
            let mut at = *inode;
            while let Some(parent) = self
                .inodes
                .get(&at)
                .map(|record| record.parent)
                .filter(|parent| *parent != at)
            {
                at = parent;
                let sum = expected.entry(parent).or_default();
                match record.kind {
                    FileKind::Directory => sum.directories += 1,
                    _ => {
                        (sum.files, sum.bytes) =
                            (sum.files + 1, sum.bytes + u128::from(record.size))
                    }
                }
            }
        }
        for inode in self.inodes.keys().chain(self.usage.keys()) {
            let expected = expected.get(inode).copied().unwrap_or_default();
            let kept = self.usage.get(inode).copied().unwrap_or_default();
            if expected != kept {
                faults.push(format!(
                    "the usage of {inode} is {kept:?} and not {expected:?}"
                ));
            }
        }
    }
}

mod tests {
    use super::*;
    use crate::kv::Batch;
    use crate::state::testing::{World, root};

    #[test]
    fn every_kind_of_damage_is_a_fault() {
        let begin = || {
            let mut world = World::in_memory();
            let dir = world
                .mkdir(&root(), InodeId::ROOT, "d", 0o755)
                .unwrap()
                .inode;
            let file = world.put(dir, "a", b"contents").inode;
            world.link(&root(), file, dir, "b").unwrap();
            let gone = world.put(dir, "gone", b"x").inode;
            world.unlink(&root(), dir, "gone").unwrap();
            assert_eq!(faults(&*world.kv), Vec::<String>::new());
            (world, dir, file, gone)
        };
        let (_, dir, file, gone) = begin();
        let (world, ..) = begin();
        let orphan = world.record(gone).orphaned_at.unwrap();
        for (family, key) in [
            (Family::Inodes, keys::inode(file)),
            (Family::Inodes, keys::inode(dir)),
            (Family::Dentries, keys::dentry(dir, b"a")),
            (Family::Dentries, keys::dentry(InodeId::ROOT, b"d")),
            (Family::Names, keys::name(file, dir, b"a")),
            (
                Family::Extents,
                keys::extent(file, quarry_common::ids::FileOffset(0)),
            ),
            (Family::Usage, keys::inode(dir)),
            (
                Family::System,
                keys::system(keys::SystemKey::Orphan(orphan, gone)),
            ),
        ] {
            let (world, ..) = begin();
            assert!(world.kv.get(family, &key).unwrap().is_some(), "{family:?}");
            let mut damage = Batch::new();
            damage.delete(family, key);
            world.kv.write(&damage).unwrap();
            assert!(
                !faults(&*world.kv).is_empty(),
                "a missing record of {family:?} is no fault"
            );
        }
    }
}
