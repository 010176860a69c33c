//! Peers by name and `host:port`.

pub use quarry_common::net::Dial;
