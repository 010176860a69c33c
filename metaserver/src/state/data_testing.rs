//! Disks, chunk ids and receipts for tests: what clients and dataservers bring.

use super::command::{Action, Reply};
use super::map_state::{self, keys::keys_of};
use super::testing::{World, root};
use quarry_common::checksum::Crc;
use quarry_common::ids::{
    ChunkId, ChunkOffset, DiskId, FileOffset, InodeId, OpenNumber, PgId, PoolId, ServerId,
};
use quarry_common::map::{ClusterMap, pg_of, placement};
use quarry_common::token::Receipt;
use quarry_common::token::receipt::Durable;
use quarry_common::wire::meta::{
    DiskReport, ExtentPage, NewExtent, Op, OpReply, Range, Read, ReadReply, Registration, Source,
    View,
};

/// The pool of [`super::testing::beginning`].
pub(crate) const POOL: PoolId = PoolId(1);

/// An empty directory of a dataserver.
pub(crate) fn new_disk(path: &str) -> DiskReport {
    DiskReport {
        disk: None,
        path: path.into(),
        replaces_lost: false,
        previous_open: OpenNumber(0),
        open_number: OpenNumber(0),
        total: 1 << 40,
        free: 1 << 40,
        chunks: 0,
        failed: None,
        trash: 0,
        lost: 0,
        copied: 0,
    }
}

pub(crate) fn registration(server: u32, disks: Vec<DiskReport>) -> Action {
    let host = format!("host-{server}");
    let registration = Registration {
        address: format!("127.0.0.1:{server}"),
        host,
        rack: "r".into(),
        zone: "z".into(),
        disks,
    };
    Action::Register {
        server: ServerId(server),
        registration,
        secret: [server as u8; 32],
    }
}

impl World {
    pub fn map(&self) -> ClusterMap {
        map_state::load(&*self.kv).unwrap()
    }

    /// Registers that many servers with a disk each, and places the pool.
    pub fn add_disks(&mut self, servers: u32) {
        for server in 1..=servers {
            self.act(registration(server, vec![new_disk("/disk")]))
                .unwrap();
        }
        let place = self.placement();
        self.act(place).unwrap();
    }

    /// The command that makes every group's members its target.
    pub fn placement(&self) -> Action {
        let map = self.map();
        let pool = &map.topology.pools[&POOL];
        let target = |pg| {
            (
                PgId(pg),
                placement::target(&map.topology, POOL, pool, PgId(pg)),
            )
        };
        Action::Place {
            epoch: map.epoch,
            pool: POOL,
            rows: (0..pool.pg_count).map(target).collect(),
        }
    }

    pub fn grant(&mut self, count: u32) -> Range {
        match self
            .op(&root(), Op::GrantRange { pool: POOL, count })
            .unwrap()
        {
            OpReply::Range(grant) => grant.range,
            other => panic!("{other:?}"),
        }
    }

    /// What the members say after they made a chunk durable.
    pub fn receipt(&self, chunk: ChunkId, len: u32) -> Receipt {
        let map = self.map();
        let row = &map.rows[&POOL][pg_of(chunk, map.topology.pools[&POOL].pg_count).0 as usize];
        let durable = Durable {
            pool: POOL,
            chunk,
            epoch: row.epoch,
            len,
            crc: Crc(chunk.0 as u32 ^ len),
        };
        let word = |disk: DiskId| {
            let server = map.topology.disks[&disk].server;
            durable.sign(&keys_of(&*self.kv, server).unwrap().receipt.unwrap(), disk)
        };
        durable.receipt(row.chain().map(word).collect())
    }

    pub fn extents(&self, inode: InodeId) -> ExtentPage {
        let read = Read::Extents {
            view: View::Live,
            inode,
            offset: FileOffset(0),
            len: u64::MAX,
        };
        match self.read(&root(), read).unwrap() {
            ReadReply::Extents(page) => page,
            other => panic!("{other:?}"),
        }
    }

    pub fn purge(&mut self, orphans: Vec<InodeId>, records_max: u32) -> (Vec<InodeId>, bool) {
        match self
            .act(Action::Purge {
                orphans,
                records_max,
            })
            .unwrap()
        {
            Reply::Collected { purged, more } => (purged, more),
            other => panic!("{other:?}"),
        }
    }
}

/// The extent of `len` bytes of the first receipt's chunk.
pub(crate) fn of_chunk(offset: u64, len: u64, chunk_offset: u32) -> NewExtent {
    NewExtent {
        offset: FileOffset(offset),
        len,
        source: Source::Chunk {
            receipt: 0,
            chunk_offset,
        },
    }
}

/// A commit of `len` bytes from one chunk at `offset`.
pub(crate) fn commit(inode: InodeId, offset: u64, len: u64, receipt: Receipt) -> Op {
    let extents = vec![of_chunk(offset, len, 0)];
    Op::CommitExtents {
        inode,
        extents,
        receipts: vec![receipt],
        size: None,
        mtime: None,
    }
}

/// Where a byte of a file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Byte {
    /// From a chunk.
    Chunk(ChunkId, ChunkOffset),
    /// From the metadata.
    Inline(u8),
}
