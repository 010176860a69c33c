//! Settings of a connection for the link that it runs over. All figures are measured: the wrong
//! ones cost up to a factor of four, or stop the connection altogether.

use crate::limits::BULK_STREAMS_MAX;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// The largest UDP payload that fits an IPv4 packet: what an endpoint is ready to receive.
pub const DATAGRAM_LEN_MAX: u16 = 65_507;

/// Socket buffers, and the windows that must not exceed them: what is in flight beyond the
/// receiver's socket buffer is lost, not faster.
pub const BUFFER_LEN: usize = 4 << 20;

/// Nothing heard for this long: the connection is dead. The keep-alive fits it four times.
const IDLE_TIMEOUT_MS: u32 = 10_000;
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A connection's window in windows of one stream: so many streams whose readers stand still do not
/// stop the others. What is in flight stays bounded by the send window.
const STALLED_STREAMS: u32 = 16;

/// What may be in flight at first on loopback. The probes of discovery count: with the usual 14 KB a
/// single one of 57 KB holds up all else, even the news that a connection is closed (measured).
const LOOPBACK_INITIAL_WINDOW: u64 = 1 << 20;

/// Discovery on loopback ends when its next step were smaller than this, with a last probe of the most: 33, 49, 57, 61 and 65.5 KB.
/// A step of 20 bytes, the default, makes eleven probes of 640 KB in all, each way, and their padding is read byte for byte:
/// a fifth of the time of 128 clients that came to make a few thousand files (measured).
const LOOPBACK_DISCOVERY_STEP: u16 = 4_000;

// Of the halves that discovery tries, the fourth one must be no smaller: else there is no last probe.
const _: () = assert!((DATAGRAM_LEN_MAX - INITIAL_MTU) / 16 >= LOOPBACK_DISCOVERY_STEP);

/// The UDP payload that a connection begins with: it fits an Ethernet frame.
const INITIAL_MTU: u16 = 1_452;

/// Streams beside the bulk ones: requests, Raft, push, with room for replaced ones.
const REQUEST_STREAMS_MAX: u32 = 32;

/// The link between two peers. It belongs to the connection, not to the process: each end decides
/// for what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkProfile {
    /// Both ends on this machine: datagrams of up to 65,507 bytes, no segmentation offload.
    Loopback,
    /// Ethernet frames of 1,500 bytes, with segmentation offload.
    Ethernet,
    /// Ethernet with jumbo frames of 9,000 bytes: 6,500-byte datagrams, with segmentation offload
    /// (larger ones do not fit the offload's 64 KiB in the count that quinn uses).
    Jumbo,
}

impl LinkProfile {
    /// The profile for a peer at `address`: loopback when it is this machine, else Ethernet.
    pub fn of(address: SocketAddr) -> LinkProfile {
        match is_here(address.ip()) {
            true => LinkProfile::Loopback,
            false => LinkProfile::Ethernet,
        }
    }

    /// Of an incoming connection: loopback when it comes from the address that it came to.
    pub fn of_incoming(remote: IpAddr, local: Option<IpAddr>) -> LinkProfile {
        let remote = remote.to_canonical();
        match remote.is_loopback() || local.map(|ip| ip.to_canonical()) == Some(remote) {
            true => LinkProfile::Loopback,
            false => LinkProfile::Ethernet,
        }
    }

    /// What quinn is told.
    pub fn transport(self) -> Arc<TransportConfig> {
        // Discovery starts from 1,452: an initial value of 16 KiB panics, and one above the initial
        // congestion window never moves data. Above 6,550 with offload it falls back to 1,200.
        let (mtu_max, offload) = match self {
            LinkProfile::Loopback => (DATAGRAM_LEN_MAX, false),
            LinkProfile::Ethernet => (INITIAL_MTU, true),
            LinkProfile::Jumbo => (6_500, true),
        };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(mtu_max);
        let mut congestion = quinn::congestion::CubicConfig::default();
        if self == LinkProfile::Loopback {
            congestion.initial_window(LOOPBACK_INITIAL_WINDOW);
            discovery.minimum_change(LOOPBACK_DISCOVERY_STEP);
        }
        let window = VarInt::from_u32(BUFFER_LEN as u32);
        let mut config = TransportConfig::default();
        config
            .initial_mtu(INITIAL_MTU)
            .mtu_discovery_config(Some(discovery))
            .enable_segmentation_offload(offload)
            .congestion_controller_factory(Arc::new(congestion))
            .stream_receive_window(window)
            .receive_window(VarInt::from_u32(BUFFER_LEN as u32 * STALLED_STREAMS))
            .send_window(BUFFER_LEN as u64)
            .max_concurrent_bidi_streams(VarInt::from_u32(BULK_STREAMS_MAX + REQUEST_STREAMS_MAX))
            // One: the acceptor's welcome.
            .max_concurrent_uni_streams(VarInt::from_u32(1))
            .datagram_receive_buffer_size(None)
            .initial_rtt(RTT)
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
            .keep_alive_interval(Some(KEEP_ALIVE));
        Arc::new(config)
    }
}

/// The round trip that a new connection assumes: what is lost of its handshake is sent again after three times as long,
/// and then after twice as long each time. RFC 9002 says 333 ms, of the Internet. With that, whoever dialled a server in
/// the moment it was started waited for a second or three, in which a metaserver that hears no leader asks for votes.
const RTT: Duration = Duration::from_millis(50);

/// Whether an address is this machine's: a socket can be bound to no other.
fn is_here(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_chosen_by_the_peers_address() {
        let profile = |address: &str| LinkProfile::of(address.parse().unwrap());
        assert_eq!(profile("127.0.0.1:1"), LinkProfile::Loopback);
        assert_eq!(profile("[::1]:1"), LinkProfile::Loopback);
        assert_eq!(profile("[::ffff:127.0.0.1]:1"), LinkProfile::Loopback);
        // RFC 5737: documentation, nobody's.
        assert_eq!(profile("192.0.2.1:1"), LinkProfile::Ethernet);

        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let of = LinkProfile::of_incoming;
        assert_eq!(of(ip("127.0.0.1"), None), LinkProfile::Loopback);
        assert_eq!(
            of(ip("192.0.2.1"), Some(ip("::ffff:192.0.2.1"))),
            LinkProfile::Loopback
        );
        assert_eq!(
            of(ip("192.0.2.1"), Some(ip("192.0.2.2"))),
            LinkProfile::Ethernet
        );
    }
}
