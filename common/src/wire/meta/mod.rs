//! Between clients or dataservers and the metaserver.

pub mod admin;
pub mod attr;
mod leader;
pub mod op;
pub mod read;

pub use admin::{
    AdminOp, DiskReport, DiskStatus, Heartbeat, HeartbeatReply, Members, MetaserverStatus,
    NewMetaserver, PgStatus, Registered, Registration, ServerStatus, Serves, Settings, Standing,
    Status, User,
};
pub use attr::{Attr, FileKind, SetAttr, SetTime};
pub use leader::{leader_named, not_leader};
pub use op::{
    Caller, CloneRange, Contents, Expectation, NewExtent, NodeKind, Op, OpReply, Publish, Range,
    RangeGrant, RenameMode, Source, XattrMode,
};
pub use read::{DirEntry, Extent, ExtentPage, ExtentSource, Page, Read, ReadReply, Resolved, View};

use super::bounds;
use crate::ids::{Epoch, InodeId, RequestNumber, ServerId, SessionId, ShardId, Version};
use serde::{Deserialize, Serialize};

/// A request on a `MetaRequests` stream. The answer is a [`MetaAnswer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetaRequest {
    /// The shard that it is for.
    pub shard: ShardId,
    /// The greatest version that the caller has seen: the shard goes beyond it before it applies.
    pub seen: Version,
    /// Whom an admin acts for; everybody else leaves it out.
    pub act_as: Option<Caller>,
    /// What is asked.
    #[serde(deserialize_with = "bounds::of_message")]
    pub body: MetaBody,
}

/// What is asked of the metaserver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MetaBody {
    /// Reads some state. Reply: `Read`.
    Read(Read),
    /// Changes the namespace exactly once. Reply: `Done`.
    Mutate {
        /// The session.
        session: SessionId,
        /// The number of this request, used once.
        number: RequestNumber,
        /// The caller has the answers to all numbers below this one.
        answered_below: RequestNumber,
        /// The change.
        op: Op,
    },
    /// Opens a session. Reply: `Session`.
    OpenSession,
    /// Keeps a session alive. Reply: `Renewed`.
    RenewSession(Renewal),
    /// Ends a session: its unnamed inodes go. Reply: `Renewed`.
    CloseSession(SessionId),
    /// Fetches what changed in the cluster map. Reply: `Map`.
    Map {
        /// The epoch that the caller has.
        since: Epoch,
        /// The `next` of the page before.
        from: Option<(crate::ids::PoolId, crate::ids::PgId)>,
    },
    /// An admin's request. Reply: `Admin`.
    Admin(AdminOp),
    /// From a dataserver that starts. Reply: `Registered`.
    Register(Registration),
    /// From a dataserver. Reply: `Heartbeat`.
    Heartbeat(Heartbeat),
    /// From a dataserver: which doomed chunks its disk is to delete now. Reply: `Due`.
    Due {
        /// The disk.
        disk: crate::ids::DiskId,
        /// The `next` of the page before.
        from: Option<(crate::ids::PoolId, crate::ids::ChunkId)>,
    },
    /// From a dataserver: its disk does not have these doomed chunks, or not any more. Reply: `Noted`.
    Gone {
        /// The disk.
        disk: crate::ids::DiskId,
        /// The chunks.
        chunks: Vec<(crate::ids::PoolId, crate::ids::ChunkId)>,
    },
    /// From a dataserver: its disk has these chunks, of which some may be nobody's. Reply: `Due`, with those that it
    /// is to delete now.
    Has {
        /// The disk.
        disk: crate::ids::DiskId,
        /// The chunks.
        chunks: Vec<(crate::ids::PoolId, crate::ids::ChunkId)>,
    },
    /// From a dataserver that stops: its disks are down from now on, without waiting for silence. Reply:
    /// `Noted`.
    Goodbye,
    /// From a client or dataserver: that dataserver does not answer it. The leader asks itself before
    /// it believes it. Reply: `Noted`.
    Suspect(ServerId),
    /// From a dataserver: these filling members have everything (DESIGN §4.5). Reply: `Noted`; a report that
    /// is too old is passed over.
    ReportComplete(Vec<Complete>),
    /// From a dataserver: what is referenced in a group, where no holder can tell. Reply: `GroupChunks`.
    GroupChunks {
        /// The pool.
        pool: crate::ids::PoolId,
        /// The group.
        pg: crate::ids::PgId,
        /// Where the page begins: the `next` of the page before.
        from: Option<crate::ids::ChunkId>,
    },
    /// From a dataserver that starts, before it touches its disks: the leader sees whether it is reached there, and whether
    /// another process has its identity. Reply: `Noted`; `NotReached`, and `Configuration` to the second process.
    Introduce {
        /// `host:port` at which it is reached.
        address: String,
        /// What tells it from another process with its certificate.
        process: crate::ids::ProcessNumber,
    },
}

