//! Wires between the members of a group in one process: each member is reached through a relay of datagrams, which
//! can be cut.

use quarry_common::ids::ServerId;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;

/// The longest datagram.
const DATAGRAM_LEN_MAX: usize = 65_536;

#[derive(Default)]
struct State {
    /// Where each member listens now.
    at: HashMap<ServerId, SocketAddr>,
    /// Who hears nobody and is heard by nobody.
    cut_off: HashSet<ServerId>,
}

impl State {
    fn passes(&self, from: SocketAddr, to: ServerId) -> bool {
        let sender = self.at.iter().find(|(_, at)| **at == from);
        let sender_is_cut_off = sender.is_some_and(|(id, _)| self.cut_off.contains(id));
        !sender_is_cut_off && !self.cut_off.contains(&to)
    }
}

/// All wires. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Wires(Arc<Mutex<State>>);

impl Wires {
    /// A relay to a member: the address by which the others know it.
    pub(super) async fn relay(&self, to: ServerId) -> String {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = inside.local_addr().unwrap().to_string();
        tokio::spawn(carry(self.clone(), to, inside));
        address
    }

    /// A member listens there now.
    pub(super) fn set(&self, id: ServerId, at: SocketAddr) {
        self.0.lock().unwrap().at.insert(id, at);
    }

    pub(super) fn cut_off(&self, id: ServerId) {
        self.0.lock().unwrap().cut_off.insert(id);
    }

    pub(super) fn mend(&self, id: ServerId) {
        self.0.lock().unwrap().cut_off.remove(&id);
    }

    fn passes(&self, from: SocketAddr, to: ServerId) -> Option<SocketAddr> {
        let state = self.0.lock().unwrap();
        state.passes(from, to).then(|| state.at.get(&to).copied())?
    }
}

/// Carries what arrives on `inside` to the member, and back.
async fn carry(wires: Wires, to: ServerId, inside: Arc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    let mut ways: HashMap<(SocketAddr, SocketAddr), Arc<UdpSocket>> = HashMap::new();
    loop {
        // An error is news of a datagram that nobody took.
        let Ok((len, from)) = inside.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(at) = wires.passes(from, to) else {
            continue;
        };
        let way = match ways.get(&(from, at)) {
            Some(way) => Arc::clone(way),
            None => {
                let way = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                way.connect(at).await.unwrap();
                tokio::spawn(carry_back(
                    wires.clone(),
                    to,
                    from,
                    Arc::clone(&way),
                    Arc::clone(&inside),
                ));
                ways.insert((from, at), Arc::clone(&way));
                way
            }
        };
        let _lost = way.send(&buffer[..len]).await;
    }
}

async fn carry_back(
    wires: Wires,
    from: ServerId,
    to: SocketAddr,
    way: Arc<UdpSocket>,
    inside: Arc<UdpSocket>,
) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        let Ok(len) = way.recv(&mut buffer).await else {
            continue;
        };
        if wires.passes(to, from).is_some() {
            let _lost = inside.send_to(&buffer[..len], to).await;
        }
    }
}
