//! The numbers of a session's requests (DESIGN §5.2): each mutation has a number, used once; the
//! metaserver keeps the answers from `answered_below` on. Pure: no clock, no network.

use quarry_common::ids::{RequestNumber, SessionId};
use std::collections::BTreeSet;

/// Which requests of which session wait for their answers.
#[derive(Debug, Default)]
pub struct Core {
    session: Option<SessionId>,
    last: u64,
    open: BTreeSet<u64>,
}

/// The number of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The session.
    pub session: SessionId,
    /// The number.
    pub number: RequestNumber,
}

impl Core {
    /// The session, if one is open.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Begins a session that the metaserver has opened.
    pub fn handle_opened(&mut self, session: SessionId) {
        *self = Core {
            session: Some(session),
            ..Core::default()
        };
    }

    /// The session has ended. `false` if another one was already open: the news is old.
    pub fn handle_lost(&mut self, session: SessionId) -> bool {
        let current = self.session == Some(session);
        if current {
            *self = Core::default();
        }
        current
    }

    /// A number for a new request; `None` without a session. The caller sees to it that at most
    /// `OPEN_REQUESTS_MAX` numbers span from the oldest open one to the newest.
    pub fn begin(&mut self, span_max: u64) -> Option<Result<Ticket, Full>> {
        let session = self.session?;
        let oldest = self.open.first().copied().unwrap_or(self.last + 1);
        if self.last + 1 - oldest >= span_max {
            return Some(Err(Full));
        }
        self.last += 1;
        self.open.insert(self.last);
        Some(Ok(Ticket {
            session,
            number: RequestNumber(self.last),
        }))
    }

    /// All numbers of a request's session below this one have their answers by now.
    pub fn answered_below(&self, ticket: &Ticket) -> RequestNumber {
        let open = (self.session == Some(ticket.session)).then(|| self.open.first());
        // Nothing is known any more of a session that was lost.
        RequestNumber(open.flatten().copied().unwrap_or(1))
    }

    /// The answer is there, or nobody will ask for it any more.
    pub fn handle_answered(&mut self, ticket: &Ticket) {
        if self.session == Some(ticket.session) {
            self.open.remove(&ticket.number.0);
        }
    }
}

/// As many requests as may be open are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> Core {
        let mut core = Core::default();
        core.handle_opened(SessionId(9));
        core
    }

    #[test]
    fn answers_are_kept_until_the_oldest_open_request_has_its_own() {
        let mut core = core();
        let tickets: Vec<Ticket> = (0..3).map(|_| core.begin(10).unwrap().unwrap()).collect();
        core.handle_answered(&tickets[1]);
        let fourth = core.begin(10).unwrap().unwrap();
        assert_eq!(core.answered_below(&fourth), RequestNumber(1));
        core.handle_answered(&tickets[0]);
        let fifth = core.begin(10).unwrap().unwrap();
        assert_eq!(fifth.number, RequestNumber(5));
        for ticket in [tickets[2], fourth, fifth] {
            let below = core.answered_below(&ticket);
            assert_eq!(below, RequestNumber(3), "also of one that is asked again");
        }
    }

    #[test]
    fn the_span_of_open_numbers_is_bounded_even_when_most_are_answered() {
        let mut core = core();
        let first = core.begin(4).unwrap().unwrap();
        for _ in 0..3 {
            let other = core.begin(4).unwrap().unwrap();
            core.handle_answered(&other);
        }
        assert_eq!(core.begin(4), Some(Err(Full)));
        core.handle_answered(&first);
        assert!(core.begin(4).unwrap().is_ok());
    }

    #[test]
    fn a_lost_session_gives_no_numbers_and_old_news_change_nothing() {
        let mut core = core();
        let old = core.begin(4).unwrap().unwrap();
        assert!(core.handle_lost(SessionId(9)));
        assert_eq!(core.begin(4), None);
        core.handle_opened(SessionId(10));
        for _ in 0..3 {
            let newer = core.begin(4).unwrap().unwrap();
            core.handle_answered(&newer);
        }
        core.handle_answered(&old);
        assert_eq!(core.answered_below(&old), RequestNumber(1));
        assert!(!core.handle_lost(SessionId(9)));
        assert_eq!(core.begin(4).unwrap().unwrap().session, SessionId(10));
    }
}
