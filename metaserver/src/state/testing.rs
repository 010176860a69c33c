//! A small cluster without network and disks, for tests: one state, over either backing.

use super::apply::Machine;
use super::command::{Action, Answer, Bootstrap, Command, Reply};
use super::read::read;
use super::txn::load;
use super::{keys, records::InodeRecord};
use crate::kv::{Family, Kv, KvRead, Memory, Rocks, RocksOptions};
use crate::raft::Apply;
use crate::raft::entry::{Entry, decode_answers};
use quarry_common::ids::{
    ClusterId, Gid, InodeId, KeyNumber, PoolId, RequestNumber, ServerId, SessionId, Uid, Version,
};
use quarry_common::map::{FailureDomain, Pool, Redundancy};
use quarry_common::token::{Access, Capability, Key};
use quarry_common::wire::meta::{
    Attr, Caller, Contents, NewExtent, Op, OpReply, Publish, Read, ReadReply, RenameMode, Source,
    User, View,
};
use quarry_common::{Code, Result, codec};
use std::ops::ControlFlow;

/// A state and what is applied to it.
pub(crate) struct World {
    pub kv: Box<dyn Kv>,
    machine: Machine,
    pub time_us: u64,
    number: u64,
    pub session: SessionId,
    _dir: Option<tempfile::TempDir>,
}

/// Runs a test over both backings.
pub(crate) fn on_both(test: impl Fn(&mut World)) {
    test(&mut World::in_memory());
    test(&mut World::on_disk());
}

pub(crate) fn root() -> Caller {
    Caller {
        uid: Uid(0),
        gids: vec![Gid(0)],
        superuser: true,
    }
}

pub(crate) fn user(uid: u32, gids: &[u32]) -> Caller {
    Caller {
        uid: Uid(uid),
        gids: gids.iter().map(|gid| Gid(*gid)).collect(),
        superuser: false,
    }
}

impl World {
    pub fn in_memory() -> World {
        World::over(Box::new(Memory::new()), None).begun()
    }

    pub fn on_disk() -> World {
        let dir = tempfile::tempdir().unwrap();
        let kv = Rocks::open(&dir.path().join("state"), RocksOptions::default()).unwrap();
        World::over(Box::new(kv), Some(dir)).begun()
    }

    /// Without a bootstrap.
    pub fn over(kv: Box<dyn Kv>, dir: Option<tempfile::TempDir>) -> World {
        World {
            kv,
            machine: Machine::new(),
            time_us: 1_000_000,
            number: 0,
            session: SessionId(0),
            _dir: dir,
        }
    }

    fn begun(mut self) -> World {
        for action in beginning() {
            if let Reply::Session(session) = self.act(action).unwrap() {
                self.session = session;
            }
        }
        self
    }

    /// Applies one entry; its answers.
    pub fn apply(&mut self, actions: Vec<Action>) -> Vec<Answer> {
        let commands = actions
            .into_iter()
            .map(|action| {
                codec::encode(&Command {
                    seen: Version(0),
                    action,
                })
                .into()
            })
            .collect();
        self.time_us += 10;
        let entry = Entry {
            time_us: self.time_us,
            commands,
        }
        .encode();
        self.apply_entry(&entry)
            .iter()
            .map(|bytes| codec::decode("an answer", bytes).unwrap())
            .collect()
    }

    /// Applies an encoded entry; its encoded answers.
    pub fn apply_entry(&mut self, entry: &[u8]) -> Vec<bytes::Bytes> {
        let (batch, answers) = self.machine.apply(&*self.kv, entry).unwrap();
        self.kv.write(&batch).unwrap();
        decode_answers(&answers).unwrap()
    }

    pub fn act(&mut self, action: Action) -> Answer {
        self.apply(vec![action]).remove(0)
    }

    /// A mutation with the next number of the session.
    pub fn mutation(&mut self, caller: &Caller, op: Op) -> Action {
        self.number += 1;
        Action::Mutate {
            session: self.session,
            number: RequestNumber(self.number),
            // Some answers stay, so that requests can come again.
            answered_below: RequestNumber(self.number.saturating_sub(100)),
            caller: caller.clone(),
            op,
        }
    }

    pub fn op(&mut self, caller: &Caller, op: Op) -> Result<OpReply> {
        let action = self.mutation(caller, op);
        match self.act(action)? {
            Reply::Op(reply) => Ok(reply),
            other => panic!("{other:?} is no reply to an operation"),
        }
    }

