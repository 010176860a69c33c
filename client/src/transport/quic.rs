//! The transport over QUIC, and over the Unix sockets of dataservers on this host.

use super::{
    DataFrame, FrameSink, FrameSource, Peer, Pending, ReadStream, ReplySource, Transport,
    WriteFrame, WriteStream, unix,
};
use crate::client_file::ClientFile;
use bytes::Bytes;
use quarry_common::codec;
use quarry_common::error::{Code, Error, Result};
use quarry_common::identity::{Identity, PeerName, Role};
use quarry_common::ids::{ClusterId, ServerId};
use quarry_common::net::{self, BulkReader, BulkWriter, Endpoint, Peers, StreamType};
use quarry_common::wire::data::frame::{HEAD_LEN, Head, crcs_of, data_prefix, decode_crcs};
use quarry_common::wire::data::ticket::FileTicket;
use quarry_common::wire::data::{
    DataReply, DataRequest, ReadChunk, ReadReply, WriteChunk, WriteReply,
};
use quarry_common::wire::meta::{MetaAnswer, MetaRequest};
use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Connections to the servers of one cluster, made when first needed.
pub struct Quic {
    cluster: ClusterId,
    peers: Peers,
    /// What is connected, so that a request needs no wait for the cache of peers.
    connected: Mutex<HashMap<(Role, ServerId), (String, net::Peer)>>,
}

impl Quic {
    /// A socket of its own and the identity of a client file. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Configuration` for an identity that can not be used or is another cluster's.
    pub fn new(file: &ClientFile) -> Result<Quic> {
        let identity = Identity::from_pem(&file.identity)?;
        if identity.name().cluster != file.cluster {
            let text = format!(
                "the client file is for cluster {}, its identity is of cluster {}",
                file.cluster,
                identity.name().cluster
            );
            return Err(Error::new(Code::Configuration, text));
        }
        let endpoint = Endpoint::client(Arc::new(identity))?;
        Ok(Quic {
            cluster: file.cluster,
            peers: Peers::new(endpoint),
            connected: Mutex::default(),
        })
    }

    fn connected_peers(&self) -> MutexGuard<'_, HashMap<(Role, ServerId), (String, net::Peer)>> {
        self.connected.lock().expect("nobody panics with this lock")
    }

    fn cached(&self, role: Role, to: &Peer) -> Option<net::Peer> {
        let connected = self.connected_peers();
        let (address, peer) = connected.get(&(role, to.server))?;
        (*address == to.address && !peer.is_closed()).then(|| peer.clone())
    }

    async fn peer(&self, role: Role, to: &Peer) -> Result<net::Peer> {
        if let Some(peer) = self.cached(role, to) {
            return Ok(peer);
        }
        let name = match role {
            Role::Metaserver => PeerName::metaserver(self.cluster, to.server),
            _ => PeerName::dataserver(self.cluster, to.server),
        };
        let addresses = resolve(&to.address).await?;
        let peer = first_of(&addresses, |address| self.peers.get(&name, address)).await?;
        self.connected_peers()
            .insert((role, to.server), (to.address.clone(), peer.clone()));
        Ok(peer)
    }

    async fn ask<A: serde::de::DeserializeOwned>(
        &self,
        role: Role,
        to: Peer,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Result<A> {
        let asked = async {
            let peer = self.peer(role, &to).await?;
            let asked = peer.requests.call(Bytes::from(request), timeout);
            let answer = match role {
                Role::Dataserver => peer.while_alive(DataRequest::ping(), asked).await?,
                // A metaserver that is silent is doubted in its own way.
                _ => asked.await?,
            };
            codec::decode("an answer", &answer)
        };
        // The handshake counts as well.
        let answer = tokio::time::timeout(timeout, asked).await;
        answer.unwrap_or_else(|_| {
            let text = format!(
                "{} {} at {} did not answer within {} ms",
                role.as_str(),
                to.server,
                to.address,
                timeout.as_millis()
            );
            Err(Error::new(Code::Disconnected, text))
        })
    }
}

/// What the first of several addresses gives at which there is anything: a name may have addresses of both families, and
/// a server listens at one of them.
async fn first_of<T, F: Future<Output = Result<T>>>(
    addresses: &[SocketAddr],
    get: impl Fn(SocketAddr) -> F,
) -> Result<T> {
    let mut failed = None;
    for address in addresses {
        match get(*address).await {
            Ok(got) => return Ok(got),
            // The first reason is that of the address that is preferred.
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| Error::bug("a name has no address")))
}

