//! Who gets in, and what the others are told.

use super::*;
use crate::error::Code;
use crate::identity::tls;
use quinn::crypto::rustls::QuicClientConfig;
use std::sync::atomic::{AtomicBool, Ordering};

const DAY: Duration = Duration::from_secs(86_400);

/// What a client with that identity is told by an honest server, and by itself.
async fn told_to(dialler: Identity) -> crate::Error {
    let (server, address) = server(&meta(1));
    let client = Endpoint::client(Arc::new(dialler)).unwrap();
    let connected = soon(client.connect(address, &meta(1))).await;
    // Whatever the client says: the server must not have let it in.
    let accepted = tokio::time::timeout(Duration::from_millis(100), server.accept()).await;
    assert!(accepted.is_err(), "the server let it in");
    connected.expect_err("it got in")
}

/// What an honest client says about a server with that identity.
async fn told_about(acceptor: Identity) -> crate::Error {
    let listen = LOOPBACK.parse().unwrap();
    let server = Endpoint::server(Arc::new(acceptor), listen, |_, _| true).unwrap();
    let address = server.local_addr().unwrap();
    soon(client().connect(address, &meta(1)))
        .await
        .expect_err("it was believed")
}

fn issued_at(name: &PeerName, now: SystemTime) -> Identity {
    AUTHORITY.issue(name, SERVER_VALID, now).unwrap()
}

fn of_authority(cluster: ClusterId, name: &PeerName) -> Identity {
    let now = SystemTime::now();
    let authority = Authority::create(cluster, now).unwrap();
    authority.issue(name, SERVER_VALID, now).unwrap()
}

/// The certificate and key of `shown`, with the authority of `believed`: someone who lies about
/// where it belongs.
fn disguised(shown: &Identity, believed: &Identity) -> Identity {
    let split = |pem: &str| pem.rfind("-----BEGIN CERTIFICATE").unwrap();
    let (own, authority) = (shown.to_pem(), believed.to_pem());
    let pem = format!("{}{}", &own[..split(own)], &authority[split(authority)..]);
    Identity::from_pem(&pem).unwrap()
}

#[tokio::test]
async fn peers_of_one_cluster_know_each_other_by_name() {
    // The endpoints go here: connections live on without their handles.
    let Pair { ours, theirs, .. } = pair().await;
    assert_eq!(ours.peer(), &meta(1));
    assert_eq!(theirs.peer(), &user("anna"));
    assert_ne!(ours.peer_hash(), theirs.peer_hash());
    assert!(ours.remote_address().ip().is_loopback());
    drop(ours);
    let error = soon(theirs.closed()).await;
    assert_eq!(error.code, Code::Disconnected);
    assert!(theirs.is_closed());
}

#[tokio::test]
async fn an_expired_client_is_refused_and_told_so() {
    let now = SystemTime::now();
    let error = told_to(issued_at(&user("anna"), now - SERVER_VALID - DAY * 3)).await;
    assert_eq!(error.code, Code::Configuration);
    assert!(error.text.contains("expired 3 days ago"), "{error}");
    let with_source = error.clone().text;
    assert_eq!(with_source.matches("expired").count(), 1, "{with_source}");
}

#[tokio::test]
async fn a_client_from_the_future_is_refused_and_told_so() {
    let error = told_to(issued_at(&user("anna"), SystemTime::now() + DAY * 2)).await;
    assert_eq!(error.code, Code::Configuration);
    assert!(error.text.contains("becomes valid only in"), "{error}");
}

#[tokio::test]
async fn a_client_of_another_cluster_is_refused_and_told_so() {
    let cluster = ClusterId([9; 16]);
    let name = PeerName::user(cluster, "anna").unwrap();
    let stranger = disguised(&of_authority(cluster, &name), &identity(&user("anna")));
    // It would refuse the server as well: it must be the server that refuses.
    let dialler = AUTHORITY
        .issue(&user("x"), SERVER_VALID, SystemTime::now())
        .unwrap();
    let error = raw_connect(&stranger, &dialler).await;
    assert!(error.contains("belongs to cluster 0909"), "{error}");
}

