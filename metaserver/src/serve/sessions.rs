//! Opening, renewing and closing sessions.

use super::Serving;
use super::caller::Peer;
use crate::state::command::{Action, Reply};
use crate::state::session;
use quarry_common::ids::{SessionId, Version};
use quarry_common::limits::{OPEN_INODES_MAX, SESSION_LEASE};
use quarry_common::wire::meta::{MetaReply, Renewal};
use quarry_common::{Code, Error, Result};
use std::time::Instant;

impl Serving {
    /// A session is of the certificate that opened it. A session that is unknown goes on to the
    /// state machine, which knows whether it was lost.
    pub(super) fn check_session(&self, peer: &Peer, session: SessionId) -> Result<()> {
        if self.leases().is_of(session, peer.certificate) {
            return Ok(());
        }
        match session::find(&*self.kv, session)? {
            Some(record) if record.certificate != peer.certificate => {
                let text = format!("session {session} is another client's");
                Err(Error::new(Code::SessionLost, text))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn open_session(&self, peer: &Peer) -> Result<MetaReply> {
        self.caller(peer, None)?;
        let user = peer.user()?.to_owned();
        let action = Action::OpenSession {
            user,
            certificate: peer.certificate,
        };
        self.leases().begin_opening(peer.certificate)?;
        let reply = self.propose(Version::default(), action).await;
        if !matches!(reply, Ok(Reply::Session(_))) {
            self.leases().handle_not_opened(peer.certificate);
        }
        match reply? {
            Reply::Session(session) => {
                let mut leases = self.leases();
                leases.handle_opened(session, peer.certificate, Instant::now());
                Ok(MetaReply::Session {
                    session,
                    lease_ms: SESSION_LEASE.as_millis() as u32,
                })
            }
            other => Err(Error::bug(format!(
                "opening a session was answered with {other:?}"
            ))),
        }
    }

    pub(super) async fn renew_session(&self, peer: &Peer, renewal: Renewal) -> Result<MetaReply> {
        let Renewal {
            session,
            open,
            marks,
            open_chunks,
        } = renewal;
        if open.len() > OPEN_INODES_MAX {
            let text = format!(
                "the session has {} files open, {OPEN_INODES_MAX} are the most: close some",
                open.len()
            );
            return Err(Error::new(Code::TooBig, text));
        }
        // A leader that was cut off must not let a client believe that its session lives.
        self.consensus.read_barrier().await?;
        self.check_session(peer, session)?;
        let renewed = self
            .leases()
            .handle_renewal(session, open, Instant::now())?;
        if !renewed {
            let text = format!(
                "session {session} has ended: what it had not committed is to be written again"
            );
            return Err(Error::new(Code::SessionLost, text));
        }
        if !marks.is_empty() {
            self.propose(
                Version::default(),
                Action::Mark {
                    session,
                    marks,
                    open_chunks,
                },
            )
            .await?;
        }
        Ok(MetaReply::Renewed)
    }

    pub(super) async fn close_session(&self, peer: &Peer, session: SessionId) -> Result<MetaReply> {
        self.check_session(peer, session)?;
        self.propose(
            Version::default(),
            Action::EndSession {
                session,
                lost: false,
            },
        )
        .await?;
        self.leases().handle_ended(session);
        Ok(MetaReply::Renewed)
    }
}
