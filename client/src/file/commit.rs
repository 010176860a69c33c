//! Committing what was written. A commit is refused while the group of a chunk has too few members (that present members
//! confirm what former ones signed is the metaserver's part, DESIGN §4.2.7), so it is asked again for a while.

use crate::backoff::Backoff;
use crate::client::Client;
use quarry_common::error::{Code, Result};
use quarry_common::wire::meta::{Op, OpReply};
use std::time::{Duration, Instant};

impl Client {
    /// A mutation that hands in receipts, asked again while their groups change.
    ///
    /// # Errors
    /// The operation's own; `OldReceipt` if the members did not confirm in time.
    pub(crate) async fn commit(&self, op: Op) -> Result<OpReply> {
        let deadline = Instant::now() + self.shared.options.data_deadline;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.mutate(op.clone()).await {
                Err(error)
                    if matches!(
                        error.code,
                        Code::OldReceipt | Code::TooFewDisks | Code::NotYet
                    ) && Instant::now() < deadline =>
                {
                    tracing::debug!(%error, "a commit has to wait");
                    backoff.wait(deadline).await;
                }
                other => return other,
            }
        }
    }
}
