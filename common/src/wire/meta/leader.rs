//! How a metaserver that does not lead names the one that does: in the text of its error, for people and for programs.

use crate::error::{Code, Error};
use crate::ids::ServerId;

/// The error for what only the leader does. `leader` is its number and its address, if they are known.
pub fn not_leader(leader: Option<(ServerId, &str)>) -> Error {
    let text = match leader {
        Some((id, address)) => {
            format!("this one does not lead; it takes metaserver {id} at {address} for the leader")
        }
        None => "this one does not lead, and nobody is known to: try again".to_owned(),
    };
    Error::new(Code::NotLeader, text)
}

/// The leader that [`not_leader`] named; `None` for every other error.
pub fn leader_named(error: &Error) -> Option<(ServerId, &str)> {
    if error.code != Code::NotLeader {
        return None;
    }
    let (_, after) = error.text.rsplit_once("metaserver ")?;
    let mut words = after.split(' ');
    let id = words.next()?.parse().ok().map(ServerId)?;
    let address = words
        .next()
        .filter(|word| *word == "at")
        .and(words.next())?;
    Some((id, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_is_read_as_it_was_written() {
        let leader = Some((ServerId(13), "meta-13:7410"));
        assert_eq!(leader_named(&not_leader(leader)), leader);
        let told = not_leader(leader).context("metaserver 2");
        assert_eq!(
            leader_named(&told),
            leader,
            "whoever passed it on is not meant"
        );
        assert_eq!(leader_named(&not_leader(None)), None);
        let other = Error::new(Code::Overloaded, "metaserver 13 at meta-13:7410 is busy");
        assert_eq!(leader_named(&other), None);
    }
}
