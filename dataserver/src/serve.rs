//! Connections and their streams: each to whom it is for.

use crate::caller::Caller;
use crate::node::Node;
use crate::pipeline::{hop, small};
use crate::read;
use crate::repair;
use bytes::Bytes;
use quarry_common::identity::Role;
use quarry_common::limits::REQUESTS_IN_FLIGHT_MAX;
use quarry_common::net::{
    self, BulkReader, BulkWriter, Connection, RecvStream, SendStream, StreamType,
};
use quarry_common::token::receipt::Durable;
use quarry_common::wire::data::{
    DATA_MESSAGE_LEN_MAX, DataReply, DataRequest, ReadChunk, ReadReply, WriteChunk, WriteReply,
};
use quarry_common::{Code, Error, Result, codec};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// The header of a bulk stream comes this soon after its first byte.
const HEADER_WAIT: Duration = Duration::from_secs(10);

/// Serves one connection until it ends; its streams are tasks of `tasks`, so that a stop can wait for them.
pub async fn connection(node: Arc<Node>, connection: Connection, tasks: TaskTracker) {
    let hash = connection.peer_hash();
    let caller = match (connection.peer().role, connection.peer().server_id()) {
        (Role::Dataserver, Ok(server)) => Caller::Dataserver(hash, server),
        (Role::Metaserver, _) => Caller::Metaserver(hash),
        _ => Caller::Client(hash),
    };
    loop {
        let (kind, send, recv) = match connection.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!("{error}");
                return;
            }
        };
        let node = Arc::clone(&node);
        // A connection has a bounded number of streams open, so there are no more tasks than that.
        match kind {
            StreamType::DataRequests => {
                tasks.spawn(requests(node, caller, send, recv));
            }
            StreamType::WriteChunk => {
                tasks.spawn(async move { write_chunk(&node, caller, send, recv).await });
            }
            StreamType::ReadChunk => {
                tasks.spawn(async move { read_chunk(&node, caller, send, recv).await });
            }
            StreamType::MetaRequests
            | StreamType::Raft
            | StreamType::RaftSnapshot
            | StreamType::Push => {
                tracing::warn!(
                    "{} opened a {kind:?} stream, which a dataserver does not serve",
                    connection.peer()
                );
                net::refuse_stream(send, recv);
            }
        }
    }
}

async fn requests(node: Arc<Node>, caller: Caller, send: SendStream, recv: RecvStream) {
    let handler = move |payload: Bytes| {
        let node = Arc::clone(&node);
        async move {
            let answer = answer(&node, caller, &payload).await;
            Bytes::from(codec::encode(&answer))
        }
    };
    if let Err(error) = net::serve(send, recv, REQUESTS_IN_FLIGHT_MAX, handler).await {
        tracing::debug!("a request stream ended: {error}");
    }
}

async fn answer(node: &Node, caller: Caller, payload: &[u8]) -> Result<DataReply> {
    if payload.len() > DATA_MESSAGE_LEN_MAX {
        return Err(Error::malformed(format!(
            "a request of {} bytes: dataservers take up to {DATA_MESSAGE_LEN_MAX}",
            payload.len()
        )));
    }
    match codec::decode("a request", payload)? {
        DataRequest::WriteSmall { target, data, crc } => {
            let macs = small::write(node, caller, target, data, crc).await?;
            Ok(DataReply::Written { macs })
        }
        DataRequest::Read(wanted) => read::small(node, caller, wanted).await,
        DataRequest::Stat {
            disk,
            pool,
            chunk,
            capability,
        } => read::stat(node, caller, disk, (pool, chunk), &capability).await,
        DataRequest::FileTicket {
            disk,
            pool,
            chunk,
            capability,
        } => read::files::ticket(node, caller, disk, (pool, chunk), &capability).await,
        DataRequest::List(wanted) => repair::list::answer(node, caller, wanted).await,
        DataRequest::Confirm {
            disk,
            pool,
            chunk,
            epoch,
            len,
            crc,
        } => {
            let wanted = Durable {
                pool,
                chunk,
                epoch,
                len,
                crc,
            };
            let word = repair::confirm::answer(node, caller, disk, wanted).await?;
            Ok(DataReply::Written { macs: vec![word] })
        }
        DataRequest::Ping => Ok(DataReply::Pong),
        DataRequest::Verify {
            disk,
            pool,
            chunk,
            capability,
        } => read::verify(node, caller, disk, (pool, chunk), &capability),
    }
}

/// The header of a bulk stream.
///
/// # Errors
/// `Malformed` for nonsense, an early end, or one that does not come in time.
async fn header<T: serde::de::DeserializeOwned>(reader: &mut BulkReader) -> Result<T> {
    let reading = reader.read_message("the header of a stream");
    let late = |_| Err(Error::malformed("the header of a stream did not come"));
    let header = tokio::time::timeout(HEADER_WAIT, reading).await;
    let nothing = || Error::malformed("a stream ended before its header");
    header.unwrap_or_else(late)?.ok_or_else(nothing)
}

async fn write_chunk(node: &Node, caller: Caller, send: SendStream, recv: RecvStream) {
    let (mut reader, mut writer) = (BulkReader::new(recv), BulkWriter::new(send));
    match header::<WriteChunk>(&mut reader).await {
        Ok(header) => hop::serve(node, caller, header, reader, writer).await,
        Err(error) => {
            let reply = WriteReply::Failed { disk: None, error };
            refuse(&mut reader, &mut writer, &reply).await;
        }
    }
}

async fn read_chunk(node: &Node, caller: Caller, send: SendStream, recv: RecvStream) {
    let (mut reader, mut writer) = (BulkReader::new(recv), BulkWriter::new(send));
    let header = header::<ReadChunk>(&mut reader).await;
    // What is copied for repair must not keep clients from reading.
    let permits = match caller {
        Caller::Dataserver(..) => &node.repair_streams,
        Caller::Client(_) | Caller::Metaserver(_) => &node.read_streams,
    };
    let permit = permits.try_acquire();
    let refused = match (header, permit) {
        (Ok(header), Ok(_permit)) => {
            return read::stream::serve(node, caller, header, writer).await;
        }
        (Err(error), _) => error,
        (Ok(_), Err(_)) => Error::new(
            Code::Overloaded,
            "this dataserver reads as many chunks at once as it can",
        ),
    };
    let reply = ReadReply::Failed(refused);
    refuse(&mut reader, &mut writer, &reply).await;
}

/// Tells the peer what was wrong and ends its stream; nothing else is harmed.
async fn refuse<T: serde::Serialize>(reader: &mut BulkReader, writer: &mut BulkWriter, reply: &T) {
    let told = async {
        writer.write_message(reply).await?;
        writer.finish()
    };
    if let Err(error) = told.await {
        tracing::debug!("a peer did not hear why its stream was refused: {error}");
    }
    reader.stop(true);
}
