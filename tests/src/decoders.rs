//! Every decoder of what arrives from the network, from disks and from people's files, in one table:
//! with bytes that it accepts, the types that it reads, and what pins its format.
//!
//! The formats of a disk's chunks and segments are private to the dataserver, which mutates them in
//! its own tests.

use crate::annotate::{annotate, hex};
use crate::sampler::Sampler;
use anyhow::Result;
use quarry_client::ClientFile;
use quarry_common::codec;
use quarry_common::identity::{Authority, Identity, PeerName, SERVER_VALID, USER_VALID};
use quarry_common::ids::{
    ChunkId, ClusterId, DiskId, FileOffset, InodeId, KeyNumber, PgId, PoolId, ServerId, SessionId,
    Slot, Version,
};
use quarry_common::limits::BLOCK_LEN;
use quarry_common::wire::data::frame::{HEAD_LEN, Head, decode_crcs};
use quarry_common::wire::data::ticket::{FileRun, FileTicket};
use quarry_common::wire::data::{
    DataReply, DataRequest, ReadChunk, ReadReply, WriteChunk, WriteReply,
};
use quarry_common::wire::meta::{MetaAnswer, MetaRequest};
use quarry_dataserver::DataserverConfig;
use quarry_metaserver::raft::entry::{Entry, decode_answers, encode_answers};
use quarry_metaserver::state::command::{Answer, Command};
use quarry_metaserver::state::data_records;
use quarry_metaserver::state::keys::{self, MapKey, SecretKey, SessionKey, SystemKey};
use quarry_metaserver::state::records::{self, Record};
use quarry_metaserver::{ClusterSeed, MetaserverConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Samples for one decoder: so many that every variant of every enum within enums has its turn.
const SAMPLES: usize = 2_000;

/// One decoder.
pub struct Decoder {
    /// What it reads.
    pub name: &'static str,
    /// Bytes that it accepts.
    pub samples: Vec<Vec<u8>>,
    /// Bytes that never change, with the names of what they are: every variant of every enum has a
    /// line. Nothing for files that people write.
    pub pinned: Vec<String>,
    /// The structs and enums that are in what it reads.
    pub types: BTreeSet<&'static str>,
    decode: Decode,
}

enum Decode {
    Bytes(fn(&[u8]) -> bool),
    Text(fn(&str) -> bool),
}

impl Decoder {
    /// Reads bytes; whether it accepts them. What is accepted can be written again.
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        match self.decode {
            Decode::Bytes(accepts) => accepts(bytes),
            Decode::Text(accepts) => std::str::from_utf8(bytes).is_ok_and(accepts),
        }
    }
}

/// The table.
///
/// # Errors
/// Certificates for the samples can not be made.
pub fn all() -> Result<Vec<Decoder>> {
    let mut table = vec![
        // From the network.
        message::<MetaRequest>("MetaRequest"),
        message::<MetaAnswer>("MetaAnswer"),
        message::<DataRequest>("DataRequest"),
        message::<Result<DataReply, quarry_common::Error>>("DataReply"),
        message::<WriteChunk>("WriteChunk"),
        message::<WriteReply>("WriteReply"),
        message::<ReadChunk>("ReadChunk"),
        message::<ReadReply>("ReadReply"),
        tickets(),
        heads(),
        // From the log.
        message::<Entry>("Entry"),
        message::<Command>("Command"),
        message::<Answer>("Answer"),
        answers(),
        // From the state.
        record::<records::InodeRecord>("InodeRecord"),
        record::<records::DentryRecord>("DentryRecord"),
        record::<records::NameRecord>("NameRecord"),
        record::<records::ExtentRecord>("ExtentRecord"),
        record::<records::XattrRecord>("XattrRecord"),
        record::<records::AtimeRecord>("AtimeRecord"),
        record::<records::ChunkRecord>("ChunkRecord"),
        record::<records::UsageRecord>("UsageRecord"),
        record::<records::NumberRecord>("NumberRecord"),
        record::<records::OrphanRecord>("OrphanRecord"),
        record::<data_records::SessionRecord>("SessionRecord"),
        record::<data_records::AnswersRecord>("AnswersRecord"),
        record::<data_records::RangeRecord>("RangeRecord"),
        record::<data_records::Present>("Present"),
        record::<data_records::LostSessionRecord>("LostSessionRecord"),
        record::<data_records::TopologyRecord>("TopologyRecord"),
        record::<data_records::RowRecord>("RowRecord"),
        record::<data_records::UserRecord>("UserRecord"),
        record::<data_records::SecretRecord>("SecretRecord"),
        record::<data_records::DoomedRecord>("DoomedRecord"),
        state_keys(),
    ];
    table.extend(files()?);
    Ok(table)
}

