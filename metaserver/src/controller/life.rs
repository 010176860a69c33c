//! The life of a disk as the leader sees it, as a table (DESIGN §4.1).
//!
//! Whether a disk is *in* or *out* stands in the map; the rest is soft state of the leader, begun anew by each but for the time for which a disk is down.

use quarry_common::map::DiskState;
use std::fmt;

/// Whether a disk serves, as far as the leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Not heard of since this leader began, and not for long enough to draw conclusions: whoever is a member stays.
    Unheard,
    /// It serves.
    Up,
    /// It does not: others take its positions.
    Down,
    /// It serves again and waits until it has done so for a while: longer each time that it goes down.
    Returning,
}

/// What the leader hears of a disk, or that it hears nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A heartbeat that says it is well.
    Well,
    /// It has been well for as long as it had to wait.
    Steady,
    /// A heartbeat that says it has failed, or does not name it.
    Failed,
    /// Its server was silent for too long, counted from the leader's own start at the earliest.
    Silent,
    /// Its server said goodbye, or was reported and did not answer the leader either.
    Gone,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Life::Unheard => "not heard of yet",
            Life::Up => "up",
            Life::Down => "down",
            Life::Returning => "back and waits",
        })
    }
}

impl Life {
    /// Every state, for tests.
    #[cfg(test)]
    pub const ALL: [Life; 4] = [Life::Unheard, Life::Up, Life::Down, Life::Returning];

    /// The state after an event.
    pub fn after(self, event: Event) -> Life {
        match (self, event) {
            (_, Event::Failed | Event::Silent | Event::Gone) => Life::Down,
            (Life::Unheard | Life::Up, Event::Well) => Life::Up,
            (Life::Down | Life::Returning, Event::Well) => Life::Returning,
            (Life::Returning, Event::Steady) => Life::Up,
            (Life::Unheard | Life::Up | Life::Down, Event::Steady) => self,
        }
    }

    /// What becomes of a disk in the map, if anything. `long`: it has been down for `out_after`, and nothing says that
    /// this is a failure of many at once. A disk that is *draining* is so by an operator's word.
    pub fn state(self, state: DiskState, long: bool) -> Option<DiskState> {
        match (state, self) {
            (DiskState::In, Life::Down) if long => Some(DiskState::Out),
            (DiskState::Out, Life::Up) => Some(DiskState::In),
            (DiskState::In | DiskState::Out | DiskState::Draining, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 5] = [
        Event::Well,
        Event::Steady,
        Event::Failed,
        Event::Silent,
        Event::Gone,
    ];

    fn every(check: impl Fn(Life, Event, Life)) {
        for life in Life::ALL {
            for event in EVENTS {
                check(life, event, life.after(event));
            }
        }
    }

    #[test]
    fn who_fails_is_silent_or_goes_is_down_whatever_it_was() {
        every(|life, event, after| {
            if matches!(event, Event::Failed | Event::Silent | Event::Gone) {
                assert_eq!(after, Life::Down, "{life:?} {event:?}");
            } else if after == Life::Down {
                assert_eq!((life, event), (Life::Down, Event::Steady));
            }
        });
    }

    #[test]
    fn only_a_sign_of_life_makes_a_disk_up_and_one_that_was_down_waits_first() {
        every(|life, event, after| {
            if after == Life::Up && life != Life::Up {
                let first = (life, event) == (Life::Unheard, Event::Well);
                let steady = (life, event) == (Life::Returning, Event::Steady);
                assert!(first || steady, "{life:?} {event:?}");
            }
            if after == Life::Returning {
                assert!(matches!(life, Life::Down | Life::Returning));
            }
        });
    }

    #[test]
    fn nothing_that_was_heard_of_becomes_unheard() {
        every(|life, event, after| {
            if after == Life::Unheard {
                assert_eq!((life, event), (Life::Unheard, Event::Steady));
            }
        });
    }

    #[test]
    fn only_who_is_down_for_long_goes_out_and_only_who_is_up_comes_in() {
        for life in Life::ALL {
            for state in [DiskState::In, DiskState::Draining, DiskState::Out] {
                for long in [false, true] {
                    let out = state == DiskState::In && life == Life::Down && long;
                    let back = state == DiskState::Out && life == Life::Up;
                    let expected = match (out, back) {
                        (true, _) => Some(DiskState::Out),
                        (_, true) => Some(DiskState::In),
                        _ => None,
                    };
                    assert_eq!(life.state(state, long), expected);
                }
            }
        }
    }
}
