//! A client's side of the data plane, without retries.

use super::{CLUSTER, POOL, capability};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::identity::{Identity, PeerName};
use quarry_common::ids::{ChunkId, DiskId, Epoch};
use quarry_common::limits::FRAME_LEN_MAX;
use quarry_common::map::ClusterMap;
use quarry_common::net::{BulkReader, BulkWriter, Endpoint, Peer, Peers, StreamType};
use quarry_common::token::receipt::Durable;
use quarry_common::token::{Access, CertificateHash, Receipt};
use quarry_common::wire::data::frame::{self, Head};
use quarry_common::wire::data::{
    DataReply, DataRequest, ReadChunk, ReadReply, ReplicaInfo, WriteChunk, WriteReply, WriteTarget,
};
use quarry_common::{Error, Result, codec};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone)]
pub struct Client {
    pub hash: CertificateHash,
    pub peers: Peers,
    map: Arc<Mutex<ClusterMap>>,
    /// What is announced of each chunk.
    pub capacity: u32,
}

impl Client {
    pub fn new(identity: Arc<Identity>, map: Arc<Mutex<ClusterMap>>) -> Client {
        Client {
            hash: identity.hash(),
            peers: Peers::new(Endpoint::client(identity).unwrap()),
            map,
            capacity: 8 << 20,
        }
    }

    pub async fn peer(&self, disk: DiskId) -> Peer {
        let (server, address) = {
            let map = self.map.lock().unwrap();
            let (found, server) = map.disk(disk).unwrap();
            (found.server, server.address.parse().unwrap())
        };
        let name = PeerName::dataserver(CLUSTER, server);
        self.peers.get(&name, address).await.unwrap()
    }

    /// What a write to the head of the chunk's group says.
    pub fn target(&self, chunk: ChunkId) -> WriteTarget {
        let map = self.map.lock().unwrap();
        let (_, row) = map.locate(POOL, chunk).unwrap();
        WriteTarget {
            disk: row.chain().next().unwrap(),
            pool: POOL,
            chunk,
            pg_epoch: row.epoch,
            capability: capability(&self.hash, Access::Write),
            on_behalf_of: None,
        }
    }

    pub async fn open(&self, target: WriteTarget) -> Writing {
        let peer = self.peer(target.disk).await;
        let (send, recv) = peer.connection.open(StreamType::WriteChunk).await.unwrap();
        let mut writing = Writing {
            target: target.clone(),
            writer: BulkWriter::new(send),
            reader: BulkReader::new(recv),
            len: 0,
            crc: Crc::default(),
        };
        let header = WriteChunk {
            target,
            capacity: self.capacity,
        };
        writing.writer.write_message(&header).await.unwrap();
        writing
    }

    /// Writes and seals a chunk.
    pub async fn write(&self, chunk: ChunkId, data: &Bytes) -> Result<Receipt> {
        self.write_or_failure(chunk, data)
            .await
            .map_err(|(_, error)| error)
    }

    /// As [`Client::write`]; a failure names the disk that refused, if one did.
    pub async fn write_or_failure(
        &self,
        chunk: ChunkId,
        data: &Bytes,
    ) -> Result<Receipt, (Option<DiskId>, Error)> {
        let mut writing = self.open(self.target(chunk)).await;
        let sent = async {
            writing.data(data).await?;
            writing.point(true).await
        };
        match sent.await {
            Ok(()) => writing.receipt_or_failure().await,
            // Who refuses a chunk says why and stops reading, so that sending breaks.
            Err(broken) => match writing.reader.read_message("a reply").await {
                Ok(Some(WriteReply::Failed { disk, error })) => Err((disk, error)),
                _ => Err((None, broken)),
            },
        }
    }

    pub async fn write_small(&self, target: WriteTarget, data: Bytes) -> Result<Receipt> {
        let durable = Durable {
            pool: target.pool,
            chunk: target.chunk,
            epoch: target.pg_epoch,
            len: data.len() as u32,
            crc: Crc::of(&data),
        };
        let disk = target.disk;
        let crc = durable.crc;
        let request = DataRequest::WriteSmall { target, data, crc };
        match self.ask(disk, &request).await? {
            DataReply::Written { macs } => Ok(durable.receipt(macs)),
            other => panic!("{other:?}"),
        }
    }

    pub async fn ask(&self, disk: DiskId, request: &DataRequest) -> Result<DataReply> {
        let request = Bytes::from(codec::encode(request));
        let peer = self.peer(disk).await;
        let answer = peer.requests.call(request, Duration::from_secs(20)).await?;
        codec::decode::<Result<DataReply, Error>>("an answer", &answer)?
    }

    pub fn wanted(&self, disk: DiskId, chunk: ChunkId, offset: u32, len: u32) -> ReadChunk {
        ReadChunk {
            disk,
            pool: POOL,
            chunk,
            capability: capability(&self.hash, Access::Read),
            offset,
            len,
        }
    }

