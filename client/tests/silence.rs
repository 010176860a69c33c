//! What the library does when a dataserver falls silent, over QUIC.

use bytes::Bytes;
use quarry_client::ClientFile;
use quarry_client::transport::quic::Quic;
use quarry_client::transport::{Peer, Transport};
use quarry_common::error::Code;
use quarry_common::identity::{Authority, PeerName, SERVER_VALID};
use quarry_common::ids::{ChunkId, ClusterId, DiskId, KeyNumber, PoolId, ServerId};
use quarry_common::net::{BulkReader, BulkWriter, Connection, Endpoint, StreamType, serve};
use quarry_common::token::{Access, Capability};
use quarry_common::wire::data::{ReadChunk, ReadReply};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

const CLUSTER: ClusterId = ClusterId([1; 16]);

/// A dataserver with a thread of its own that answers a read and sends no frame. It is gone when what stops
/// it is dropped.
fn start(authority: &Authority) -> (String, mpsc::Sender<()>) {
    let name = PeerName::dataserver(CLUSTER, ServerId(1));
    let identity = authority.issue(&name, SERVER_VALID, SystemTime::now());
    let identity = Arc::new(identity.unwrap());
    let (stop, stopped) = mpsc::channel();
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listen = "127.0.0.1:0".parse().unwrap();
            let endpoint = Endpoint::server(identity, listen, |_, _| true).unwrap();
            say.send(endpoint.local_addr().unwrap()).unwrap();
            while let Some(connection) = endpoint.accept().await {
                tokio::spawn(answer(connection));
            }
        });
        while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
        }
    });
    (said.recv().unwrap().to_string(), stop)
}

async fn answer(connection: Connection) {
    while let Ok((kind, send, recv)) = connection.accept().await {
        if kind != StreamType::ReadChunk {
            tokio::spawn(serve(send, recv, 16, async |request: Bytes| request));
            continue;
        }
        tokio::spawn(async move {
            let (mut reader, mut writer) = (BulkReader::new(recv), BulkWriter::new(send));
            let _header: Option<ReadChunk> = reader.read_message("a read").await.unwrap();
            let reply = ReadReply::Data {
                start: 0,
                end: 1 << 20,
                chunk_len: 1 << 20,
            };
            writer.write_message(&reply).await.unwrap();
            std::future::pending::<()>().await;
        });
    }
}

#[tokio::test]
async fn a_reader_notices_soon_that_the_server_is_gone_after_its_reply() {
    let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
    let (address, stop) = start(&authority);
    let user = PeerName::user(CLUSTER, "anna").unwrap();
    let identity = authority.issue(&user, SERVER_VALID, SystemTime::now());
    let quic = Quic::new(&ClientFile {
        cluster: CLUSTER,
        metaservers: Vec::new(),
        identity: identity.unwrap().to_pem().into(),
        user: "anna".into(),
    });
    let peer = Peer {
        server: ServerId(1),
        address,
    };
    let read = ReadChunk {
        disk: DiskId(1),
        pool: PoolId(1),
        chunk: ChunkId(1),
        capability: Capability {
            key: KeyNumber(1),
            access: Access::Read,
            pool: PoolId(1),
            first: ChunkId(1),
            last: ChunkId(1),
            expires_at: u64::MAX,
            mac: [0; 16],
        },
        offset: 0,
        len: 1 << 20,
    };
    let quic = quic.unwrap();
    let mut stream = quic.read(&peer, read).await.unwrap();
    drop(stop);
    let next = tokio::time::timeout(Duration::from_secs(4), stream.frames.next());
    let error = next.await.expect("it is given up").unwrap_err();
    let gone = matches!(error.code, Code::Unreachable | Code::Disconnected);
    assert!(gone, "{error}");
}
