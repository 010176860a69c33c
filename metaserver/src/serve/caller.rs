//! Who asks, and as whom permissions are checked (DESIGN §7).

use super::Serving;
use crate::state::map_state::users;
use quarry_common::identity::{PeerName, Role};
use quarry_common::ids::{ServerId, Uid};
use quarry_common::token::CertificateHash;
use quarry_common::wire::meta::Caller;
use quarry_common::{Code, Error, Result};

/// The other end of a connection, from its certificate.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub name: PeerName,
    /// The hash of its certificate.
    pub certificate: CertificateHash,
}

fn refuse(peer: &Peer, what: &str) -> Error {
    Error::new(Code::WrongRole, format!("{} may not {what}", peer.name))
}

impl Peer {
    /// The dataserver that it is.
    pub fn dataserver(&self) -> Result<ServerId> {
        if self.name.role != Role::Dataserver {
            return Err(refuse(self, "speak for a dataserver"));
        }
        self.name.server_id()
    }

    /// The user that it is.
    pub fn user(&self) -> Result<&str> {
        if self.name.role != Role::User {
            return Err(refuse(
                self,
                "use the file system: that takes a user's certificate",
            ));
        }
        Ok(self.name.id())
    }
}

impl Serving {
    /// As whom a peer's requests are checked. Groups beyond the first are sorted out by the state machine.
    pub(super) fn caller(&self, peer: &Peer, act_as: Option<Caller>) -> Result<Caller> {
        let name = peer.user()?;
        let user = users::user(&*self.kv, name)?.ok_or_else(|| {
            let text = format!("user '{name}' is not known to this cluster: an admin adds it with 'quarry user add {name}'");
            Error::new(Code::AccessDenied, text)
        })?;
        let own = Caller {
            uid: user.uid,
            gids: user.gids,
            superuser: user.admin,
        };
        match act_as {
            None => Ok(own),
            Some(other) if user.admin => Ok(other),
            Some(Caller { uid: Uid(uid), .. }) => {
                let text =
                    format!("'{name}' may not act as uid {uid}: only a member of quarry-admin may");
                Err(Error::new(Code::NotPermitted, text))
            }
        }
    }

    /// Whether a peer is a member of `quarry-admin`.
    pub(super) fn check_admin(&self, peer: &Peer) -> Result<()> {
        let name = peer.user()?;
        match users::user(&*self.kv, name)? {
            Some(user) if user.admin => Ok(()),
            _ => Err(Error::new(
                Code::NotPermitted,
                format!(
                    "'{name}' is no member of quarry-admin: use an admin's client file (--cluster FILE)"
                ),
            )),
        }
    }
}
