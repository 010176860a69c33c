//! Sockets, handshakes, and who may come in.
//!
//! A handshake is over when the acceptor has said so: in TLS 1.3 the dialler is done before its own
//! certificate was looked at. So the acceptor, once it has checked name and revocation, opens a
//! one-way stream and sends its protocol version; the dialler waits for that byte, and gets the
//! reason of a refusal as an error of [`Endpoint::connect`]. The number of the acceptor's process follows: a certificate may
//! have been copied.

use super::connection::{Connection, EndCode, canonical, why};
use super::probe::{ASK_EVERY, Listener, who_listens};
use super::profile::{DATAGRAM_LEN_MAX, LinkProfile};
use super::reset_key::{RandomIds, ResetKey};
use super::socket;
use crate::error::{Code, Error, Result};
use crate::identity::{Identity, PeerName, hash_of, name_in, tls};
use crate::ids::ProcessNumber;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, Incoming, TokioRuntime};
use rustls_pki_types::CertificateDer;
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};

/// A peer that has not answered and let us in after this long is not there.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes of strangers in progress at most. One more makes the oldest go: an honest one takes
/// milliseconds, an idle one sits and is the oldest soon.
const HANDSHAKES_MAX: usize = 1_024;

/// With this many in progress, who dials must first show that it receives at its address (RFC 9000
/// §8.1.2): invented addresses cost us nothing then.
pub(super) const HANDSHAKES_TRUSTED: usize = 64;

/// Connections of one endpoint at most.
const CONNECTIONS_MAX: usize = 16_384;

/// Finished handshakes that wait for [`Endpoint::accept`].
const ACCEPTED_MAX: usize = 128;

/// What the acceptor says once the dialler is in: the version of everything after the handshake.
const WELCOME: u8 = 1;

/// How long a closing endpoint waits until its peers have heard.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends and receives for one process. Cheap to clone; [`Endpoint::close`] ends all its connections.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    process: ProcessNumber,
    settings: Arc<RwLock<Settings>>,
    /// The socket that was asked for; a client has none.
    listening: Option<Listening>,
    /// Sockets to dial from, made when first needed: IPv4, IPv6.
    dialling: Mutex<[Option<quinn::Endpoint>; 2]>,
}

struct Listening {
    quic: quinn::Endpoint,
    address: SocketAddr,
    /// A queue: the lock is held while waiting, so that each connection goes to one caller.
    accepted: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
    acceptor: JoinHandle<()>,
}

/// What follows from the identity.
#[derive(Clone)]
struct Settings {
    identity: Arc<Identity>,
    dial: Arc<rustls::ClientConfig>,
    /// By profile: loopback, Ethernet.
    accept: Arc<[Arc<quinn::ServerConfig>; 2]>,
}

impl Settings {
    fn new(identity: Arc<Identity>) -> Result<Settings> {
        let tls = tls::server(&identity)?;
        let crypto = QuicServerConfig::try_from(tls)
            .map_err(|error| Error::bug("QUIC can not use our ciphers").with_source(error))?;
        let crypto = Arc::new(crypto);
        let config = |profile: LinkProfile| {
            let mut config = quinn::ServerConfig::with_crypto(crypto.clone());
            config
                .transport_config(profile.transport())
                .max_incoming(2 * HANDSHAKES_MAX)
                .incoming_buffer_size(64 << 10)
                .incoming_buffer_size_total(16 << 20)
                // The profile belongs to the path.
                .migration(false);
            Arc::new(config)
        };
        Ok(Settings {
            dial: Arc::new(tls::client(&identity)?),
            accept: Arc::new([config(LinkProfile::Loopback), config(LinkProfile::Ethernet)]),
            identity,
        })
    }

    fn accept_with(&self, profile: LinkProfile) -> Arc<quinn::ServerConfig> {
        match profile {
            LinkProfile::Loopback => self.accept[0].clone(),
            LinkProfile::Ethernet | LinkProfile::Jumbo => self.accept[1].clone(),
        }
    }
}

