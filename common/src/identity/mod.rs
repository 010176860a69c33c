//! Who a peer is (DESIGN §7): names in certificates, the cluster's certificate authority, and the
//! checks of both ends of a handshake.

mod authority;
mod certificate;
mod name;
pub mod tls;
mod verify;

#[cfg(test)]
mod tests;

pub use authority::{Authority, JOIN_VALID, SERVER_VALID, USER_VALID};
pub use certificate::Identity;
pub use name::{PeerName, Role};
pub use verify::{Refusal, hash_of, name_in, verify};
