//! The agreed order of commands: Raft behind one small trait.
//!
//! [`Consensus`] is what the rest of the metaserver sees, [`Apply`] what the state machine above
//! gives; [`Raft`] is a running member of a group. A command goes through `batcher` (packed with
//! others into one [`entry`]), openraft, `log` (synced), and `machine` (applied, in one batch
//! with its index), and comes back as its answer.
//!
//! Members reach each other through `network` and are heard by `hearing`; `transfer` carries snapshots, `members` changes
//! who belongs to the group, `fitness` keeps a log that may have forgotten something from voting and `belief` from following
//! a leader of the past, `succession` decides when to ask for votes, `leading` follows whether this metaserver leads.

mod apply;
mod barrier;
mod batcher;
mod belief;
mod consensus;
pub mod entry;
mod fitness;
#[cfg(test)]
mod golden;
mod group;
mod hearing;
mod leading;
mod log;
mod machine;
mod members;
mod network;
mod snapshot;
mod succession;
#[cfg(test)]
mod tests;
mod transfer;
mod types;
mod wire;

pub use apply::Apply;
pub use batcher::Clock;
pub use consensus::{Consensus, GroupMember, Leader, Metrics, not_leader};
pub use group::{Raft, RaftOptions};
pub use network::Network;
pub(crate) use types::blocking;
pub use types::{Fatal, Pending, end_process};
