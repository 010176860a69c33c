//! Nonsense on a stream ends that stream and nothing else: a transfer that runs meanwhile is unharmed.
//!
//! For every kind of stream, also kinds that do not exist, of both servers: garbage, a valid opening
//! cut at every byte, and lengths that are one too long or as long as can be; from a user of the
//! cluster and from strangers, who send it before the server has looked at their certificate.

use anyhow::{Context, Result, ensure};
use quarry_client::ClientFile;
use quarry_common::codec;
use quarry_common::identity::{Authority, Identity, PeerName, USER_VALID, tls};
use quarry_common::ids::{
    ChunkId, ClusterId, DiskId, Epoch, KeyNumber, PoolId, ServerId, ShardId, Version,
};
use quarry_common::net::StreamType;
use quarry_common::token::{Access, Capability};
use quarry_common::wire::data::{DataRequest, ReadChunk, WriteChunk, WriteTarget};
use quarry_common::wire::meta::{MetaBody, MetaRequest};
use quarry_tests::cluster::Dev;
use quarry_tests::power::LoopDisk;
use quinn::crypto::rustls::QuicClientConfig;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// A server has closed a stream by then: a first byte or the rest of a message may be awaited for ten
/// seconds.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

fn capability(access: Access) -> Capability {
    Capability {
        key: KeyNumber(1),
        access,
        pool: PoolId(1),
        first: ChunkId(1),
        last: ChunkId(9),
        expires_at: u64::MAX,
        mac: [7; 16],
    }
}

/// What opens a stream of that kind; `wide` is the number of bytes of its length.
struct Opening {
    bytes: Vec<u8>,
    wide: usize,
}

fn opening(kind: u8) -> Opening {
    let framed = |payload: Vec<u8>| {
        let len = (8 + payload.len() as u32).to_le_bytes();
        Opening {
            bytes: [&len[..], &1u64.to_le_bytes(), &payload].concat(),
            wide: 4,
        }
    };
    let message = |body: Vec<u8>| Opening {
        bytes: [&(body.len() as u16).to_le_bytes()[..], &body].concat(),
        wide: 2,
    };
    let read = ReadChunk {
        disk: DiskId(1),
        pool: PoolId(1),
        chunk: ChunkId(1),
        capability: capability(Access::Read),
        offset: 0,
        len: 1,
    };
    let target = WriteTarget {
        disk: DiskId(1),
        pool: PoolId(1),
        chunk: ChunkId(1),
        pg_epoch: Epoch(1),
        capability: capability(Access::Write),
        on_behalf_of: None,
    };
    match kind {
        1 => framed(codec::encode(&MetaRequest {
            shard: ShardId(0),
            seen: Version(0),
            act_as: None,
            body: MetaBody::Map {
                since: Epoch(0),
                from: None,
            },
        })),
        2 => framed(codec::encode(&DataRequest::Read(read))),
        3 => message(codec::encode(&WriteChunk {
            target,
            capacity: 1 << 20,
        })),
        4 => message(codec::encode(&read)),
        _ => framed(vec![3; 40]),
    }
}

/// Everything that is sent on streams of that kind, with what it is.
fn attacks(kind: u8) -> Vec<(String, Vec<u8>)> {
    let Opening { bytes, wide } = opening(kind);
    let mut attacks = Vec::new();
    let mut random = SmallRng::seed_from_u64(u64::from(kind));
    for len in [1, 3, 12, 64, 5_000] {
        let mut garbage = vec![0; len];
        random.fill_bytes(&mut garbage);
        attacks.push((format!("{len} bytes of garbage"), garbage));
    }
    for at in 0..bytes.len() {
        attacks.push((format!("cut at byte {at}"), bytes[..at].to_vec()));
    }
    let mut longer = bytes.clone();
    longer[0] = longer[0].wrapping_add(1);
    attacks.push(("a length of one more".into(), longer));
    let mut longest = bytes.clone();
    longest[..wide].fill(0xff);
    attacks.push(("the greatest length".into(), longest));
    attacks.push(("2^32 - 1".into(), [&[0xff; 4], &bytes[..]].concat()));
    attacks
}

/// Dials as `identity`, trusting whom `user` trusts, and does not wait until the server has let us in.
async fn dial(
    identity: &Identity,
    user: &Identity,
    address: SocketAddr,
    peer: &PeerName,
) -> Result<(quinn::Endpoint, quinn::Connection)> {
    let (config, _refusal) = tls::dial(&tls::client(identity)?, user, peer)?;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    let connection = endpoint
        .connect_with(config, address, tls::SERVER_NAME)?
        .await?;
    Ok((endpoint, connection))
}

/// Sends all of it on a stream of its own and waits until the server has closed that. What it
/// answered; an error is how the stream ended.
async fn send(connection: &quinn::Connection, kind: u8, bytes: &[u8]) -> Result<Result<Vec<u8>>> {
    let sent = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        // The server may have stopped the stream before all was written.
        let written = match send.write_all(&[&[kind], bytes].concat()).await {
            Ok(()) => send.finish().map_err(anyhow::Error::from),
            Err(stopped) => Err(stopped.into()),
        };
        let answer = recv.read_to_end(1 << 20).await?;
        written?;
        anyhow::Ok(answer)
    };
    let closed = tokio::time::timeout(CLOSED_WITHIN, sent).await;
    closed.context("the server did not close the stream")
}