impl Endpoint {
    /// Listens on `listen` and lets in those of the cluster whom `allow` allows, by name and
    /// certificate hash: the place for revocation, and for roles that have no business here.
    ///
    /// `allow` is asked once for each connection, from within a task: it must not block. Needs a
    /// tokio runtime. Port 0 takes a free one: see [`Endpoint::local_addr`].
    ///
    /// # Errors
    /// `Configuration`: the address can not be listened on, or the identity not be used.
    pub fn server(
        identity: Arc<Identity>,
        listen: SocketAddr,
        allow: impl Fn(&PeerName, &[u8; 32]) -> bool + Send + Sync + 'static,
    ) -> Result<Endpoint> {
        let settings = Settings::new(identity)?;
        let socket = socket::bind(listen)?;
        let address = socket.local_addr().map_err(socket_failed)?;
        let key = ResetKey::derive(settings.identity.to_pem().as_bytes());
        let mut config = EndpointConfig::new(Arc::new(key));
        config
            .max_udp_payload_size(DATAGRAM_LEN_MAX)
            .map_err(|error| Error::bug("a datagram's length is refused").with_source(error))?
            .cid_generator(|| Box::new(RandomIds));
        let quic = quinn::Endpoint::new(
            config,
            Some((*settings.accept_with(LinkProfile::Ethernet)).clone()),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(socket_failed)?;
        let settings = Arc::new(RwLock::new(settings));
        let process = ProcessNumber(rand::random());
        let (finished, accepted) = mpsc::channel(ACCEPTED_MAX);
        let acceptor = tokio::spawn(accept_all(
            quic.clone(),
            process,
            settings.clone(),
            Arc::new(allow),
            finished,
        ));
        Ok(Endpoint {
            inner: Arc::new(Inner {
                process,
                settings,
                listening: Some(Listening {
                    quic,
                    address,
                    accepted: tokio::sync::Mutex::new(accepted),
                    acceptor,
                }),
                dialling: Mutex::default(),
            }),
        })
    }

    /// Only dials.
    ///
    /// # Errors
    /// `Configuration`: the identity can not be used.
    pub fn client(identity: Arc<Identity>) -> Result<Endpoint> {
        Ok(Endpoint {
            inner: Arc::new(Inner {
                process: ProcessNumber(rand::random()),
                settings: Arc::new(RwLock::new(Settings::new(identity)?)),
                listening: None,
                dialling: Mutex::default(),
            }),
        })
    }

    /// Who this endpoint is.
    pub fn identity(&self) -> Arc<Identity> {
        self.settings().identity
    }

    /// What tells it from others with the same certificate.
    pub fn process(&self) -> ProcessNumber {
        self.inner.process
    }

    /// Takes a renewed identity for all connections from now on.
    ///
    /// # Errors
    /// `Configuration`: it can not be used; the old one stays.
    pub fn set_identity(&self, identity: Arc<Identity>) -> Result<()> {
        let settings = Settings::new(identity)?;
        if let Some(listening) = &self.inner.listening {
            let config = (*settings.accept_with(LinkProfile::Ethernet)).clone();
            listening.quic.set_server_config(Some(config));
        }
        *self
            .inner
            .settings
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = settings;
        Ok(())
    }

    /// Where it listens; a client that has not dialled is at no address.
    ///
    /// # Errors
    /// `Configuration`: it does not listen.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        match &self.inner.listening {
            Some(listening) => Ok(listening.address),
            None => Err(Error::new(
                Code::Configuration,
                "this endpoint does not listen",
            )),
        }
    }

    /// The next peer that is in. `None` once the endpoint is closed, and of a client.
    ///
    /// Cancel-safe. Handshakes go on at the same time and wait for nobody.
    pub async fn accept(&self) -> Option<Connection> {
        match &self.inner.listening {
            Some(listening) => listening.accepted.lock().await.recv().await,
            None => None,
        }
    }

    /// Connects to the peer of that name, which should be at `address`.
    ///
    /// Cancel-safe: a dropped attempt leaves nothing behind.
    ///
    /// # Errors
    /// `Unreachable`: nobody answers there within five seconds; `OtherServer`: somebody else of the cluster
    /// does, or what is no server of ours; `Configuration`: one of the two certificates is refused; `WrongRole`: we are not
    /// allowed there (revoked, or our role); `Overloaded`: it has too many connections.
    pub async fn connect(&self, address: SocketAddr, peer: &PeerName) -> Result<Connection> {
        let failed = |error: Error| error.context(format!("connect to {peer} at {address}"));
        let attempt = async {
            tokio::select! {
                biased;
                connected = self.handshake(address, peer) => connected,
                refused = not_ours(address) => Err(refused),
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(failed(Error::new(
                Code::Unreachable,
                format!(
                    "no answer within {} s: is it running, and is UDP let through?",
                    CONNECT_TIMEOUT.as_secs()
                ),
            ))),
        }
    }

    async fn handshake(&self, address: SocketAddr, peer: &PeerName) -> Result<Connection> {
        let settings = self.settings();
        let (tls, refusal) = tls::dial(&settings.dial, &settings.identity, peer)?;
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|error| Error::bug("QUIC can not use our ciphers").with_source(error))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(LinkProfile::of(address).transport());
        let connecting = self
            .endpoint_for(address)?
            .connect_with(config, address, tls::SERVER_NAME)
            .map_err(|error| {
                Error::new(Code::Unreachable, format!("can not be dialled ({error})"))
                    .with_source(error)
            })?;
        let failed = |error: quinn::ConnectionError| match refusal.get() {
            Some(refusal) => refused_by_us(refusal),
            None => refused_by_peer(error),
        };
        let quic = connecting.await.map_err(failed)?;
        let (name, hash) = peer_of(&quic)?;
        let mut welcome = quic.accept_uni().await.map_err(failed)?;
        let mut version = [0];
        if let Err(error) = welcome.read_exact(&mut version).await {
            return Err(match quic.close_reason() {
                Some(reason) => refused_by_peer(reason),
                None => Error::new(Code::Unreachable, format!("it did not let us in ({error})")),
            });
        }
        if version != [WELCOME] {
            quic.close(EndCode::Malformed.into(), b"unknown version");
            return Err(Error::new(
                Code::TooNew,
                format!(
                    "it speaks version {} of the protocol, this program {WELCOME}: use the same quarry on both",
                    version[0]
                ),
            ));
        }
        // Older acceptors do not say it.
        let mut process = [0; 8];
        let told = welcome.read_exact(&mut process).await.is_ok();
        let process = told.then(|| ProcessNumber(u64::from_le_bytes(process)));
        Ok(Connection::new(quic, name, hash, process))
    }

    /// The listening socket where it can reach the address, else one to dial from.
    fn endpoint_for(&self, address: SocketAddr) -> Result<quinn::Endpoint> {
        if let Some(Listening {
            quic,
            address: local,
            ..
        }) = &self.inner.listening
        {
            let anywhere = local.ip().is_unspecified();
            let loopback = local.ip().to_canonical().is_loopback();
            let to_loopback = address.ip().to_canonical().is_loopback();
            let reaches = anywhere || loopback == to_loopback;
            let speaks = local.is_ipv4() == address.is_ipv4() || (anywhere && local.is_ipv6());
            if reaches && speaks {
                return Ok(quic.clone());
            }
        }
        let mut dialling = self
            .inner
            .dialling
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let (slot, any): (_, IpAddr) = match address {
            SocketAddr::V4(_) => (&mut dialling[0], Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&mut dialling[1], Ipv6Addr::UNSPECIFIED.into()),
        };
        if let Some(quic) = slot {
            return Ok(quic.clone());
        }
        let mut config = EndpointConfig::default();
        config
            .max_udp_payload_size(DATAGRAM_LEN_MAX)
            .map_err(|error| Error::bug("a datagram's length is refused").with_source(error))?;
        let socket = socket::bind(SocketAddr::new(any, 0))?;
        let quic = quinn::Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
            .map_err(socket_failed)?;
        *slot = Some(quic.clone());
        Ok(quic)
    }

    /// Ends all connections, tells the peers why, and waits up to a second until they have heard.
    pub async fn close(&self, reason: &str) {
        let mut quics: Vec<quinn::Endpoint> = self
            .inner
            .dialling
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .iter()
            .flatten()
            .cloned()
            .collect();
        if let Some(listening) = &self.inner.listening {
            listening.acceptor.abort();
            quics.push(listening.quic.clone());
        }
        for quic in &quics {
            quic.close(EndCode::Done.into(), reason.as_bytes());
        }
        let idle = async {
            for quic in &quics {
                quic.wait_idle().await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, idle).await.is_err() {
            tracing::debug!("some peers have not confirmed the end of their connections");
        }
    }

    fn settings(&self) -> Settings {
        settings_of(&self.inner.settings)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.settings().identity.name())
    }
}

