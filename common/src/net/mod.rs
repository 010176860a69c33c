//! QUIC between the roles: links, endpoints, connections, requests over one long stream, bulk
//! streams, and a cache of peers.
//!
//! A connection carries streams of seven kinds ([`StreamType`]), named by their first byte. Small
//! requests share one long stream ([`Requests`], [`serve`]): that is 2.5 times as fast as a stream
//! for each (measured). A chunk has a stream of its own ([`BulkReader`], [`BulkWriter`]).

mod alive;
mod bulk;
mod connection;
mod dial;
mod endpoint;
mod frames;
mod message;
mod peers;
mod probe;
mod profile;
mod request;
mod reset_key;
mod serve;
mod socket;

#[cfg(test)]
mod tests;

pub use bulk::{BulkReader, BulkWriter, refuse_stream};
pub use connection::{Connection, StreamType};
pub use dial::Dial;
pub use endpoint::{CONNECT_TIMEOUT, Endpoint};
pub use peers::{Peer, Peers};
pub use probe::nobody_there;
pub use profile::{BUFFER_LEN, LinkProfile};
pub use quinn::{RecvStream, SendStream};
pub use request::Requests;
pub use serve::serve;
