//! The values of sessions, of the map and of secrets: the formats beside those of the namespace.

use super::records::Record;
use quarry_common::ids::{DiskId, RequestNumber, ServerId, Version};
use quarry_common::map::{Row, Topology};
use quarry_common::token::Key;
use quarry_common::wire::meta::User;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `sessions`: an open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The name in the certificate that opened it.
    pub user: String,
    /// The hash of that certificate, to which its capabilities are bound.
    pub certificate: [u8; 32],
    /// When it was opened.
    pub opened: Version,
}

impl Record for SessionRecord {
    const WHAT: &'static str = "a session";
    const VERSION: u8 = 2;
}

/// `sessions`: the answers to the requests of a session, each kept until the session has it for certain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswersRecord {
    /// The session has the answers to all numbers below.
    pub below: RequestNumber,
    /// The answers from there on.
    pub answers: BTreeMap<RequestNumber, KeptAnswer>,
}

impl AnswersRecord {
    /// The greatest number of a request that was applied, as far as is known: all below `below` may have been.
    pub fn last(&self) -> RequestNumber {
        let below = RequestNumber(self.below.0.saturating_sub(1));
        self.answers.keys().next_back().copied().unwrap_or(below)
    }
}

impl Record for AnswersRecord {
    const WHAT: &'static str = "the answers of a session";
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// XXH3-64 of the encoded operation: the same number with another body is refused.
    pub body_hash: u64,
    /// The encoded answer.
    pub answer: Vec<u8>,
}

/// `sessions`: a range of chunk ids that a session may write and commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRecord {
    /// Ids from the first, which is in the key.
    pub count: u32,
    /// So many of them, from the first on, will not be committed any more, but those named open.
    pub marked: u32,
}

impl Record for RangeRecord {
    const WHAT: &'static str = "a range of chunk ids";
}

/// A value that says nothing: the key says it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present;

impl Record for Present {
    const WHAT: &'static str = "a mark";
}

/// `system`: what is remembered of a session that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostSessionRecord {
    /// The greatest number of a request that was applied; 0 if none was.
    pub last: RequestNumber,
}

impl Record for LostSessionRecord {
    const WHAT: &'static str = "a session that was lost";
}

/// `map`: servers, disks and pools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopologyRecord(pub Topology);

impl Record for TopologyRecord {
    const WHAT: &'static str = "the topology";
}

/// `map`: the members of one placement group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowRecord(pub Row);

impl Record for RowRecord {
    const WHAT: &'static str = "the row of a placement group";
}

/// `users`: a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserRecord(pub User);

impl Record for UserRecord {
    const WHAT: &'static str = "a user";
}

/// `secrets`: a key and who signs with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// The key.
    pub key: Key,
    /// The dataserver that signs receipts with it; none for keys of capabilities.
    pub server: Option<ServerId>,
}

impl Record for SecretRecord {
    const WHAT: &'static str = "a secret key";
}

/// `doomed`: a chunk that nothing refers to and nobody may commit: it is never needed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoomedRecord {
    /// Since when; dataservers delete it some time later.
    pub at: Version,
    /// Disks that have said that they do not have it, or not any more.
    pub gone_from: Vec<DiskId>,
}

impl Record for DoomedRecord {
    const WHAT: &'static str = "a doomed chunk";
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{Epoch, Gid, KeyNumber, Uid};
    use quarry_common::map::{Member, MemberState};

    fn hex(record: &impl Record) -> String {
        record
            .to_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// These bytes are on every metaserver's disk: a change is a new version.
    #[test]
    fn formats_are_pinned() {
        let session = SessionRecord {
            user: "ann".into(),
            certificate: [7; 32],
            opened: Version(300),
        };
        // version, user, certificate, opened
        assert_eq!(
            hex(&session),
            format!("02{}{}fb2c01", "03616e6e", "07".repeat(32))
        );
        let answer = KeptAnswer {
            body_hash: 1,
            answer: vec![9],
        };
        assert_eq!(
            hex(&AnswersRecord {
                below: RequestNumber(5),
                answers: [(RequestNumber(6), answer)].into()
            }),
            // version, below, count, number, hash, answer
            "01050106010109"
        );
        assert_eq!(
            hex(&RangeRecord {
                count: 5,
                marked: 3
            }),
            "010503"
        );
        assert_eq!(hex(&Present), "01");
        assert_eq!(
            hex(&LostSessionRecord {
                last: RequestNumber(4)
            }),
            "0104"
        );
        let member = Member {
            disk: DiskId(3),
            state: MemberState::Filling,
            since: Epoch(2),
        };
        let row = Row {
            epoch: Epoch(2),
            changed_at: Epoch(3),
            members: vec![Some(member), None],
            holders: vec![],
        };
        // version, epoch, changed at, two positions: present, disk, filling, since; empty; no holders
        assert_eq!(hex(&RowRecord(row)), "0102030201030002".to_owned() + "0000");
        let user = User {
            name: "ann".into(),
            uid: Uid(5),
            gids: vec![Gid(6)],
            admin: true,
        };
        assert_eq!(hex(&UserRecord(user)), "0103616e6e05010601");
        let key = Key {
            number: KeyNumber(1),
            secret: [8; 32],
        };
        let secret = SecretRecord {
            key,
            server: Some(ServerId(2)),
        };
        assert_eq!(hex(&secret), format!("0101{}0102", "08".repeat(32)));
        let doomed = DoomedRecord {
            at: Version(300),
            gone_from: vec![DiskId(4)],
        };
        assert_eq!(hex(&doomed), "01fb2c010104");
    }
}