/// Every attack on streams of every kind at one server, as a user of the cluster: its streams end and
/// its connection stays.
async fn by_a_user(user: &Identity, address: SocketAddr, peer: &PeerName) -> Result<u32> {
    let mut ended = 0;
    for kind in kinds() {
        let (_endpoint, connection) = dial(user, user, address, peer).await?;
        for (what, bytes) in attacks(kind) {
            let answer = send(&connection, kind, &bytes).await;
            let answer = answer.with_context(|| format!("{peer}, stream {kind}, {what}"))?;
            // A stream that ends well says in its answer what is wrong, or was no more than opened.
            if let Ok(answer) = &answer {
                ensure!(
                    answer.len() < 1_000,
                    "{peer}, stream {kind}, {what}: an answer of {} bytes",
                    answer.len()
                );
            }
            ensure!(
                connection.close_reason().is_none(),
                "{peer}, stream {kind}, {what}: the connection was closed: {:?}",
                connection.close_reason()
            );
            ended += u32::from(answer.is_err());
        }
        connection.close(0u32.into(), b"done");
    }
    Ok(ended)
}

/// The same as a stranger, whom the server never answers.
async fn by_a_stranger(
    identity: &Identity,
    user: &Identity,
    address: SocketAddr,
    peer: &PeerName,
) -> Result<u32> {
    let mut sent = 0;
    for kind in kinds() {
        for (what, bytes) in attacks(kind) {
            // The server may refuse before this end counts itself in.
            let Ok((_endpoint, connection)) = dial(identity, user, address, peer).await else {
                continue;
            };
            let answer = send(&connection, kind, &bytes).await;
            let answer = answer.with_context(|| format!("{peer}, stream {kind}, {what}"))?;
            ensure!(
                answer.is_err(),
                "{peer}, stream {kind}, {what}: a stranger got an answer: {answer:?}"
            );
            let closed = tokio::time::timeout(CLOSED_WITHIN, connection.closed()).await;
            closed.with_context(|| format!("{peer} keeps the connection of a stranger"))?;
            sent += 1;
        }
    }
    Ok(sent)
}

/// All kinds, and some that do not exist.
fn kinds() -> impl Iterator<Item = u8> {
    let known = StreamType::ALL.into_iter().map(|kind| kind as u8);
    known.chain([0, 7, 255])
}

/// Somebody with a certificate of another authority, which may name this cluster or another.
fn stranger(cluster: ClusterId) -> Result<Identity> {
    let forged = Authority::create(cluster, SystemTime::now())?;
    let name = PeerName::user(cluster, "root")?;
    Ok(forged.issue(&name, USER_VALID, SystemTime::now())?)
}

/// Stores a file and reads it back, again and again.
fn transfers(dev: &Dev, scratch: &Path, over: &AtomicBool) -> Result<u32> {
    let mut bytes = vec![0; 5 << 20];
    SmallRng::seed_from_u64(77).fill_bytes(&mut bytes);
    let local = scratch.join("transferred");
    fs::write(&local, &bytes)?;
    for round in 1.. {
        dev.ok(["put", local.to_str().context("utf-8")?, "/transferred"])?;
        let back = dev.ok(["cat", "/transferred"])?.stdout;
        ensure!(back == bytes, "a transfer was harmed in round {round}");
        if over.load(Ordering::Acquire) {
            return Ok(round);
        }
    }
    Ok(0)
}

/// Where the first dataserver listens.
fn dataserver_address(dev: &Dev) -> Result<SocketAddr> {
    let plan = fs::read_to_string(dev.dir().join("dev.toml"))?;
    let line = plan
        .lines()
        .find(|line| line.starts_with("dataserver_ports"));
    let port = line.and_then(|line| line.split(['[', ',', ']']).nth(1));
    let port = port.context("dev.toml names the ports")?.trim().parse()?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

#[test]
fn nonsense_ends_its_stream_and_harms_no_other() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let dev = Dev::start(&disk.path().join("cluster"), 3)?;
    let file = ClientFile::load(&dev.client_file())?;
    let user = Identity::from_pem(&file.identity)?;
    let servers: [(SocketAddr, PeerName); 2] = [
        (
            file.metaservers[0].address.parse()?,
            PeerName::metaserver(file.cluster, ServerId(1)),
        ),
        (
            dataserver_address(&dev)?,
            PeerName::dataserver(file.cluster, ServerId(1)),
        ),
    ];
    let strangers = [stranger(file.cluster)?, stranger(ClusterId([9; 16]))?];
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let transfers = threads.spawn(|| transfers(&dev, scratch.path(), &over));
        let attacked = tokio::runtime::Runtime::new()?.block_on(async {
            for (address, peer) in &servers {
                let ended = by_a_user(&user, *address, peer).await?;
                println!("{peer}: {ended} streams ended with an error");
                ensure!(ended > 100, "hardly a stream ended with an error");
                for (number, identity) in strangers.iter().enumerate() {
                    let attack = by_a_stranger(identity, &user, *address, peer).await;
                    let sent = attack.with_context(|| format!("stranger {number}"))?;
                    println!("{peer}: {sent} streams of stranger {number} came to nothing");
                    ensure!(sent > 100, "hardly anything was sent to {peer}");
                }
            }
            Ok(())
        });
        over.store(true, Ordering::Release);
        let rounds = transfers.join().expect("a transfer panicked")?;
        println!("{rounds} transfers were unharmed meanwhile");
        attacked
    })
}
