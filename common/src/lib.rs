//! What the roles of Quarry share: ids, limits, errors, the codec and the messages on the
//! wire, the cluster map and placement, capabilities and receipts, identity, QUIC transport.
//!
//! Modules build on each other in this order: `ids, limits, error` ← `codec, checksum` ←
//! `wire, map, token` ← `given_file` ← `identity, net`, `config`, `telemetry`, `task`, `read_buffers`.

pub mod checksum;
pub mod codec;
pub mod config;
pub mod durable;
pub mod error;
pub mod given_file;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod map;
pub mod net;
pub mod read_buffers;
pub mod task;
pub mod telemetry;
pub mod time;
pub mod token;
pub mod wire;

pub use error::{Code, Error, Kind, Result};
