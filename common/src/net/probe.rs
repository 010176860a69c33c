//! Who listens at an address, asked without a connection.
//!
//! A datagram of a version of QUIC that does not exist is answered by each server at once, whatever has become of our
//! connection to it: with the versions that it speaks (RFC 9000 §6.1). A machine on which nothing listens says so itself
//! (ICMP port unreachable), which QUIC leaves to its timeouts. And an answer of another kind is that of something else.

use crate::error::{Code, Error};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

/// A machine says only about once a second to each other one that nothing listens (Linux: icmp_ratelimit), and what it
/// says may be lost: it is asked again.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(300);

/// Shorter ones of an unknown version are dropped (RFC 9000 §5.2.2).
const QUESTION_LEN: usize = 1_200;

/// One of those that never become a version (RFC 9000 §15).
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// Bytes of an ID of a connection, of which the question has two.
const ID_LEN: usize = 8;

/// No QUIC packet that a server sends is shorter (RFC 9000 §10.3).
const QUIC_LEN_MIN: usize = 21;

/// What listens at an address.
#[derive(Debug)]
pub(super) enum Listener {
    /// A process that speaks QUIC, and lives: ours or another.
    Quic,
    /// Something else.
    Other,
    /// Nothing, its machine says.
    Nobody(Error),
}

/// Asks every so often who listens there, until somebody answers. Anybody can send such an answer; it says nothing
/// about a connection that there is.
pub(super) async fn who_listens(address: SocketAddr, every: Duration) -> Listener {
    match ask(address, every).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let text = "nothing listens there: is the server running?";
            Listener::Nobody(Error::new(Code::Unreachable, text).with_source(error))
        }
        // A probe that fails otherwise says nothing.
        Err(_) => std::future::pending().await,
    }
}

/// Ends when the peer's machine says that nothing listens there: a server that was stopped is known at once.
pub async fn nobody_there(address: SocketAddr) -> Error {
    loop {
        match who_listens(address, ASK_EVERY).await {
            Listener::Nobody(error) => return error,
            // It may end any time.
            Listener::Quic | Listener::Other => sleep(ASK_EVERY).await,
        }
    }
}

async fn ask(address: SocketAddr, every: Duration) -> io::Result<Listener> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    let question = Question::new();
    let mut answer = [0; QUESTION_LEN];
    loop {
        socket.send(&question.0).await?;
        if let Ok(received) = timeout(every, socket.recv(&mut answer)).await
            && let Some(listener) = question.answered_by(&answer[..received?])
        {
            return Ok(listener);
        }
    }
}

/// A datagram with a long header (RFC 8999 §5.1): a first byte, the version, and two IDs, each after its length.
struct Question([u8; QUESTION_LEN]);

impl Question {
    const TO: std::ops::Range<usize> = 5..6 + ID_LEN;
    const FROM: std::ops::Range<usize> = 6 + ID_LEN..7 + 2 * ID_LEN;

    fn new() -> Question {
        let mut bytes = [0; QUESTION_LEN];
        bytes[0] = 0xc0;
        bytes[1..5].copy_from_slice(&NO_VERSION);
        for id in [Question::TO, Question::FROM] {
            bytes[id.start] = ID_LEN as u8;
            let random: [u8; ID_LEN] = rand::random();
            bytes[id.start + 1..id.end].copy_from_slice(&random);
        }
        Question(bytes)
    }

    /// Who gave this answer; `None` if it tells nothing.
    fn answered_by(&self, answer: &[u8]) -> Option<Listener> {
        let versions = |answer: &[u8]| {
            // No version, and our two IDs the other way round.
            answer.len() > Question::FROM.end
                && answer[0] & 0x80 != 0
                && answer[1..5] == [0; 4]
                && answer[Question::TO] == self.0[Question::FROM]
                && answer[Question::FROM] == self.0[Question::TO]
        };
        match answer {
            versions_of_it if versions(versions_of_it) => Some(Listener::Quic),
            echo if echo == self.0 => Some(Listener::Other),
            short if short.len() < QUIC_LEN_MIN => Some(Listener::Other),
            // A relay may send us what is for another.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_for_our_own_question_are_those_of_a_server() {
        let question = Question::new();
        let answer = |to: &Question| {
            let mut answer = vec![0x80, 0, 0, 0, 0];
            answer.extend(&to.0[Question::FROM]);
            answer.extend(&to.0[Question::TO]);
            answer.extend([0, 0, 0, 1]);
            answer
        };
        let good = answer(&question);
        assert!(matches!(question.answered_by(&good), Some(Listener::Quic)));
        assert!(question.answered_by(&answer(&Question::new())).is_none());
        assert!(matches!(
            question.answered_by(&question.0),
            Some(Listener::Other)
        ));
        assert!(matches!(
            question.answered_by(b"what?"),
            Some(Listener::Other)
        ));
        let mut of_a_version = good.clone();
        of_a_version[4] = 1;
        assert!(question.answered_by(&of_a_version).is_none());
    }
}
