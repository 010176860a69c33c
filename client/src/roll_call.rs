//! Asks each metaserver by itself: what can be known of a cluster that nobody leads.

use crate::client_file::ClientFile;
use crate::transport::{Peer, Transport, quic::Quic};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{Epoch, ServerId, ShardId, Version};
use quarry_common::wire::meta::admin::AdminReply;
use quarry_common::wire::meta::{AdminOp, Members, MetaBody, MetaReply, MetaRequest, leader_named};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Who is well answers within milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What each metaserver says when it is asked by itself, by number.
#[derive(Debug)]
pub struct RollCall(pub Vec<Asked>);

/// A metaserver that was asked.
#[derive(Debug)]
pub struct Asked {
    /// Its number.
    pub server: ServerId,
    /// Where it was asked.
    pub address: String,
    /// What it says.
    pub says: Says,
    /// It votes no more: so says who knows of the newest change of the metaservers, of those that answer.
    pub is_removed: bool,
}

/// What a metaserver says of itself.
#[derive(Debug)]
pub enum Says {
    /// It leads.
    Leads,
    /// It does not; whom it takes for the leader.
    Follows(Option<ServerId>),
    /// Nothing, and why.
    Nothing(Error),
}

/// What one says of itself and of others.
struct Answer {
    asked: Asked,
    leader: Option<Peer>,
    members: Members,
}

impl Asked {
    /// Whether it answered at all.
    pub fn answers(&self) -> bool {
        !matches!(self.says, Says::Nothing(_))
    }
}

impl RollCall {
    /// Of those that a client file names, and of those whom they name.
    ///
    /// # Errors
    /// `Configuration` for an identity that can not be used.
    pub async fn of(file: &ClientFile) -> Result<RollCall> {
        let servers = file.metaservers.iter().map(|server| Peer {
            server: server.id,
            address: server.address.clone(),
        });
        Ok(RollCall::over(Arc::new(Quic::new(file)?), servers.collect()).await)
    }

    /// The same over any transport.
    pub async fn over(transport: Arc<dyn Transport>, servers: Vec<Peer>) -> RollCall {
        let mut asking = JoinSet::new();
        let mut known: Vec<ServerId> = Vec::new();
        let mut ask = |asking: &mut JoinSet<_>, peer: Peer| {
            if !known.contains(&peer.server) {
                known.push(peer.server);
                let transport = Arc::clone(&transport);
                asking.spawn(async move { ask(&*transport, peer).await });
            }
        };
        servers.into_iter().for_each(|peer| ask(&mut asking, peer));
        let mut found = Vec::new();
        let mut newest = Members::default();
        while let Some(answer) = asking.join_next().await {
            // A panic ends the process.
            let Ok(answer) = answer else { continue };
            found.push(answer.asked);
            let members = answer.members.voters.iter();
            let members = members.map(|(server, address)| Peer {
                server: *server,
                address: address.clone(),
            });
            let named = members.chain(answer.leader);
            named.for_each(|peer| ask(&mut asking, peer));
            // Who was not told yet that it is in a group knows of nobody.
            if !answer.members.voters.is_empty() && answer.members.at >= newest.at {
                newest = answer.members;
            }
        }
        let votes = |id| newest.voters.iter().any(|(voter, _)| *voter == id);
        for asked in &mut found {
            asked.is_removed = !newest.voters.is_empty() && !votes(asked.server);
        }
        found.sort_by_key(|asked| asked.server);
        RollCall(found)
    }

    fn voters(&self) -> impl Iterator<Item = &Asked> {
        self.0.iter().filter(|asked| !asked.is_removed)
    }

    /// Whether one leads, or as many answer as a leader needs.
    pub fn has_majority(&self) -> bool {
        if self.0.iter().any(|asked| matches!(asked.says, Says::Leads)) {
            return true;
        }
        let answering = self.voters().filter(|asked| asked.answers());
        answering.count() >= majority(self.voters().count())
    }