#[tokio::test]
async fn a_client_of_a_forged_authority_is_refused_and_told_so() {
    let forged = of_authority(CLUSTER, &user("anna"));
    let error = told_to(disguised(&forged, &identity(&user("anna")))).await;
    assert_eq!(error.code, Code::Configuration);
    assert!(
        error.text.contains("was not signed by the authority"),
        "{error}"
    );
}

/// Shows the certificate of `shown`, and believes whom `believing` believes.
async fn raw_connect(shown: &Identity, believing: &Identity) -> String {
    let (server, address) = server(&meta(1));
    let base = tls::client(shown).unwrap();
    let (config, _) = tls::dial(&base, believing, &meta(1)).unwrap();
    let connected = soon(raw_dial(config, address)).await;
    let accepted = tokio::time::timeout(Duration::from_millis(100), server.accept()).await;
    assert!(accepted.is_err(), "the server let it in");
    connected.expect_err("it got in")
}

/// As far as the acceptor's welcome.
async fn raw_dial(config: rustls::ClientConfig, address: SocketAddr) -> Result<(), String> {
    let endpoint = quinn::Endpoint::client(LOOPBACK.parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(config).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint
        .connect_with(config, address, tls::SERVER_NAME)
        .unwrap();
    let connection = connecting.await.map_err(|error| connection::why(&error))?;
    match connection.accept_uni().await {
        Ok(_) => Ok(()),
        Err(error) => Err(connection::why(&error)),
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let (server, address) = server(&meta(1));
    let base = tls::client(&identity(&user("anna"))).unwrap();
    let (mut config, _) = tls::dial(&base, &identity(&user("anna")), &meta(1)).unwrap();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let error = soon(raw_dial(config, address)).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    let accepted = tokio::time::timeout(Duration::from_millis(100), server.accept()).await;
    assert!(accepted.is_err(), "the server let it in");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let (_server, address) = server(&meta(1));
    let base = tls::client(&identity(&user("anna"))).unwrap();
    let (mut config, _) = tls::dial(&base, &identity(&user("anna")), &meta(1)).unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    assert!(soon(raw_dial(config, address)).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_not_who_was_dialled_is_refused() {
    let error = told_about(issued_at(&meta(2), SystemTime::now())).await;
    assert_eq!(error.code, Code::OtherServer);
    assert!(
        error.text.contains(&format!("is of {}", meta(2))),
        "{error}"
    );
    assert!(!error.text.contains("wrong role"), "{error}");
}

#[tokio::test]
async fn a_server_of_the_wrong_role_is_refused_and_the_role_named() {
    for name in [user("1"), PeerName::dataserver(CLUSTER, ServerId(1))] {
        let error = told_about(issued_at(&name, SystemTime::now())).await;
        let wanted = format!("wrong role: {} instead of metaserver", name.role);
        assert!(error.text.contains(&wanted), "{error}");
    }
}

#[tokio::test]
async fn servers_with_wrong_certificates_are_refused_with_the_reason() {
    let now = SystemTime::now();
    let error = told_about(issued_at(&meta(1), now - SERVER_VALID - DAY)).await;
    assert!(error.text.contains("expired 1 day ago"), "{error}");
    let error = told_about(issued_at(&meta(1), now + DAY)).await;
    assert!(error.text.contains("becomes valid only in"), "{error}");
    let error = told_about(of_authority(CLUSTER, &meta(1))).await;
    assert!(error.text.contains("was not signed by"), "{error}");
    let cluster = ClusterId([9; 16]);
    let name = PeerName::metaserver(cluster, ServerId(1));
    let error = told_about(of_authority(cluster, &name)).await;
    assert_eq!(error.code, Code::Configuration);
    assert!(error.text.contains("belongs to cluster 0909"), "{error}");
}

#[tokio::test]
async fn a_revoked_peer_is_told_that_it_is_not_allowed() {
    let revoked = identity(&user("bob"));
    let hash = revoked.hash();
    let listen = LOOPBACK.parse().unwrap();
    let server = Endpoint::server(identity(&meta(1)), listen, move |_, found| *found != hash);
    let server = server.unwrap();
    let address = server.local_addr().unwrap();
    let error = Endpoint::client(revoked)
        .unwrap()
        .connect(address, &meta(1))
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::WrongRole);
    assert!(error.text.contains("not allowed here"), "{error}");
    // The same user with a new certificate is in.
    let renewed = Endpoint::client(identity(&user("bob"))).unwrap();
    soon(renewed.connect(address, &meta(1))).await.unwrap();
}

#[tokio::test]
async fn a_renewed_identity_is_shown_from_then_on() {
    let (server, address) = server(&meta(1));
    let client = client();
    let first = client.connect(address, &meta(1)).await.unwrap();
    let renewed = identity(&meta(1));
    server.set_identity(renewed.clone()).unwrap();
    let second = client.connect(address, &meta(1)).await.unwrap();
    assert_ne!(first.peer_hash(), second.peer_hash());
    assert_eq!(second.peer_hash(), renewed.hash());
    assert!(!first.is_closed());
}

#[tokio::test]
async fn servers_dial_from_the_socket_that_they_listen_on() {
    let (one, at_one) = server(&meta(1));
    let (two, at_two) = server(&meta(2));
    let connection = soon(one.connect(at_two, &meta(2))).await.unwrap();
    let seen = soon(two.accept()).await.unwrap();
    assert_eq!(seen.remote_address(), at_one);
    assert_eq!(seen.peer(), &meta(1));
    assert_eq!(connection.remote_address(), at_two);
}

#[tokio::test]
async fn nobody_there_is_known_at_once() {
    let address = {
        let (server, address) = server(&meta(1));
        server.close("test").await;
        drop(server);
        address
    };
    // The socket goes with the endpoint's driver, a moment later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = std::time::Instant::now();
    let error = client().connect(address, &meta(1)).await.unwrap_err();
    assert_eq!(error.code, Code::Unreachable);
    assert!(begun.elapsed() < Duration::from_secs(2), "{error}");
    assert!(error.text.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn what_is_no_server_of_ours_is_known_by_its_answer() {
    let other = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = other.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 2_000];
        while let Ok((len, from)) = other.recv_from(&mut datagram).await {
            other.send_to(&datagram[..len], from).await.unwrap();
        }
    });
    let error = client().connect(address, &meta(1)).await.unwrap_err();
    assert_eq!(error.code, Code::OtherServer, "{error}");
    assert!(error.text.contains("no quarry server"), "{error}");
}

#[tokio::test]
async fn a_server_that_was_started_again_resets_its_old_connections() {
    let own = identity(&meta(1));
    let listen = LOOPBACK.parse().unwrap();
    let client = client();
    // The first life ends without a word, as after a kill: its runtime is dropped.
    let first_life = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let guard = first_life.enter();
    let server = Endpoint::server(own.clone(), listen, |_, _| true).unwrap();
    let address = server.local_addr().unwrap();
    drop(guard);
    let connection = soon(client.connect(address, &meta(1))).await.unwrap();
    let kept = soon(server.accept()).await.unwrap();
    let ended = std::thread::spawn(move || first_life.shutdown_timeout(SOON));
    ended.join().unwrap();
    // With its driver gone the connection can say nothing any more.
    drop((kept, server));
    let begun = std::time::Instant::now();
    let reborn = loop {
        match Endpoint::server(own.clone(), address, |_, _| true) {
            Ok(endpoint) => break endpoint,
            Err(_) if begun.elapsed() < SOON => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let noticed = Arc::new(AtomicBool::new(false));
    let watch = tokio::spawn({
        let (connection, noticed) = (connection.clone(), noticed.clone());
        async move {
            let error = connection.closed().await;
            noticed.store(true, Ordering::SeqCst);
            error
        }
    });
    // The keep-alive would find it within two seconds, the idle timeout within ten.
    let error = soon(watch).await.unwrap();
    assert!(error.text.contains("started again"), "{error}");
    assert!(noticed.load(Ordering::SeqCst));
    soon(client.connect(address, &meta(1))).await.unwrap();
    reborn.close("test").await;
}

#[tokio::test]
async fn nobody_there_is_known_although_the_first_word_of_it_was_lost() {
    // It takes the first probe and says nothing, as a machine does that has just said so to somebody else.
    let deaf = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = deaf.local_addr().unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(deaf);
    });
    let began = std::time::Instant::now();
    let error = client().connect(address, &meta(1)).await.unwrap_err();
    assert_eq!(error.code, Code::Unreachable, "{error}");
    assert!(began.elapsed() < Duration::from_secs(3), "{error}");
}
