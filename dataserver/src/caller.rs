//! Who is at the other end of a connection.

use quarry_common::ids::ServerId;
use quarry_common::token::CertificateHash;

/// Who is at the other end of a connection, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A user: has the rights of its own certificate.
    Client(CertificateHash),
    /// A dataserver, which may act for a client whose capability it passes on.
    Dataserver(CertificateHash, ServerId),
    /// A metaserver; may ask for what the one that leads needs to know.
    Metaserver(CertificateHash),
}

impl Caller {
    /// Whose capability must be shown; the claim to act for somebody is heeded from dataservers alone.
    pub fn client(self, on_behalf_of: Option<CertificateHash>) -> CertificateHash {
        match self {
            Caller::Client(own) | Caller::Metaserver(own) => own,
            Caller::Dataserver(own, _) => on_behalf_of.unwrap_or(own),
        }
    }
}