    /// Reads a range over a stream, checking every block.
    pub async fn read(&self, wanted: ReadChunk) -> Result<Vec<u8>> {
        let peer = self.peer(wanted.disk).await;
        let (send, recv) = peer.connection.open(StreamType::ReadChunk).await?;
        let (mut writer, mut reader) = (BulkWriter::new(send), BulkReader::new(recv));
        writer.write_message(&wanted).await?;
        let (start, end) = match reader.read_message("a reply").await?.unwrap() {
            ReadReply::Data { start, end, .. } => (start, end),
            ReadReply::Failed(error) => return Err(error),
        };
        let mut bytes = Vec::with_capacity((end - start) as usize);
        while start + (bytes.len() as u32) < end {
            let head = reader.read_small(frame::HEAD_LEN).await?;
            let Head::Data { offset, len } = Head::decode(head[..].try_into().unwrap())? else {
                panic!("not data");
            };
            assert_eq!(offset, start + bytes.len() as u32);
            let crcs = reader.read_small(4 * frame::crcs_of(offset, len)).await?;
            let pieces = reader.read_exact_pieces(len as usize).await?;
            frame::check_crcs(offset, &pieces, &frame::decode_crcs(&crcs))?;
            pieces
                .iter()
                .for_each(|piece| bytes.extend_from_slice(piece));
        }
        reader.read_end().await?;
        let from = (wanted.offset - start) as usize;
        Ok(bytes[from..from + wanted.len as usize].to_vec())
    }

    /// Reads a range by a request, checking every block.
    pub async fn read_small(&self, wanted: ReadChunk) -> Result<Vec<u8>> {
        let (offset, len) = (wanted.offset, wanted.len as usize);
        match self.ask(wanted.disk, &DataRequest::Read(wanted)).await? {
            DataReply::Data {
                start, crcs, data, ..
            } => {
                frame::check_crcs(start, std::slice::from_ref(&data), &crcs)?;
                let from = (offset - start) as usize;
                Ok(data[from..from + len].to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn stat(&self, disk: DiskId, chunk: ChunkId) -> Result<Option<ReplicaInfo>> {
        let request = DataRequest::Stat {
            disk,
            pool: POOL,
            chunk,
            capability: capability(&self.hash, Access::Read),
        };
        match self.ask(disk, &request).await? {
            DataReply::Chunk(found) => Ok(found),
            other => panic!("{other:?}"),
        }
    }
}

/// A chunk that is being written.
pub struct Writing {
    pub target: WriteTarget,
    pub writer: BulkWriter,
    pub reader: BulkReader,
    pub len: u32,
    pub crc: Crc,
}

impl Writing {
    /// Sends data in frames.
    pub async fn data(&mut self, data: &Bytes) -> Result<()> {
        let mut data = data.clone();
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(FRAME_LEN_MAX));
            let crcs = frame::compute_crcs(self.len, std::slice::from_ref(&piece));
            self.frame(piece, &crcs).await?;
        }
        Ok(())
    }

    /// Sends one frame with those checksums.
    pub async fn frame(&mut self, piece: Bytes, crcs: &[Crc]) -> Result<()> {
        let len = piece.len() as u32;
        let prefix = frame::data_prefix(self.len, len, crcs);
        for (part_len, crc) in frame::parts(self.len, len).zip(crcs) {
            self.crc = self.crc.then(*crc, part_len as u64);
        }
        self.len += len;
        self.writer.write_pieces(&mut [prefix, piece]).await
    }

    pub async fn point(&mut self, seal: bool) -> Result<()> {
        let (len, crc) = (self.len, self.crc);
        let head = match seal {
            true => Head::Seal { len, crc },
            false => Head::Flush { len, crc },
        };
        self.writer
            .write(Bytes::copy_from_slice(&head.encode()))
            .await
    }

    pub async fn reply(&mut self) -> WriteReply {
        let reply = tokio::time::timeout(
            Duration::from_secs(20),
            self.reader.read_message::<WriteReply>("a reply"),
        );
        reply.await.unwrap().unwrap().expect("an answer")
    }

    /// The next acknowledgement as a receipt, or why there is none.
    pub async fn receipt(&mut self) -> Result<Receipt> {
        self.receipt_or_failure().await.map_err(|(_, error)| error)
    }

    pub async fn receipt_or_failure(&mut self) -> Result<Receipt, (Option<DiskId>, Error)> {
        match self.reply().await {
            WriteReply::Ack { len, crc, macs, .. } => Ok(Receipt {
                pool: self.target.pool,
                chunk: self.target.chunk,
                epoch: self.target.pg_epoch,
                len,
                crc,
                macs,
            }),
            WriteReply::Failed { disk, error } => Err((disk, error)),
        }
    }
}

/// The epoch before one.
pub fn before(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 - 1)
}
