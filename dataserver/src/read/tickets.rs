//! Tickets for the files of chunks: secrets that are good once, soon, and for one chunk (DESIGN §4.3).

use quarry_common::ids::{ChunkId, DiskId, PoolId};
use quarry_common::limits::{TICKET_LIFE, TICKETS_MAX};
use quarry_common::wire::data::ticket::Secret;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What a ticket is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The disk.
    pub disk: DiskId,
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// What is shown to whoever redeems it.
    pub proof: Secret,
}

/// The tickets that were given out and not redeemed yet, at most [`TICKETS_MAX`].
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<Secret, (Granted, Instant)>>);

impl Tickets {
    /// Gives out a ticket under a secret that nobody can guess; whether there was room for it.
    #[must_use]
    pub fn issue(&self, secret: Secret, granted: Granted, now: Instant) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= TICKETS_MAX {
            open.retain(|_, (_, until)| *until > now);
        }
        let room = open.len() < TICKETS_MAX;
        if room {
            open.insert(secret, (granted, now + TICKET_LIFE));
        }
        room
    }

    /// Takes a ticket back; `None` if it was never given out, was redeemed, or is too old.
    pub fn redeem(&self, secret: &Secret, now: Instant) -> Option<Granted> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (granted, until) = open.remove(secret)?;
        (until > now).then_some(granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn granted(chunk: u64) -> Granted {
        Granted {
            disk: DiskId(1),
            pool: PoolId(1),
            chunk: ChunkId(chunk),
            proof: [7; 16],
        }
    }

    fn secret(number: usize) -> Secret {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn a_ticket_is_good_once_and_for_what_it_was_given() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        assert!(tickets.issue(secret(1), granted(1), now));
        assert!(tickets.issue(secret(2), granted(2), now));
        assert_eq!(tickets.redeem(&secret(3), now), None);
        assert_eq!(tickets.redeem(&secret(2), now), Some(granted(2)));
        assert_eq!(tickets.redeem(&secret(2), now), None);
        assert_eq!(tickets.redeem(&secret(1), now), Some(granted(1)));
    }

    #[test]
    fn an_old_ticket_is_refused() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        assert!(tickets.issue(secret(1), granted(1), now));
        assert!(tickets.issue(secret(2), granted(2), now));
        let just = now + TICKET_LIFE - Duration::from_millis(1);
        assert_eq!(tickets.redeem(&secret(1), just), Some(granted(1)));
        assert_eq!(tickets.redeem(&secret(2), now + TICKET_LIFE), None);
    }

    #[test]
    fn there_are_only_so_many_and_old_ones_make_room() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        for number in 0..TICKETS_MAX {
            assert!(tickets.issue(secret(number), granted(1), now));
        }
        assert!(!tickets.issue(secret(TICKETS_MAX), granted(1), now));
        assert_eq!(tickets.redeem(&secret(TICKETS_MAX), now), None);
        assert!(tickets.redeem(&secret(0), now).is_some());
        assert!(tickets.issue(secret(TICKETS_MAX), granted(1), now));
        let later = now + TICKET_LIFE;
        assert!(tickets.issue(secret(TICKETS_MAX + 1), granted(2), later));
        assert_eq!(tickets.0.lock().unwrap().len(), 1);
    }
}
