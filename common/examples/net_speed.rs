//! How fast the transport is here: one bulk stream, and requests over one long stream, client and
//! server in one process over loopback. Compare within one run, and carry CPU seconds per GB and
//! microseconds per operation to other machines.
//!
//! `cargo run --release -p quarry-common --example net_speed [WORKERS [SECONDS]]`

use bytes::Bytes;
use quarry_common::identity::{Authority, Identity, PeerName, SERVER_VALID};
use quarry_common::ids::{ClusterId, ServerId};
use quarry_common::limits::FRAME_LEN_MAX;
use quarry_common::net::{
    BulkReader, BulkWriter, Connection, Endpoint, Requests, StreamType, serve,
};
use quarry_common::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const REQUEST_LEN: usize = 200;
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| match arguments.next() {
        Some(text) => text
            .parse()
            .map_err(|error| Error::new(quarry_common::Code::Invalid, format!("{text}: {error}"))),
        None => Ok(default),
    };
    let workers = number(2)?;
    let seconds = Duration::from_secs(number(3)?);
    let mut runtime = match workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if workers > 0 {
        runtime.worker_threads(workers as usize);
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Error::bug("no runtime").with_source(error))?;
    println!("workers: {workers} (0: current_thread), {seconds:?} each");
    // A task, so that it runs on a worker: the main thread of a runtime is none.
    runtime
        .block_on(async move { tokio::spawn(measure(seconds)).await })
        .map_err(|error| Error::bug("the measurement panicked").with_source(error))?
}

async fn measure(seconds: Duration) -> Result<()> {
    let cluster = ClusterId([7; 16]);
    let authority = Authority::create(cluster, SystemTime::now())?;
    let issue = |name: &PeerName| -> Result<Arc<Identity>> {
        authority
            .issue(name, SERVER_VALID, SystemTime::now())
            .map(Arc::new)
    };
    let name = PeerName::dataserver(cluster, ServerId(1));
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Endpoint::server(issue(&name)?, listen, |_, _| true)?;
    let address = server.local_addr()?;
    tokio::spawn(async move {
        while let Some(connection) = server.accept().await {
            tokio::spawn(answer(connection));
        }
    });
    let client = Endpoint::client(issue(&PeerName::user(cluster, "speed")?)?)?;

    let begun = Instant::now();
    let connection = client.connect(address, &name).await?;
    println!("connect: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    // Discovery of the link's datagram size takes a moment, and a moment of traffic.
    bulk(&connection, Duration::from_millis(300)).await?;

    for _ in 0..3 {
        let (cpu, begun) = (cpu_seconds(), Instant::now());
        let len = bulk(&connection, seconds).await?;
        let gigabytes = len as f64 / 1e9;
        println!(
            "bulk, 1 stream: {:.2} GB/s, {:.2} CPU-s/GB (both ends), datagrams of {} B, {} lost",
            gigabytes / begun.elapsed().as_secs_f64(),
            (cpu_seconds() - cpu) / gigabytes,
            connection.stats().path.current_mtu,
            connection.stats().path.lost_packets,
        );
    }
    let requests = Requests::new(&connection, StreamType::DataRequests);
    for in_flight in [1, 16, 128, 1024] {
        let (cpu, begun) = (cpu_seconds(), Instant::now());
        let count = ask(&requests, in_flight, seconds).await?;
        println!(
            "requests of {REQUEST_LEN} B, {in_flight:4} in flight: {:.0}/s, {:.2} µs of CPU each (both ends)",
            count as f64 / begun.elapsed().as_secs_f64(),
            (cpu_seconds() - cpu) * 1e6 / count as f64,
        );
    }
    client.close("measured").await;
    Ok(())
}

/// Of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn answer(connection: Connection) {
    while let Ok((kind, send, recv)) = connection.accept().await {
        match kind {
            StreamType::WriteChunk => {
                tokio::spawn(swallow(BulkReader::new(recv)));
            }
            _ => {
                tokio::spawn(serve(send, recv, 1024, |request| async move { request }));
            }
        }
    }
}

async fn swallow(mut reader: BulkReader) -> Result<()> {
    while reader.read_small_or_end(8).await?.is_some() {
        reader.read_exact_pieces(FRAME_LEN_MAX).await?;
    }
    Ok(())
}

/// Writes frames of 1 MiB for so long; the bytes that the peer has.
async fn bulk(connection: &Connection, seconds: Duration) -> Result<u64> {
    let (send, _recv) = connection.open(StreamType::WriteChunk).await?;
    let mut writer = BulkWriter::new(send);
    let data = Bytes::from(vec![0x5a; FRAME_LEN_MAX]);
    let begun = Instant::now();
    let mut len = 0;
    while begun.elapsed() < seconds {
        writer
            .write_pieces(&mut [Bytes::from_static(b"01234567"), data.clone()])
            .await?;
        len += FRAME_LEN_MAX as u64;
    }
    writer.finish()?;
    writer.delivered().await?;
    Ok(len)
}

async fn ask(requests: &Requests, in_flight: usize, seconds: Duration) -> Result<u64> {
    let begun = Instant::now();
    let askers: Vec<_> = (0..in_flight)
        .map(|_| {
            let requests = requests.clone();
            tokio::spawn(async move {
                let payload = Bytes::from(vec![1; REQUEST_LEN]);
                let mut count = 0;
                while begun.elapsed() < seconds {
                    requests.call(payload.clone(), TIMEOUT).await?;
                    count += 1;
                }
                Result::Ok(count)
            })
        })
        .collect();
    let mut count = 0;
    for asker in askers {
        count += asker
            .await
            .map_err(|error| Error::bug("an asker panicked").with_source(error))??;
    }
    Ok(count)
}
