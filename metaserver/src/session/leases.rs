//! Who renewed when, and what they have open: soft state of the leader (DESIGN §5.2).

use quarry_common::ids::{InodeId, SessionId};
use quarry_common::limits::{SESSION_LEASE, SESSIONS_PER_CERTIFICATE_MAX};
use quarry_common::{Code, Error, Result};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Inodes that all sessions together have open: what the leader remembers of them takes some hundred megabytes.
const OPEN_INODES_IN_ALL_MAX: usize = 1 << 22;

/// The hash of a certificate.
type Certificate = [u8; 32];

/// The leases of all sessions. A new leader gives each a full one.
#[derive(Debug)]
pub struct Leases {
    /// When this metaserver began to lead: nothing that was held before is known.
    since: Instant,
    sessions: HashMap<SessionId, Lease>,
    /// Sessions that are open or being opened, by their certificate.
    counts: HashMap<Certificate, usize>,
    /// Inodes in all leases.
    open: usize,
}

#[derive(Debug)]
struct Lease {
    certificate: Certificate,
    renewed_at: Instant,
    open: HashSet<InodeId>,
}

impl Leases {
    /// Gives each of `sessions` a full lease from `now` on.
    pub fn new(
        sessions: impl IntoIterator<Item = (SessionId, Certificate)>,
        now: Instant,
    ) -> Leases {
        let mut leases = Leases {
            since: now,
            sessions: HashMap::new(),
            counts: HashMap::new(),
            open: 0,
        };
        for (session, certificate) in sessions {
            *leases.counts.entry(certificate).or_default() += 1;
            leases.handle_opened(session, certificate, now);
        }
        leases
    }

    /// A session is to be opened: it counts from now on, until [`Leases::handle_not_opened`] or its end.
    ///
    /// # Errors
    /// `Overloaded`: the certificate has too many.
    pub fn begin_opening(&mut self, certificate: Certificate) -> Result<()> {
        let count = self.counts.entry(certificate).or_default();
        if *count >= SESSIONS_PER_CERTIFICATE_MAX {
            let text = format!(
                "{SESSIONS_PER_CERTIFICATE_MAX} sessions of this certificate are open: end some clients, or wait until those that \
                 were killed have lost theirs, after {} s; let others use certificates of their own",
                SESSION_LEASE.as_secs()
            );
            return Err(Error::new(Code::Overloaded, text));
        }
        *count += 1;
        Ok(())
    }

    /// A session was opened, after [`Leases::begin_opening`].
    pub fn handle_opened(&mut self, session: SessionId, certificate: Certificate, now: Instant) {
        self.sessions.insert(
            session,
            Lease {
                certificate,
                renewed_at: now,
                open: HashSet::new(),
            },
        );
    }

    /// Whether a session is open and of that certificate, as far as it is known here. (Reading that from the state for each
    /// request took a fiftieth of all time.)
    pub fn is_of(&self, session: SessionId, certificate: Certificate) -> bool {
        let lease = self.sessions.get(&session);
        lease.is_some_and(|lease| lease.certificate == certificate)
    }

