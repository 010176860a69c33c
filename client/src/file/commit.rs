//! Committing what was written. A commit is refused while a chunk's group has too few members, or while they do not
//! confirm yet, so it is asked again until they do. That present members confirm what former ones signed is the metaserver's part
//! (DESIGN §4.2.7); a receipt that it says is too old for that fails at once: no waiting makes it count, and only who
//! has the bytes can write them again.

use crate::backoff::Backoff;
use crate::client::Client;
use quarry_common::error::{Code, Result};
use quarry_common::wire::meta::{Op, OpReply};
use std::time::{Duration, Instant};

impl Client {
    /// A mutation that hands in receipts, asked again while their groups are not ready for it.
    ///
    /// # Errors
    /// The operation's own; `OldReceipt` if the members of a group have changed since it was written.
    pub(crate) async fn commit(&self, op: Op) -> Result<OpReply> {
        let begun = Instant::now();
        let deadline = begun + self.shared.options.data_deadline;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.mutate(op.clone()).await {
                Err(error)
                    if matches!(
                        error.code,
                        Code::TooFewDisks | Code::NotYet | Code::Overloaded
                    ) && Instant::now() < deadline =>
                {
                    tracing::debug!(%error, "a commit has to wait");
                    self.shared.data.telling.tell(begun, deadline, || {
                        format!("what was written can not be committed yet ({error})")
                    });
                    backoff.wait(deadline).await;
                }
                other => return other,
            }
        }
    }
}