    /// An operation that replies with attributes.
    pub fn attr_of(&mut self, caller: &Caller, op: Op) -> Result<Attr> {
        match self.op(caller, op)? {
            OpReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?} has no attributes"),
        }
    }

    pub fn create(
        &mut self,
        caller: &Caller,
        parent: InodeId,
        name: &str,
        mode: u16,
    ) -> Result<Attr> {
        let name = name.as_bytes().to_vec();
        self.attr_of(
            caller,
            Op::Create {
                parent,
                name,
                mode,
                exclusive: true,
            },
        )
    }

    pub fn mkdir(
        &mut self,
        caller: &Caller,
        parent: InodeId,
        name: &str,
        mode: u16,
    ) -> Result<Attr> {
        self.attr_of(
            caller,
            Op::Mkdir {
                parent,
                name: name.as_bytes().to_vec(),
                mode,
            },
        )
    }

    pub fn symlink(&mut self, parent: InodeId, name: &str, target: &str) -> Attr {
        let (name, target) = (name.as_bytes().to_vec(), target.as_bytes().to_vec());
        self.attr_of(
            &root(),
            Op::Symlink {
                parent,
                name,
                target,
                mtime: None,
            },
        )
        .unwrap()
    }

    pub fn link(
        &mut self,
        caller: &Caller,
        inode: InodeId,
        parent: InodeId,
        name: &str,
    ) -> Result<Attr> {
        self.attr_of(
            caller,
            Op::Link {
                inode,
                parent,
                name: name.as_bytes().to_vec(),
            },
        )
    }

    pub fn unlink(&mut self, caller: &Caller, parent: InodeId, name: &str) -> Result<OpReply> {
        self.op(
            caller,
            Op::Unlink {
                parent,
                name: name.as_bytes().to_vec(),
            },
        )
    }

    pub fn rmdir(&mut self, caller: &Caller, parent: InodeId, name: &str) -> Result<OpReply> {
        self.op(
            caller,
            Op::Rmdir {
                parent,
                name: name.as_bytes().to_vec(),
            },
        )
    }

    pub fn rename(
        &mut self,
        caller: &Caller,
        (from, from_name): (InodeId, &str),
        (to, to_name): (InodeId, &str),
        mode: RenameMode,
    ) -> Result<OpReply> {
        let (from_name, to_name) = (from_name.as_bytes().to_vec(), to_name.as_bytes().to_vec());
        self.op(
            caller,
            Op::Rename {
                from,
                from_name,
                to,
                to_name,
                mode,
            },
        )
    }

    /// A file with inline contents.
    pub fn put(&mut self, parent: InodeId, name: &str, contents: &[u8]) -> Attr {
        let op = publish(parent, name.as_bytes(), contents);
        self.attr_of(&root(), op).unwrap()
    }

    pub fn read(&self, caller: &Caller, what: Read) -> Result<ReadReply> {
        read(&*self.kv.view(), caller, &what, &no_capability)
    }

    pub fn stat(&self, inode: InodeId) -> Result<Attr> {
        match self.read(
            &root(),
            Read::Stat {
                view: View::Live,
                inodes: vec![inode],
            },
        )? {
            ReadReply::Attrs(mut attrs) => attrs.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub fn lookup(&self, parent: InodeId, name: &str) -> Result<Attr> {
        let name = name.as_bytes().to_vec();
        match self.read(
            &root(),
            Read::Lookup {
                view: View::Live,
                parent,
                name,
            },
        )? {
            ReadReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    /// The names in a directory.
    pub fn names(&self, dir: InodeId) -> Vec<String> {
        let read = Read::List {
            view: View::Live,
            dir,
            after: None,
            limit: 4096,
            with_attrs: false,
        };
        match self.read(&root(), read).unwrap() {
            ReadReply::Page(page) => page
                .entries
                .iter()
                .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    pub fn record(&self, inode: InodeId) -> InodeRecord {
        load(&*self.kv, Family::Inodes, &keys::inode(inode))
            .unwrap()
            .unwrap()
    }

    /// Records there are, but answers and what else sessions keep.
    pub fn records(&self) -> usize {
        let all = self.dump();
        all.iter()
            .filter(|(family, ..)| *family != Family::Sessions)
            .count()
    }

    /// Everything in the state.
    pub fn dump(&self) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
        dump(&*self.kv)
    }
}

pub(crate) fn dump(kv: &dyn KvRead) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for family in Family::ALL {
        kv.scan(*family, &[], None, &mut |key, value| {
            all.push((*family, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    all
}

/// The commands with which a cluster begins: a pool, a user, a session.
pub(crate) fn beginning() -> Vec<Action> {
    let redundancy = Redundancy::Replicated {
        replicas: 3,
        min_members: 2,
    };
    let pool = Pool {
        name: "data".to_owned(),
        redundancy,
        failure_domain: FailureDomain::Host,
        pg_count: 64,
        chunk_len_max: 64 << 20,
        in_use: false,
        exceptions: Default::default(),
    };
    let ann = User {
        name: "ann".to_owned(),
        uid: Uid(1000),
        gids: vec![Gid(1000)],
        admin: true,
    };
    vec![
        Action::Bootstrap(Bootstrap {
            cluster: ClusterId([7; 16]),
            metaservers: vec![(ServerId(1), "127.0.0.1:7410".to_owned())],
            pool: (PoolId(1), pool),
            capability_key: Key {
                number: KeyNumber(1),
                secret: [9; 32],
            },
            users: vec![ann],
        }),
        Action::OpenSession {
            user: "ann".to_owned(),
            certificate: [5; 32],
        },
    ]
}

pub(crate) fn publish(parent: InodeId, name: &[u8], contents: &[u8]) -> Op {
    let extents = match contents {
        [] => Vec::new(),
        bytes => vec![inline(0, bytes)],
    };
    Op::Publish(Publish {
        parent,
        name: name.to_vec(),
        mode: 0o644,
        mtime: None,
        replace: true,
        xattrs: Vec::new(),
        contents: Contents::Extents {
            size: contents.len() as u64,
            extents,
            receipts: Vec::new(),
        },
    })
}

pub(crate) fn inline(offset: u64, bytes: &[u8]) -> NewExtent {
    NewExtent {
        offset: quarry_common::ids::FileOffset(offset),
        len: bytes.len() as u64,
        source: Source::Inline(bytes.to_vec()),
    }
}

pub(crate) fn no_capability(pool: PoolId, chunk: quarry_common::ids::ChunkId) -> Capability {
    let key = Key {
        number: KeyNumber(1),
        secret: [9; 32],
    };
    Capability::issue(&key, &[5; 32], Access::Read, pool, chunk..=chunk, 1)
}

/// The code of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T>) -> Code {
    result.unwrap_err().code
}