/// A filling member has everything that was sealed in its group before it joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// The member.
    pub disk: crate::ids::DiskId,
    /// The pool.
    pub pool: crate::ids::PoolId,
    /// The group.
    pub pg: crate::ids::PgId,
    /// The epoch of the group's row with which it listed: the report counts only if the member has not
    /// joined anew since.
    pub epoch: Epoch,
}

/// A chunk as it was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedChunk {
    /// The chunk.
    pub chunk: crate::ids::ChunkId,
    /// Its committed length in bytes.
    pub len: u32,
    /// The CRC of those bytes.
    pub crc: crate::checksum::Crc,
}

/// Keeps a session alive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    /// The session.
    pub session: SessionId,
    /// Inodes it has open.
    pub open: Vec<InodeId>,
    /// Per range, in ascending order: chunks below this are committed or never will be,
    /// except those named in `open_chunks` (DESIGN §5.4).
    pub marks: Vec<(crate::ids::PoolId, crate::ids::ChunkId)>,
    /// Chunks below a mark that are still to be committed.
    pub open_chunks: Vec<(crate::ids::PoolId, crate::ids::ChunkId)>,
}

/// The answer to a [`MetaRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetaAnswer {
    /// The version of the state that it was made from.
    pub version: Version,
    /// The epoch of the map: a caller with an older one fetches the difference.
    pub epoch: Epoch,
    /// The reply, or why there is none.
    #[serde(deserialize_with = "bounds::of_message")]
    pub result: Result<MetaReply, crate::Error>,
}

