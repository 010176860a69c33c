//! The one name in a certificate: `quarry://CLUSTER/ROLE/ID`.

use crate::error::{Code, Error, Result};
use crate::ids::{ClusterId, ServerId};
use std::fmt;
use std::str::FromStr;

/// The longest id of a peer, in bytes.
pub const ID_LEN_MAX: usize = 64;

/// What a peer is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Keeps the metadata; its id is a [`ServerId`].
    Metaserver,
    /// Keeps chunks; its id is a [`ServerId`].
    Dataserver,
    /// A person or a program; its id is the user's name.
    User,
    /// May do nothing but have a signing request signed.
    Join,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Metaserver, Role::Dataserver, Role::User, Role::Join];

    /// The word in a name.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Metaserver => "metaserver",
            Role::Dataserver => "dataserver",
            Role::User => "user",
            Role::Join => "join",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A peer's name. Peers dial by it, so that addresses may change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName {
    /// The cluster, 32 hexadecimal digits in text.
    pub cluster: ClusterId,
    /// What it is.
    pub role: Role,
    /// Which one: 1 to 64 of `[A-Za-z0-9._-]`; decimal for servers.
    id: String,
}

impl PeerName {
    /// A name from its parts.
    ///
    /// # Errors
    /// `Configuration`: the id is empty, too long or has other characters than `[A-Za-z0-9._-]`, or
    /// is not a decimal number although the role is a server's.
    pub fn new(cluster: ClusterId, role: Role, id: impl Into<String>) -> Result<PeerName> {
        let id = id.into();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if id.is_empty() || id.len() > ID_LEN_MAX || !id.bytes().all(fits) {
            return Err(Error::new(
                Code::Configuration,
                format!(
                    "'{}' can not be the id of a {role}: use 1 to {ID_LEN_MAX} of A-Z a-z 0-9 . _ -",
                    id.escape_debug()
                ),
            ));
        }
        let name = PeerName { cluster, role, id };
        if matches!(role, Role::Metaserver | Role::Dataserver) {
            // One spelling only: '07' and '7' must not be two names of one server.
            let server = name.server_id()?;
            if server.to_string() != name.id {
                return Err(Error::new(
                    Code::Configuration,
                    format!("'{}' is not how server {server} is written", name.id),
                ));
            }
        }
        Ok(name)
    }

    /// The name of a metaserver.
    pub fn metaserver(cluster: ClusterId, id: ServerId) -> PeerName {
        PeerName {
            cluster,
            role: Role::Metaserver,
            id: id.to_string(),
        }
    }

    /// The name of a dataserver.
    pub fn dataserver(cluster: ClusterId, id: ServerId) -> PeerName {
        PeerName {
            cluster,
            role: Role::Dataserver,
            id: id.to_string(),
        }
    }

    /// The name of a user.
    ///
    /// # Errors
    /// `Configuration`: see [`PeerName::new`].
    pub fn user(cluster: ClusterId, name: &str) -> Result<PeerName> {
        PeerName::new(cluster, Role::User, name)
    }

    /// Which one.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The server that this name names.
    ///
    /// # Errors
    /// `WrongRole` for a user or a joiner; `Configuration` for an id that is no decimal number.
    pub fn server_id(&self) -> Result<ServerId> {
        match self.role {
            Role::Metaserver | Role::Dataserver => self.id.parse().map_err(|_| {
                Error::new(
                    Code::Configuration,
                    format!(
                        "the id of a {} is a decimal number, not '{}'",
                        self.role, self.id
                    ),
                )
            }),
            Role::User | Role::Join => Err(Error::new(
                Code::WrongRole,
                format!("{self} is not a server"),
            )),
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quarry://{}/{}/{}", self.cluster, self.role, self.id)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerName {
    type Err = Error;

    fn from_str(text: &str) -> Result<PeerName> {
        let refuse = || {
            // From a stranger's certificate perhaps: neither its length nor its bytes are trusted.
            let shown: String = text.chars().take(128).collect();
            Error::new(
                Code::Configuration,
                format!(
                    "'{}' is not a peer's name: quarry://CLUSTER/ROLE/ID is",
                    shown.escape_debug()
                ),
            )
        };
        let rest = text.strip_prefix("quarry://").ok_or_else(refuse)?;
        let mut parts = rest.splitn(3, '/');
        let (Some(cluster), Some(role), Some(id)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        // One spelling only, as with the ids of servers.
        if cluster
            .bytes()
            .any(|byte| byte.is_ascii_uppercase() || byte == b'+')
        {
            return Err(refuse());
        }
        let cluster = cluster.parse().map_err(|_| refuse())?;
        let role = Role::ALL
            .into_iter()
            .find(|known| known.as_str() == role)
            .ok_or_else(refuse)?;
        PeerName::new(cluster, role, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");

    #[test]
    fn names_read_back_what_they_print() {
        for name in [
            PeerName::metaserver(CLUSTER, ServerId(1)),
            PeerName::dataserver(CLUSTER, ServerId(u32::MAX)),
            PeerName::user(CLUSTER, "anna.b_c-9").unwrap(),
            PeerName::new(CLUSTER, Role::Join, "x".repeat(64)).unwrap(),
        ] {
            assert_eq!(name.to_string().parse::<PeerName>().unwrap(), name);
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        let good = "quarry://30313233343536373839616263646566/metaserver/7";
        assert!(good.parse::<PeerName>().is_ok());
        for bad in [
            "",
            "quarry://",
            "QUARRY://30313233343536373839616263646566/metaserver/7",
            "quarry://30313233343536373839616263646566/metaserver",
            "quarry://30313233343536373839616263646566/metaserver/",
            "quarry://30313233343536373839616263646566/metaserver/07",
            "quarry://30313233343536373839616263646566/metaserver/+7",
            "quarry://30313233343536373839616263646566/metaserver/7/",
            "quarry://30313233343536373839616263646566/metaserver/4294967296",
            "quarry://30313233343536373839616263646566/Metaserver/7",
            "quarry://30313233343536373839616263646566/king/7",
            "quarry://30313233343536373839616263646566/user/a b",
            "quarry://30313233343536373839616263646566/user/a%2f",
            "quarry://3031323334353637383961626364656/user/a",
            "quarry://3031323334353637383961626364656A/user/a",
            "quarry://+0+1+2+3+4+5+6+7+8+9+a+b+c+d+e+f/user/a",
        ] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_is_no_server() {
        let user = PeerName::user(CLUSTER, "7").unwrap();
        assert_eq!(user.server_id().unwrap_err().code, Code::WrongRole);
        assert_eq!(
            PeerName::dataserver(CLUSTER, ServerId(7))
                .server_id()
                .unwrap(),
            ServerId(7)
        );
    }
}