fn settings_of(settings: &RwLock<Settings>) -> Settings {
    settings
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .clone()
}

fn socket_failed(error: std::io::Error) -> Error {
    Error::new(
        Code::Configuration,
        format!("a UDP socket can not be used ({error})"),
    )
    .with_source(error)
}

/// Name and certificate hash of an authenticated peer.
fn peer_of(quic: &quinn::Connection) -> Result<(PeerName, [u8; 32])> {
    let certificates = quic
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .unwrap_or_default();
    let certificate = certificates
        .first()
        .ok_or_else(|| Error::bug("a peer without a certificate passed the handshake"))?;
    let name = name_in(certificate)
        .map_err(|refusal| Error::new(Code::Configuration, refusal.to_string()))?;
    Ok((name, hash_of(certificate)))
}

fn refused_by_us(refusal: &crate::identity::Refusal) -> Error {
    use crate::identity::Refusal;
    let code = match refusal {
        // The address may have been given to another server: the map will tell.
        Refusal::OtherPeer { .. } => Code::OtherServer,
        Refusal::Unreadable
        | Refusal::NotSigned(_)
        | Refusal::ForeignCluster { .. }
        | Refusal::Expired(_)
        | Refusal::NotYetValid(_)
        | Refusal::NoName(_)
        | Refusal::Unusable => Code::Configuration,
    };
    Error::new(code, format!("the server was refused: {refusal}"))
}

