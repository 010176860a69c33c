//! Where a server is reached.

use crate::failure::Misuse;
use anyhow::Result;
use quarry_common::config::values;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The port of a metaserver unless said otherwise (DESIGN §7).
pub const METASERVER_PORT: u16 = 7410;

/// The port of a dataserver.
pub const DATASERVER_PORT: u16 = 7420;

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Reads it; `usual_port` is the port if it is left out.
    ///
    /// # Errors
    /// [`Misuse`].
    pub fn parse(text: &str, usual_port: u16) -> Result<Address> {
        let address = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
            (Ok(address), _) => Address {
                host: address.ip().to_string(),
                port: address.port(),
            },
            (_, Ok(ip)) => Address {
                host: ip.to_string(),
                port: usual_port,
            },
            _ => {
                let (host, port) = match text.split_once(':') {
                    None => (text, Some(usual_port)),
                    Some((host, port)) => (host, port.parse().ok()),
                };
                let port = port.ok_or_else(|| Misuse::new(format!("'{text}' is no HOST:PORT")))?;
                let host = host.to_owned();
                Address { host, port }
            }
        };
        values::check_address("the address", &address.text())
            .map_err(|error| Misuse::new(error.text))?;
        Ok(address)
    }

    /// As others write it.
    pub fn text(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{}", self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    /// Where a server listens that is reached there: an IP address is listened on as it is; of a name only the machine itself knows the addresses.
    pub fn listen(&self) -> SocketAddr {
        let ip = self
            .host
            .parse()
            .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        SocketAddr::new(ip, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_usual_ports() {
        let text = |text| {
            Address::parse(text, 7410)
                .map(|address| address.text())
                .ok()
        };
        assert_eq!(text("meta-1").as_deref(), Some("meta-1:7410"));
        assert_eq!(text("meta-1:99").as_deref(), Some("meta-1:99"));
        assert_eq!(text("::1").as_deref(), Some("[::1]:7410"));
        assert_eq!(text("[::1]:99").as_deref(), Some("[::1]:99"));
        for bad in [
            "a:b",
            ":1",
            "a b",
            "m:0",
            "127.0.0.1:0",
            "0.0.0.0",
            "[::]:7410",
        ] {
            assert_eq!(text(bad), None, "{bad}");
        }
        assert_eq!(
            Address::parse("meta-1", 1).unwrap().listen().to_string(),
            "[::]:1"
        );
    }
}