/// The addresses of `host:port`, at least one, the preferred one first.
async fn resolve(address: &str) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let unknown = |why: String| {
        let text = format!("{address} is no address that is known here: {why}");
        Error::new(Code::Unreachable, text)
    };
    let found = tokio::net::lookup_host(address).await;
    let found = found.map_err(|error| unknown(error.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    match found.is_empty() {
        true => Err(unknown("it has none".into())),
        false => Ok(found),
    }
}

impl Transport for Quic {
    fn meta(&self, to: &Peer, request: &MetaRequest, timeout: Duration) -> Pending<'_, MetaAnswer> {
        let request = codec::encode(request);
        Box::pin(self.ask(Role::Metaserver, to.clone(), request, timeout))
    }

    fn data(&self, to: &Peer, request: &DataRequest, timeout: Duration) -> Pending<'_, DataReply> {
        let (to, request) = (to.clone(), codec::encode(request));
        Box::pin(async move {
            let answer: Result<DataReply> =
                self.ask(Role::Dataserver, to, request, timeout).await?;
            answer
        })
    }

    fn write(&self, to: &Peer, header: WriteChunk) -> Pending<'_, WriteStream> {
        let to = to.clone();
        Box::pin(async move {
            let peer = self.peer(Role::Dataserver, &to).await?;
            let (send, recv) = peer.connection.open(StreamType::WriteChunk).await?;
            let mut writer = BulkWriter::new(send);
            writer.write_message(&header).await?;
            Ok(WriteStream {
                sink: Box::new(Sink {
                    writer,
                    sealed: false,
                }),
                replies: Box::new(Replies {
                    reader: BulkReader::new(recv),
                    peer,
                }),
            })
        })
    }

    fn read(&self, to: &Peer, header: ReadChunk) -> Pending<'_, ReadStream> {
        let to = to.clone();
        Box::pin(async move {
            let peer = self.peer(Role::Dataserver, &to).await?;
            let (send, recv) = peer.connection.open(StreamType::ReadChunk).await?;
            let mut writer = BulkWriter::new(send);
            writer.write_message(&header).await?;
            writer.finish()?;
            let mut reader = BulkReader::new(recv);
            let reading = reader.read_message("a reply to a read");
            let reply: Option<ReadReply> = peer.while_alive(DataRequest::ping(), reading).await?;
            let reply = reply.ok_or_else(|| Error::malformed("a read ended without a reply"))?;
            Ok(ReadStream {
                reply,
                frames: Box::new(Frames { reader, peer }),
            })
        })
    }

    fn redeem<'a>(&'a self, ticket: &'a FileTicket) -> Pending<'a, File> {
        Box::pin(unix::redeem(ticket))
    }

    fn connected(&self, to: &Peer) -> bool {
        self.cached(Role::Dataserver, to).is_some()
    }

    fn moved(&self, to: &Peer) -> u64 {
        let peer = self.cached(Role::Dataserver, to);
        peer.map_or(0, |peer| {
            let stats = peer.connection.stats();
            stats.udp_rx.bytes + stats.udp_tx.bytes
        })
    }
}

struct Sink {
    writer: BulkWriter,
    sealed: bool,
}

impl Drop for Sink {
    /// A chunk that was not sealed is given up; a plain end would look like a writer that is done.
    fn drop(&mut self) {
        if !self.sealed {
            self.writer.reset(false);
        }
    }
}

impl FrameSink for Sink {
    fn send(&mut self, frame: WriteFrame) -> Pending<'_, ()> {
        Box::pin(async move {
            let head = match frame {
                WriteFrame::Data(frame) => {
                    let prefix = data_prefix(frame.offset, frame.len(), &frame.crcs);
                    let mut pieces = frame.pieces;
                    pieces.insert(0, prefix);
                    return self.writer.write_pieces(&mut pieces).await;
                }
                WriteFrame::Flush { len, crc } => Head::Flush { len, crc },
                WriteFrame::Seal { len, crc } => Head::Seal { len, crc },
            };
            let bytes = Bytes::copy_from_slice(&head.encode());
            self.writer.write(bytes).await?;
            if matches!(head, Head::Seal { .. }) {
                self.sealed = true;
                self.writer.finish()?;
            }
            Ok(())
        })
    }
}

struct Replies {
    reader: BulkReader,
    peer: net::Peer,
}

impl ReplySource for Replies {
    fn next(&mut self) -> Pending<'_, WriteReply> {
        Box::pin(async {
            let reading = self.reader.read_message("a reply to a write");
            let reply = self.peer.while_alive(DataRequest::ping(), reading).await?;
            reply.ok_or_else(|| {
                let text = "the head of the pipeline ended the stream without a word";
                Error::new(Code::Disconnected, text)
            })
        })
    }
}

struct Frames {
    reader: BulkReader,
    peer: net::Peer,
}

impl FrameSource for Frames {
    fn next(&mut self) -> Pending<'_, Option<DataFrame>> {
        Box::pin(async {
            let reading = read_frame(&mut self.reader);
            self.peer.while_alive(DataRequest::ping(), reading).await
        })
    }
}

async fn read_frame(reader: &mut BulkReader) -> Result<Option<DataFrame>> {
    let Some(head) = reader.read_small_or_end(HEAD_LEN).await? else {
        return Ok(None);
    };
    let head: &[u8; HEAD_LEN] = head[..]
        .try_into()
        .map_err(|_| Error::malformed("a frame's head of another length"))?;
    let Head::Data { offset, len } = Head::decode(head)? else {
        return Err(Error::malformed("a frame that is not of data"));
    };
    let crcs = reader.read_small(4 * crcs_of(offset, len)).await?;
    let pieces = reader.read_exact_pieces(len as usize).await?;
    Ok(Some(DataFrame {
        offset,
        pieces,
        crcs: decode_crcs(&crcs),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_address_of_a_name_is_tried_and_the_first_reason_is_told() {
        let addresses: Vec<SocketAddr> = ["[::1]:1", "127.0.0.1:1", "127.0.0.2:1"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let at = |good: usize| {
            let good = addresses.get(good).copied();
            move |address| {
                std::future::ready(match Some(address) == good {
                    true => Ok(address),
                    false => Err(Error::new(Code::Unreachable, format!("not at {address}"))),
                })
            }
        };
        for good in 0..3 {
            let found = first_of(&addresses, at(good)).await;
            assert_eq!(found, Ok(addresses[good]));
        }
        let none = first_of(&addresses, at(3)).await.unwrap_err();
        assert_eq!(none.text, "not at [::1]:1");
    }
}