/// A message: it fills its bytes exactly.
fn message<T: Serialize + DeserializeOwned>(name: &'static str) -> Decoder {
    let mut sampler = Sampler::new(1);
    let samples = (0..SAMPLES).map(|_| codec::encode(&sampler.sample::<T>()));
    let pinned = Sampler::full::<T>().into_iter().map(|value| {
        let text = annotate(&value);
        let read = codec::decode::<T>(name, &codec::encode(&value));
        assert_eq!(read.map(|read| annotate(&read)).as_ref(), Ok(&text));
        text
    });
    Decoder {
        name,
        samples: samples.collect(),
        pinned: pinned.collect(),
        types: sampler.types,
        decode: Decode::Bytes(|bytes| {
            let decoded = codec::decode::<T>("it", bytes);
            decoded.map(|value| codec::encode(&value)).is_ok()
        }),
    }
}

/// A record: a version, then what is known of it, then what is not.
fn record<R: Record>(name: &'static str) -> Decoder {
    let mut sampler = Sampler::new(2);
    let samples = (0..SAMPLES).map(|_| sampler.sample::<R>().to_bytes());
    let samples = samples.collect();
    // A transparent type does not tell serde its name.
    sampler.types.insert(name);
    let pinned = Sampler::full::<R>().into_iter().map(|record| {
        let (text, bytes) = (annotate(&record), record.to_bytes());
        assert_eq!(bytes[1..], codec::encode(&record));
        let read = R::from_bytes(&bytes);
        assert_eq!(read.map(|read| annotate(&read)).as_ref(), Ok(&text));
        format!("{:02x} {text}", bytes[0]).trim_end().to_owned()
    });
    Decoder {
        name,
        samples,
        pinned: pinned.collect(),
        types: sampler.types,
        decode: Decode::Bytes(|bytes| {
            let decoded = R::from_bytes(bytes);
            decoded.map(|record| record.to_bytes()).is_ok()
        }),
    }
}

/// Tickets for the files of chunks, with what a client checks before it uses one.
fn tickets() -> Decoder {
    let crc = quarry_common::checksum::Crc(7);
    let run = |file_at, len| FileRun { file_at, len };
    let ticket = |runs: Vec<FileRun>| {
        let len = runs.iter().map(|run| run.len).sum::<u32>();
        codec::encode(&FileTicket {
            socket: [1; 16],
            secret: [2; 16],
            proof: [3; 16],
            len,
            crc,
            runs,
            crcs: vec![crc; (len as usize).div_ceil(BLOCK_LEN)],
        })
    };
    Decoder {
        name: "FileTicket",
        samples: vec![
            ticket(vec![]),
            ticket(vec![run(65_536, 100_000)]),
            ticket(vec![run(65_536, 5_000_001), run(5_070_848, 3)]),
        ],
        // Pinned beside it, and within the replies that carry it.
        pinned: Vec::new(),
        types: BTreeSet::new(),
        decode: Decode::Bytes(|bytes| {
            let ticket = codec::decode::<FileTicket>("it", bytes);
            ticket.is_ok_and(|ticket| ticket.check().is_ok())
        }),
    }
}

