//! Who renewed when, and what they have open: soft state of the leader (DESIGN §5.2).

use quarry_common::ids::{InodeId, SessionId};
use quarry_common::limits::SESSION_LEASE;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// The leases of all sessions. A new leader gives each a full one.
#[derive(Debug)]
pub struct Leases {
    /// When this metaserver began to lead: nothing that was held before is known.
    since: Instant,
    sessions: HashMap<SessionId, Lease>,
}

#[derive(Debug)]
struct Lease {
    renewed_at: Instant,
    open: HashSet<InodeId>,
}

impl Leases {
    /// Gives each of `sessions` a full lease from `now` on.
    pub fn new(sessions: impl IntoIterator<Item = SessionId>, now: Instant) -> Leases {
        let lease = |session| {
            (
                session,
                Lease {
                    renewed_at: now,
                    open: HashSet::new(),
                },
            )
        };
        Leases {
            since: now,
            sessions: sessions.into_iter().map(lease).collect(),
        }
    }

    /// A session was opened.
    pub fn handle_opened(&mut self, session: SessionId, now: Instant) {
        self.sessions.insert(
            session,
            Lease {
                renewed_at: now,
                open: HashSet::new(),
            },
        );
    }

    /// A session was renewed and told what it has open. False: there is no such session.
    pub fn handle_renewal(&mut self, session: SessionId, open: Vec<InodeId>, now: Instant) -> bool {
        let Some(lease) = self.sessions.get_mut(&session) else {
            return false;
        };
        lease.renewed_at = now;
        lease.open = open.into_iter().collect();
        true
    }

    /// A session ended.
    pub fn handle_ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// This metaserver stood still for so long: nobody could renew.
    pub fn handle_standstill(&mut self, lasted: Duration) {
        for lease in self.sessions.values_mut() {
            lease.renewed_at += lasted;
        }
    }

    /// A session whose lease is over, if there is one. It stays until its end was applied.
    pub fn expired(&self, now: Instant) -> Option<SessionId> {
        let over = |lease: &Lease| now.saturating_duration_since(lease.renewed_at) > SESSION_LEASE;
        let mut sessions = self.sessions.iter();
        sessions
            .find(|(_, lease)| over(lease))
            .map(|(session, _)| *session)
    }

    /// What may not be purged since somebody has it open; `None` until this metaserver has led for a lease, so that
    /// everybody who has something open has said so.
    pub fn held(&self, now: Instant) -> Option<HashSet<InodeId>> {
        if now.saturating_duration_since(self.since) <= SESSION_LEASE {
            return None;
        }
        let open = self.sessions.values().flat_map(|lease| &lease.open);
        Some(open.copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_expires_one_lease_after_its_last_renewal() {
        let start = Instant::now();
        let mut leases = Leases::new([SessionId(1), SessionId(2)], start);
        let later = start + SESSION_LEASE;
        assert_eq!(leases.expired(later), None);
        assert!(leases.handle_renewal(SessionId(1), vec![], later));
        let over = later + Duration::from_millis(1);
        assert_eq!(leases.expired(over), Some(SessionId(2)));
        leases.handle_standstill(Duration::from_secs(1));
        assert_eq!(leases.expired(over), None);
        let over = over + Duration::from_secs(1);
        assert_eq!(leases.expired(over), Some(SessionId(2)));
        leases.handle_ended(SessionId(2));
        assert!(!leases.handle_renewal(SessionId(2), vec![], later));
    }

    #[test]
    fn an_open_orphan_and_a_new_leader_hold_purging_back() {
        let start = Instant::now();
        let mut leases = Leases::new([SessionId(1)], start);
        let (soon, later) = (
            start + Duration::from_secs(1),
            start + SESSION_LEASE + Duration::from_secs(1),
        );
        assert_eq!(leases.held(soon), None, "others may have something open");
        leases.handle_renewal(SessionId(1), vec![InodeId(7)], later);
        assert_eq!(leases.held(later), Some(HashSet::from([InodeId(7)])));
    }
}