fn refused_by_peer(error: quinn::ConnectionError) -> Error {
    use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, TransportError};
    let code = match &error {
        ApplicationClosed(close) if close.error_code == EndCode::NotAllowed.into() => {
            Code::WrongRole
        }
        ApplicationClosed(close) if close.error_code == EndCode::Overloaded.into() => {
            Code::Overloaded
        }
        ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            Code::Overloaded
        }
        // TLS alerts are 0x100 and above (RFC 9001 §4.8).
        ConnectionClosed(close) if u64::from(close.error_code) >= 0x100 => Code::Configuration,
        TransportError(own) if u64::from(own.code) >= 0x100 => Code::Configuration,
        _ => Code::Unreachable,
    };
    let told = Error::new(code, why(&error));
    match &error {
        // Its words are told whole; the source would only repeat them.
        ConnectionClosed(close) if !close.reason.is_empty() => told,
        _ => told.with_source(error),
    }
}

/// Ends when nothing listens there, or when something else than a QUIC server does.
async fn not_ours(address: SocketAddr) -> Error {
    loop {
        match who_listens(address, ASK_EVERY).await {
            Listener::Nobody(error) => return error,
            Listener::Other => {
                let text = "what answers there is no quarry server: check the address";
                return Error::new(Code::OtherServer, text);
            }
            // The handshake decides, unless it ends first.
            Listener::Quic => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

/// Takes in all that dial, each in a task of its own.
async fn accept_all(
    quic: quinn::Endpoint,
    process: ProcessNumber,
    settings: Arc<RwLock<Settings>>,
    allow: Arc<impl Fn(&PeerName, &[u8; 32]) -> bool + Send + Sync + 'static>,
    finished: mpsc::Sender<Connection>,
) {
    let trusted = Arc::new(Semaphore::new(HANDSHAKES_TRUSTED));
    let mut handshakes: VecDeque<AbortHandle> = VecDeque::with_capacity(HANDSHAKES_MAX);
    while let Some(incoming) = quic.accept().await {
        if quic.open_connections() >= CONNECTIONS_MAX {
            incoming.refuse();
            continue;
        }
        let permit = trusted.clone().try_acquire_owned().ok();
        if permit.is_none() && !incoming.remote_address_validated() && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                tracing::debug!(%error, "an address could not be validated");
            }
            continue;
        }
        if handshakes.len() >= HANDSHAKES_MAX
            && let Some(oldest) = handshakes.pop_front()
        {
            oldest.abort();
        }
        let settings = settings_of(&settings);
        let (allow, finished) = (allow.clone(), finished.clone());
        let task = tokio::spawn(async move {
            let remote = canonical(incoming.remote_address());
            let welcomed = welcome(incoming, process, &settings, &*allow);
            let result = tokio::time::timeout(CONNECT_TIMEOUT, welcomed).await;
            drop(permit);
            match result {
                Ok(Ok(connection)) => {
                    tracing::debug!(peer = %connection.peer(), %remote, "connected");
                    // Closed: nobody accepts any more, and dropping it tells the peer.
                    let _closed = finished.send(connection).await;
                }
                Ok(Err(error)) => tracing::info!(%remote, %error, "a peer was refused"),
                Err(_) => tracing::debug!(%remote, "a handshake was not finished in time"),
            }
        });
        handshakes.push_back(task.abort_handle());
    }
}

async fn welcome(
    incoming: Incoming,
    process: ProcessNumber,
    settings: &Settings,
    allow: &(impl Fn(&PeerName, &[u8; 32]) -> bool + Sync),
) -> Result<Connection> {
    let profile = LinkProfile::of_incoming(incoming.remote_address().ip(), incoming.local_ip());
    let quic = incoming
        .accept_with(settings.accept_with(profile))
        .map_err(refused_by_peer)?
        .await
        .map_err(refused_by_peer)?;
    let (name, hash) = peer_of(&quic)?;
    if !allow(&name, &hash) {
        let text = format!(
            "{name} is not allowed here: its certificate is revoked, or its role may not connect to this server"
        );
        quic.close(EndCode::NotAllowed.into(), text.as_bytes());
        return Err(Error::new(Code::WrongRole, text));
    }
    let mut welcome = quic.open_uni().await.map_err(refused_by_peer)?;
    let greet = |error: &dyn fmt::Display| {
        Error::new(Code::Disconnected, format!("{name} left at once ({error})"))
    };
    let mut said = vec![WELCOME];
    said.extend_from_slice(&process.0.to_le_bytes());
    welcome
        .write_all(&said)
        .await
        .map_err(|error| greet(&error))?;
    welcome.finish().map_err(|error| greet(&error))?;
    Ok(Connection::new(quic, name, hash, None))
}