    /// It was not.
    pub fn handle_not_opened(&mut self, certificate: Certificate) {
        if let Entry::Occupied(mut count) = self.counts.entry(certificate) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// A session was renewed and told what it has open. False: there is no such session.
    ///
    /// # Errors
    /// `Overloaded`: all sessions together have too much open. The lease is renewed, and what it had open before counts.
    pub fn handle_renewal(
        &mut self,
        session: SessionId,
        open: Vec<InodeId>,
        now: Instant,
    ) -> Result<bool> {
        let Some(lease) = self.sessions.get_mut(&session) else {
            return Ok(false);
        };
        lease.renewed_at = now;
        let others = self.open - lease.open.len();
        if others + open.len() > OPEN_INODES_IN_ALL_MAX {
            let text = format!(
                "{OPEN_INODES_IN_ALL_MAX} files are open in the cluster: what is opened now may go when its last name is removed; \
                 close some"
            );
            return Err(Error::new(Code::Overloaded, text));
        }
        lease.open = open.into_iter().collect();
        self.open = others + lease.open.len();
        Ok(true)
    }

    /// A session ended.
    pub fn handle_ended(&mut self, session: SessionId) {
        if let Some(lease) = self.sessions.remove(&session) {
            self.open -= lease.open.len();
            self.handle_not_opened(lease.certificate);
        }
    }

    /// This metaserver stood still for so long: nobody could renew.
    pub fn handle_standstill(&mut self, lasted: Duration) {
        for lease in self.sessions.values_mut() {
            lease.renewed_at += lasted;
        }
    }

    /// At most so many sessions whose leases are over. They stay until their end was applied.
    pub fn expired(&self, now: Instant, limit: usize) -> Vec<SessionId> {
        let over = |lease: &Lease| now.saturating_duration_since(lease.renewed_at) > SESSION_LEASE;
        let sessions = self.sessions.iter().filter(|(_, lease)| over(lease));
        sessions.take(limit).map(|(session, _)| *session).collect()
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

    const ONE: Certificate = [1; 32];

    #[test]
    fn a_session_expires_one_lease_after_its_last_renewal() {
        let start = Instant::now();
        let sessions = [1, 2, 3].map(|session| (SessionId(session), ONE));
        let mut leases = Leases::new(sessions, start);
        let later = start + SESSION_LEASE;
        assert_eq!(leases.expired(later, 9), []);
        assert_eq!(leases.handle_renewal(SessionId(1), vec![], later), Ok(true));
        assert_eq!(leases.handle_renewal(SessionId(3), vec![], later), Ok(true));
        let over = later + Duration::from_millis(1);
        assert_eq!(leases.expired(over, 9), [SessionId(2)]);
        leases.handle_standstill(Duration::from_secs(1));
        assert_eq!(leases.expired(over, 9), []);
        let over = over + Duration::from_secs(1);
        assert_eq!(leases.expired(over, 9), [SessionId(2)]);
        assert_eq!(leases.expired(over + SESSION_LEASE, 2).len(), 2);
        leases.handle_ended(SessionId(2));
        let renewed = leases.handle_renewal(SessionId(2), vec![], later);
        assert_eq!(renewed, Ok(false));
    }

    #[test]
    fn an_open_orphan_and_a_new_leader_hold_purging_back() {
        let start = Instant::now();
        let mut leases = Leases::new([(SessionId(1), ONE)], start);
        let (soon, later) = (
            start + Duration::from_secs(1),
            start + SESSION_LEASE + Duration::from_secs(1),
        );
        assert_eq!(leases.held(soon), None, "others may have something open");
        leases
            .handle_renewal(SessionId(1), vec![InodeId(7)], later)
            .unwrap();
        assert_eq!(leases.held(later), Some(HashSet::from([InodeId(7)])));
    }

    #[test]
    fn a_certificate_has_so_many_sessions_and_no_more() {
        let now = Instant::now();
        let before = (1..=10).map(|session| (SessionId(session), ONE));
        let mut leases = Leases::new(before, now);
        for session in 11..=SESSIONS_PER_CERTIFICATE_MAX as u64 {
            leases.begin_opening(ONE).unwrap();
            leases.handle_opened(SessionId(session), ONE, now);
        }
        let refused = leases.begin_opening(ONE).unwrap_err();
        assert_eq!(refused.code, Code::Overloaded);
        assert!(refused.text.contains("4096 sessions"), "{refused}");
        leases.begin_opening([2; 32]).unwrap();
        // One that ended makes room for one, and so does one that was not opened after all.
        leases.handle_ended(SessionId(5));
        leases.handle_ended(SessionId(5));
        leases.begin_opening(ONE).unwrap();
        assert!(leases.begin_opening(ONE).is_err());
        leases.handle_not_opened(ONE);
        leases.begin_opening(ONE).unwrap();
        assert!(leases.begin_opening(ONE).is_err());
    }

    #[test]
    fn all_sessions_together_hold_so_many_inodes() {
        let now = Instant::now();
        let sessions = [1, 2].map(|session| (SessionId(session), ONE));
        let mut leases = Leases::new(sessions, now);
        let inodes = |count: usize| (0..count as u64).map(InodeId).collect::<Vec<_>>();
        let (some, rest) = (1_000, OPEN_INODES_IN_ALL_MAX - 1_000);
        let renew = |leases: &mut Leases, session, count| {
            let renewed = leases.handle_renewal(SessionId(session), inodes(count), now);
            renewed.map_err(|error| error.code)
        };
        assert_eq!(renew(&mut leases, 1, rest), Ok(true));
        assert_eq!(renew(&mut leases, 2, some + 1), Err(Code::Overloaded));
        assert_eq!(renew(&mut leases, 2, some), Ok(true));
        assert_eq!(renew(&mut leases, 1, rest), Ok(true), "what it had");
        assert_eq!(renew(&mut leases, 1, rest + 1), Err(Code::Overloaded));
        leases.handle_ended(SessionId(2));
        assert_eq!(renew(&mut leases, 1, rest + 1), Ok(true));
    }
}
