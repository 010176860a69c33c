//! UDP sockets with large buffers.

use super::profile::BUFFER_LEN;
use crate::error::{Code, Error, Result};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Once;

/// A socket bound to `address`. A wildcard of IPv6 takes IPv4 too.
///
/// # Errors
/// `Configuration`: the address is in use or not this machine's; the text says what to do.
pub fn bind(address: SocketAddr) -> Result<UdpSocket> {
    open(address).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another process has it: `ss -ulpn 'sport = :{}'` names it; stop it, or configure another port",
                address.port()
            ),
            io::ErrorKind::AddrNotAvailable => {
                "it is no address of this machine: `ip address` lists them".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 are for root: configure a higher one".to_owned()
            }
            _ => format!("{error}"),
        };
        Error::new(
            Code::Configuration,
            format!("can not listen on {address}/udp: {remedy}"),
        )
        .with_source(error)
    })
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    grow_buffers(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn grow_buffers(socket: &Socket) -> io::Result<()> {
    socket.set_recv_buffer_size(BUFFER_LEN)?;
    socket.set_send_buffer_size(BUFFER_LEN)?;
    // The kernel doubles what was asked for and shows the double.
    let received = || socket.recv_buffer_size().map(|len| len / 2);
    let sent = || socket.send_buffer_size().map(|len| len / 2);
    // Beyond the limits of the system only a privileged process may go; that others are refused is
    // seen in the sizes below.
    if received()? < BUFFER_LEN {
        let _refused = sockopt::set_socket_recv_buffer_size_force(socket, BUFFER_LEN);
    }
    if sent()? < BUFFER_LEN {
        let _refused = sockopt::set_socket_send_buffer_size_force(socket, BUFFER_LEN);
    }
    let (received, sent) = (received()?, sent()?);
    if received < BUFFER_LEN || sent < BUFFER_LEN {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                received,
                sent,
                "socket buffers are smaller than {BUFFER_LEN} bytes, transfers will lose packets and be slow: \
                 as root, sysctl -w net.core.rmem_max={BUFFER_LEN} net.core.wmem_max={BUFFER_LEN}"
            );
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_the_remedy() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert_eq!(error.code, Code::Configuration);
        assert!(error.text.contains(&address.to_string()), "{error}");
        assert!(error.text.contains("ss -ulpn"), "{error}");
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.text.contains("ip address"), "{error}");
    }
}
