//! The agreed order of commands: Raft behind one small trait.
//!
//! [`Consensus`] is what the rest of the metaserver sees, [`Apply`] what the state machine above
//! gives; [`Raft`] is a running member of a group. A command goes through `batcher` (packed with
//! others into one [`entry`]), openraft, `log` (synced), and `machine` (applied, in one batch
//! with its index), and comes back as its answer.

mod apply;
mod barrier;
mod batcher;
mod consensus;
pub mod entry;
mod group;
mod log;
mod machine;
mod network;
mod snapshot;
#[cfg(test)]
mod tests;
mod types;

pub use apply::Apply;
pub use batcher::Clock;
pub use consensus::{Consensus, Leader, Metrics};
pub use group::{Raft, RaftOptions};
pub(crate) use types::blocking;
pub use types::{Fatal, Pending, end_process};
