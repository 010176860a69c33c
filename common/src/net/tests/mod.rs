//! Endpoints over loopback.

mod alive;
mod bulk;
mod hostile;
mod peers;
mod requests;
mod trust;

use super::*;
use crate::identity::{Authority, Identity, PeerName, SERVER_VALID};
use crate::ids::{ClusterId, ServerId};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const LOOPBACK: &str = "127.0.0.1:0";

/// One authority for all tests.
static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::create(CLUSTER, SystemTime::now()).unwrap());

fn meta(id: u32) -> PeerName {
    PeerName::metaserver(CLUSTER, ServerId(id))
}

fn user(name: &str) -> PeerName {
    PeerName::user(CLUSTER, name).unwrap()
}

fn identity(name: &PeerName) -> Arc<Identity> {
    Arc::new(
        AUTHORITY
            .issue(name, SERVER_VALID, SystemTime::now())
            .unwrap(),
    )
}

fn server(name: &PeerName) -> (Endpoint, SocketAddr) {
    let endpoint = Endpoint::server(identity(name), LOOPBACK.parse().unwrap(), |_, _| true);
    let endpoint = endpoint.unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

fn client() -> Endpoint {
    Endpoint::client(identity(&user("anna"))).unwrap()
}

/// A connection as both ends see it, with the endpoints that carry it: dialler first.
struct Pair {
    ours: Connection,
    theirs: Connection,
    _endpoints: [Endpoint; 2],
}

/// Connects to metaserver 1; both ends.
async fn meet(client: &Endpoint, server: &Endpoint) -> (Connection, Connection) {
    let (address, name) = (server.local_addr().unwrap(), meta(1));
    let both = async { tokio::join!(client.connect(address, &name), server.accept()) };
    let (ours, theirs) = soon(both).await;
    (ours.unwrap(), theirs.unwrap())
}

async fn pair() -> Pair {
    let (server, _) = server(&meta(1));
    let client = client();
    let (ours, theirs) = meet(&client, &server).await;
    Pair {
        ours,
        theirs,
        _endpoints: [client, server],
    }
}

/// Serves every request stream of every connection; answers with the request, later for odd sums.
fn serve_echo(endpoint: Endpoint) {
    tokio::spawn(async move {
        while let Some(connection) = endpoint.accept().await {
            tokio::spawn(serve_echo_on(connection));
        }
    });
}

async fn serve_echo_on(connection: Connection) {
    while let Ok((_, send, recv)) = connection.accept().await {
        tokio::spawn(serve(send, recv, 512, echo));
    }
}

async fn echo(request: Bytes) -> Bytes {
    let sum: u32 = request.iter().map(|byte| u32::from(*byte)).sum();
    if sum % 2 == 1 {
        tokio::time::sleep(Duration::from_millis(u64::from(sum % 7))).await;
    }
    request
}

const SOON: Duration = Duration::from_secs(5);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("it takes too long")
}