    /// How many answer, how many a leader needs, and what to do.
    pub fn verdict(&self) -> String {
        verdict(self.voters().map(|asked| (asked.server, asked.answers())))
    }
}

async fn ask(transport: &dyn Transport, peer: Peer) -> Answer {
    // What only a leader answers, and shortly.
    let leads = MetaBody::Map {
        since: Epoch(u64::MAX),
        from: None,
    };
    let members = MetaBody::Admin(AdminOp::Members);
    let (leads, members) = tokio::join!(
        call(transport, &peer, leads),
        call(transport, &peer, members)
    );
    let members = match members {
        Ok(Ok(MetaReply::Admin(AdminReply::Members(members)))) => members,
        Ok(_) | Err(_) => Members::default(),
    };
    let mut leader = None;
    let says = match leads {
        Err(error) => Says::Nothing(error),
        Ok(Ok(_)) => Says::Leads,
        Ok(Err(error)) => {
            leader = leader_named(&error).map(|(server, address)| Peer {
                server,
                address: address.to_owned(),
            });
            Says::Follows(leader.as_ref().map(|leader| leader.server))
        }
    };
    let Peer { server, address } = peer;
    let asked = Asked {
        server,
        address,
        says,
        is_removed: false,
    };
    Answer {
        asked,
        leader,
        members,
    }
}

/// The answer of one metaserver, or why there is none.
async fn call(transport: &dyn Transport, peer: &Peer, body: MetaBody) -> Result<Result<MetaReply>> {
    let request = MetaRequest {
        shard: ShardId::FIRST,
        seen: Version(0),
        act_as: None,
        body,
    };
    let answer = transport.meta(peer, &request, ANSWERS_WITHIN);
    let answer = tokio::time::timeout(ANSWERS_WITHIN, answer).await;
    let late = || Error::new(Code::Disconnected, "it does not answer");
    Ok(answer.unwrap_or_else(|_| Err(late()))?.result)
}

fn majority(servers: usize) -> usize {
    servers / 2 + 1
}

/// How many of these metaservers answer, how many a leader needs, and what to do.
fn verdict(servers: impl IntoIterator<Item = (ServerId, bool)>) -> String {
    let (answering, silent): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|(_, answers)| *answers);
    let all = answering.len() + silent.len();
    let needed = majority(all);
    let counted = match (answering.len(), all) {
        (0, 1) => "the only metaserver does not answer".to_owned(),
        (1, 1) => "the only metaserver answers".to_owned(),
        (1, all) => format!("1 of {all} metaservers answers"),
        (some, all) => format!("{some} of {all} metaservers answer"),
    };
    let Some(missing) = needed.checked_sub(answering.len()).filter(|more| *more > 0) else {
        return format!("{counted}, and none leads yet: if that stays so, look into their logs");
    };
    let names: Vec<String> = silent.iter().map(|(id, _)| id.to_string()).collect();
    let start = match missing {
        1 => format!("start metaserver {}", names.join(" or ")),
        more => format!("start {more} of the metaservers {}", names.join(", ")),
    };
    match all {
        1 => format!("{counted}: {start}"),
        _ => format!("{counted}, and a leader needs {needed}: {start}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_and_what_is_to_be_started_is_told() {
        let of = |answers: &[bool]| {
            let numbered = answers.iter().zip(1..);
            verdict(numbered.map(|(answers, id)| (ServerId(id), *answers)))
        };
        assert_eq!(
            of(&[false, false, true]),
            "1 of 3 metaservers answers, and a leader needs 2: start metaserver 1 or 2"
        );
        assert_eq!(
            of(&[false; 3]),
            "0 of 3 metaservers answer, and a leader needs 2: start 2 of the metaservers 1, 2, 3"
        );
        assert_eq!(
            of(&[false]),
            "the only metaserver does not answer: start metaserver 1"
        );
        let elects = of(&[false, true, true]);
        assert!(elects.contains("2 of 3") && elects.contains("none leads yet"));
        assert!(of(&[true]).contains("none leads yet"));
    }
}