/// What the metaserver replies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MetaReply {
    /// To a read.
    Read(ReadReply),
    /// To a mutation.
    Done(OpReply),
    /// To `OpenSession`.
    Session {
        /// The session.
        session: SessionId,
        /// Renew well within so many milliseconds.
        lease_ms: u32,
    },
    /// To `RenewSession` and `CloseSession`.
    Renewed,
    /// To `Map`.
    Map(crate::map::MapUpdate),
    /// To an admin's request.
    Admin(admin::AdminReply),
    /// To `Register`.
    Registered(Registered),
    /// To `Heartbeat`.
    Heartbeat(HeartbeatReply),
    /// To `Gone`, `Goodbye`, `Suspect`, `ReportComplete` and `Introduce`.
    Noted,
    /// To `Due` and `Has`: what the disk is to delete.
    Due {
        /// At most 1,000.
        chunks: Vec<(crate::ids::PoolId, crate::ids::ChunkId)>,
        /// The next page comes after this one, if there is one.
        next: Option<(crate::ids::PoolId, crate::ids::ChunkId)>,
    },
    /// To `GroupChunks`: referenced chunks of the group, in the order of the state.
    GroupChunks {
        /// One page.
        chunks: Vec<CommittedChunk>,
        /// Where the next page begins, if there is one.
        next: Option<crate::ids::ChunkId>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Crc;
    use crate::codec;
    use crate::error::Code;
    use crate::ids::FileOffset;
    use crate::ids::{ChunkId, PoolId};
    use crate::limits::{EXTENTS_PER_COMMAND_MAX, LIST_OPS_MAX, XATTRS_MAX};
    use crate::token::Receipt;

    fn request(op: Op) -> Vec<u8> {
        codec::encode(&MetaRequest {
            shard: ShardId::FIRST,
            seen: Version::default(),
            act_as: None,
            body: MetaBody::Mutate {
                session: SessionId::default(),
                number: RequestNumber::default(),
                answered_below: RequestNumber::default(),
                op,
            },
        })
    }

    fn list(ops: Vec<Op>) -> Op {
        Op::List {
            expectations: Vec::new(),
            ops,
        }
    }

    fn refused(bytes: &[u8]) -> String {
        let error = codec::decode::<MetaRequest>("a request", bytes).unwrap_err();
        assert_eq!(error.code, Code::Malformed, "{error}");
        error.text
    }

    #[test]
    fn a_list_in_a_list_is_refused_while_it_is_read_however_deep_it_is() {
        let flat = request(list(vec![]));
        assert!(codec::decode::<MetaRequest>("a request", &flat).is_ok());
        let text = refused(&request(list(vec![list(vec![])])));
        assert!(text.contains("a list can not be in a list"), "{text}");
        // The end of it is the number of its operations.
        let mut deep = flat[..flat.len() - 1].to_vec();
        deep.push(1);
        for _ in 0..100_000 {
            deep.extend_from_slice(&[18, 0, 1]);
        }
        refused(&deep);
        // One that was refused leaves nothing behind.
        assert!(codec::decode::<MetaRequest>("a request", &flat).is_ok());

        let answer = MetaAnswer {
            version: Version::default(),
            epoch: Epoch::default(),
            result: Ok(MetaReply::Done(OpReply::List(vec![OpReply::Nothing]))),
        };
        let flat = codec::encode(&answer);
        assert_eq!(codec::decode("an answer", &flat), Ok(answer));
        let mut deep = flat[..flat.len() - 1].to_vec();
        for _ in 0..100_000 {
            deep.extend_from_slice(&[4, 1]);
        }
        let error = codec::decode::<MetaAnswer>("an answer", &deep).unwrap_err();
        assert_eq!(error.code, Code::Malformed, "{error}");
    }

    #[test]
    fn a_request_has_no_more_elements_than_can_be_done() {
        let op = Op::Unlink {
            parent: InodeId::ROOT,
            name: Vec::new(),
        };
        let extent = NewExtent {
            offset: FileOffset(0),
            len: 1,
            source: Source::Hole,
        };
        let receipt = Receipt {
            pool: PoolId(1),
            chunk: ChunkId(1),
            epoch: Epoch(1),
            len: 1,
            crc: Crc(1),
            macs: Vec::new(),
        };
        let expectation = Expectation::Inode {
            inode: InodeId::ROOT,
            modified_at: Version(1),
        };
        let extents = |count| vec![extent.clone(); count];
        let receipts = |count| vec![receipt.clone(); count];
        let commit = |extents, receipts| Op::CommitExtents {
            inode: InodeId::ROOT,
            extents,
            receipts,
            size: None,
            mtime: None,
        };
        let append = |extents, receipts| Op::Append {
            inode: InodeId::ROOT,
            extents,
            receipts,
            len: 1,
        };
        let publish = |xattrs, extents, receipts| {
            Op::Publish(Publish {
                parent: InodeId::ROOT,
                name: Vec::new(),
                mode: 0,
                mtime: None,
                replace: true,
                xattrs: vec![(Vec::new(), Vec::new()); xattrs],
                contents: Contents::Extents {
                    size: 1,
                    extents,
                    receipts,
                },
            })
        };
        type Of<'a> = &'a dyn Fn(usize) -> Op;
        let lists: [(&str, usize, Of<'_>); 9] = [
            ("operations", LIST_OPS_MAX, &|count| {
                list(vec![op.clone(); count])
            }),
            ("expectations", LIST_OPS_MAX, &|count| Op::List {
                expectations: vec![expectation.clone(); count],
                ops: Vec::new(),
            }),
            ("extents", EXTENTS_PER_COMMAND_MAX, &|count| {
                commit(extents(count), Vec::new())
            }),
            ("receipts", EXTENTS_PER_COMMAND_MAX, &|count| {
                commit(Vec::new(), receipts(count))
            }),
            ("extents to append", EXTENTS_PER_COMMAND_MAX, &|count| {
                append(extents(count), Vec::new())
            }),
            ("receipts to append", EXTENTS_PER_COMMAND_MAX, &|count| {
                append(Vec::new(), receipts(count))
            }),
            ("attributes", XATTRS_MAX, &|count| {
                publish(count, Vec::new(), Vec::new())
            }),
            ("extents to publish", EXTENTS_PER_COMMAND_MAX, &|count| {
                publish(0, extents(count), Vec::new())
            }),
            ("receipts to publish", EXTENTS_PER_COMMAND_MAX, &|count| {
                publish(0, Vec::new(), receipts(count))
            }),
        ];
        for (what, most, of) in lists {
            let some = codec::decode::<MetaRequest>("a request", &request(of(most)));
            assert!(some.is_ok(), "{what}");
            // What came before this bound stands in logs.
            let more = of(most + 1);
            let stored = codec::encode(&more);
            assert!(codec::decode::<Op>("a command", &stored).is_ok(), "{what}");
            let text = refused(&request(more));
            assert!(text.contains(&format!("at most {most}")), "{what}: {text}");
        }
    }
}