fn heads() -> Decoder {
    let crc = quarry_common::checksum::Crc(7);
    let heads = [
        Head::Data { offset: 1, len: 2 },
        Head::Flush { len: 3, crc },
        Head::Seal { len: 4, crc },
    ];
    Decoder {
        name: "Head",
        samples: heads.iter().map(|head| head.encode().to_vec()).collect(),
        pinned: heads
            .iter()
            .map(|head| format!("{head:?}: {}", hex(&head.encode())))
            .collect(),
        types: BTreeSet::new(),
        decode: Decode::Bytes(|bytes| {
            drop(decode_crcs(bytes));
            let head = <&[u8; HEAD_LEN]>::try_from(bytes).ok().map(Head::decode);
            match head {
                Some(Ok(head)) => {
                    assert_eq!(head.encode(), bytes);
                    true
                }
                _ => false,
            }
        }),
    }
}

fn answers() -> Decoder {
    let answers = ["one", "", "three"].map(bytes::Bytes::from);
    Decoder {
        name: "the answers of an entry",
        samples: vec![encode_answers(&answers).to_vec()],
        pinned: vec![hex(&encode_answers(&answers))],
        types: BTreeSet::new(),
        decode: Decode::Bytes(|bytes| decode_answers(bytes).is_ok()),
    }
}

fn state_keys() -> Decoder {
    let (inode, parent, slot) = (InodeId(0x1_0000_0011), InodeId(0x12), Slot(0x102));
    let (pool, chunk, pg) = (PoolId(0x103), ChunkId(9), PgId(6));
    let (offset, at) = (FileOffset(70_000), Version(0x1_0000_0008));
    let id = SessionId(0x1_0000_0005);
    let session = |part| (format!("{id:?} {part:?}"), keys::session(id, part));
    let secret = |part| (format!("{part:?}"), keys::secret(part));
    let map = |part| (format!("{part:?}"), keys::map(part));
    let read_back = [
        (format!("inode {inode}"), keys::inode(inode)),
        (format!("dentry {parent} ab"), keys::dentry(parent, b"ab")),
        (
            format!("name {inode} {parent} ab"),
            keys::name(inode, parent, b"ab"),
        ),
        (
            format!("extent {inode} {offset:?}"),
            keys::extent(inode, offset),
        ),
        (
            format!("xattr {inode} user.x"),
            keys::xattr(inode, b"user.x"),
        ),
        (format!("chunk {pool:?} {chunk}"), keys::chunk(pool, chunk)),
        (
            format!("removed {parent} ab {at:?}"),
            keys::removed(parent, b"ab", at),
        ),
        session(SessionKey::Record),
        session(SessionKey::Range(pool, chunk)),
        session(SessionKey::Answers),
        session(SessionKey::Unnamed(inode)),
        session(SessionKey::OpenChunk(pool, chunk)),
        ("user anna".into(), keys::user("anna")),
        ("server 2".into(), keys::server(ServerId(2))),
        secret(SecretKey::Capability(KeyNumber(1))),
        secret(SecretKey::Receipt(KeyNumber(2))),
        map(MapKey::Topology),
        map(MapKey::Row(pool, pg)),
        (
            format!("doomed {pool:?} {chunk}"),
            keys::doomed(pool, chunk),
        ),
    ];
    let system = [
        SystemKey::LastVersion,
        SystemKey::NextInode(slot),
        SystemKey::NextChunk(slot),
        SystemKey::NextDisk,
        SystemKey::NextSession,
        SystemKey::NextReceiptKey,
        SystemKey::Epoch,
        SystemKey::FeatureLevel,
        SystemKey::Orphan(at, inode),
        SystemKey::Trimmed(inode),
        SystemKey::LostSession(id),
        SystemKey::UnreferencedChunks,
        SystemKey::DownFor(DiskId(7)),
    ];
    let system = system.map(|part| (format!("{part:?}"), keys::system(part)));
    let pinned = read_back.iter().chain(&system);
    Decoder {
        name: "keys of the state",
        pinned: pinned
            .map(|(name, key)| format!("{name}: {}", hex(key)))
            .collect(),
        samples: read_back.into_iter().map(|(_, key)| key).collect(),
        types: BTreeSet::new(),
        decode: Decode::Bytes(|bytes| {
            [
                keys::parse_inode(bytes).is_ok(),
                keys::parse_dentry(bytes).is_ok(),
                keys::parse_name(bytes).is_ok(),
                keys::parse_extent(bytes).is_ok(),
                keys::parse_xattr(bytes).is_ok(),
                keys::parse_chunk(bytes).is_ok(),
                keys::parse_removed(bytes).is_ok(),
                keys::parse_session(bytes).is_ok(),
                keys::parse_user(bytes).is_ok(),
                keys::parse_server(bytes).is_ok(),
                keys::parse_secret(bytes).is_ok(),
                keys::parse_map(bytes).is_ok(),
                keys::parse_doomed(bytes).is_ok(),
                keys::parse_orphan(bytes).is_ok(),
                keys::parse_trimmed(bytes).is_ok(),
                keys::parse_unreferenced(bytes).is_ok(),
                keys::parse_down(bytes).is_ok(),
            ]
            .contains(&true)
        }),
    }
}

