//! Wires between the members of a group in one process: each member is reached through a relay of datagrams, which
//! can be cut.

use quarry_common::ids::ServerId;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// The longest datagram.
const DATAGRAM_LEN_MAX: usize = 65_536;

#[derive(Default)]
struct State {
    /// Where each member listens now.
    at: HashMap<ServerId, SocketAddr>,
    /// Who hears nobody and is heard by nobody.
    cut_off: HashSet<ServerId>,
    /// Who hears nobody and is heard.
    deaf: HashSet<ServerId>,
    /// Who do not hear each other.
    apart: HashSet<(ServerId, ServerId)>,
    /// Ends the relay to a member.
    relays: HashMap<ServerId, CancellationToken>,
}

impl State {
    fn member_at(&self, address: SocketAddr) -> Option<ServerId> {
        let mut members = self.at.iter();
        members.find(|(_, at)| **at == address).map(|(id, _)| *id)
    }

    fn passes(&self, from: Option<ServerId>, to: Option<ServerId>) -> bool {
        let is_cut_off = |id: Option<ServerId>| id.is_some_and(|id| self.cut_off.contains(&id));
        let is_deaf = to.is_some_and(|id| self.deaf.contains(&id));
        let are_apart = from.zip(to).is_some_and(|(from, to)| {
            self.apart.contains(&(from, to)) || self.apart.contains(&(to, from))
        });
        !is_cut_off(from) && !is_cut_off(to) && !is_deaf && !are_apart
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
        let open = CancellationToken::new();
        self.0.lock().unwrap().relays.insert(to, open.clone());
        let carry = carry(self.clone(), to, inside, open.clone());
        tokio::spawn(open.run_until_cancelled_owned(carry));
        address
    }

    /// Nothing listens at a member's address any more, for good.
    pub(super) fn close(&self, id: ServerId) {
        self.0.lock().unwrap().relays[&id].cancel();
    }

    /// A member listens there now.
    pub(super) fn set(&self, id: ServerId, at: SocketAddr) {
        self.0.lock().unwrap().at.insert(id, at);
    }

    pub(super) fn cut_off(&self, id: ServerId) {
        self.0.lock().unwrap().cut_off.insert(id);
    }

    pub(super) fn deafen(&self, id: ServerId) {
        self.0.lock().unwrap().deaf.insert(id);
    }

    pub(super) fn part(&self, one: ServerId, other: ServerId) {
        self.0.lock().unwrap().apart.insert((one, other));
    }

    pub(super) fn mend(&self, id: ServerId) {
        let mut state = self.0.lock().unwrap();
        state
            .apart
            .retain(|(one, other)| *one != id && *other != id);
        state.cut_off.remove(&id);
        state.deaf.remove(&id);
    }

    /// Where a datagram to a member goes.
    fn passes(&self, from: SocketAddr, to: ServerId) -> Option<SocketAddr> {
        let state = self.0.lock().unwrap();
        let passes = state.passes(state.member_at(from), Some(to));
        passes.then(|| state.at.get(&to).copied())?
    }

    fn passes_back(&self, from: ServerId, to: SocketAddr) -> bool {
        let state = self.0.lock().unwrap();
        state.passes(Some(from), state.member_at(to))
    }
}

/// Carries what arrives on `inside` to the member, and back.
async fn carry(wires: Wires, to: ServerId, inside: Arc<UdpSocket>, open: CancellationToken) {
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
                let back = carry_back(
                    wires.clone(),
                    to,
                    from,
                    Arc::clone(&way),
                    Arc::clone(&inside),
                );
                tokio::spawn(open.clone().run_until_cancelled_owned(back));
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
        if wires.passes_back(from, to) {
            let _lost = inside.send_to(&buffer[..len], to).await;
        }
    }
}