/// Files that people copy and edit: certificates and TOML.
fn files() -> Result<Vec<Decoder>> {
    let cluster = ClusterId([3; 16]);
    let authority = Authority::create(cluster, SystemTime::now())?;
    let issue = |name, valid| authority.issue(&name, valid, SystemTime::now());
    let server = issue(PeerName::dataserver(cluster, ServerId(1)), SERVER_VALID)?;
    let user = issue(PeerName::user(cluster, "anna")?, USER_VALID)?;
    let client = format!(
        "cluster = '{cluster}'\nuser = 'anna'\nidentity = '''{}'''\n[[metaservers]]\nid = 1\naddress = 'm:7410'\n",
        user.to_pem()
    );
    let metaserver = "listen = '[::]:7410'\nadvertise = 'm:7410'\ndir = 'state'\ncache_mib = 9\nout_after_seconds = 9\n";
    let dataserver = "listen = '[::]:7420'\nmetaservers = [[1, 'm:7410']]\nhost = 'h'\nrack = 'r'\n\
        direct_io = true\nreplace_disk = ['d']\n[[disks]]\npath = 'd'\n";
    let seed = ClusterSeed {
        cluster,
        replicas: 3,
        min_members: 2,
        pg_count: 64,
        dataservers: 3,
        metaservers: vec![(ServerId(1), "m:7410".into())],
        users: vec![],
    };
    Ok(vec![
        text("Identity", server.to_pem(), |text| {
            Identity::from_pem(text).is_ok()
        }),
        text("Authority", &authority.to_pem(), |text| {
            Authority::from_pem(text).is_ok()
        }),
        text("ClientFile", &client, |text| {
            ClientFile::parse(text).is_ok()
        }),
        text("MetaserverConfig", metaserver, |text| {
            toml::from_str::<MetaserverConfig>(text).is_ok()
        }),
        text("DataserverConfig", dataserver, |text| {
            toml::from_str::<DataserverConfig>(text).is_ok_and(|config| config.check().is_ok())
        }),
        text("ClusterSeed", &toml::to_string(&seed)?, |text| {
            toml::from_str::<ClusterSeed>(text).is_ok()
        }),
    ])
}

fn text(name: &'static str, sample: &str, accepts: fn(&str) -> bool) -> Decoder {
    Decoder {
        name,
        samples: vec![sample.as_bytes().to_vec()],
        pinned: vec![],
        types: BTreeSet::new(),
        decode: Decode::Text(accepts),
    }
}
