//! The metaserver: Raft, the namespace state machine, sessions, the cluster map.
//!
//! Layers, each on the one before: [`kv`] (the store under the state), [`state`] (what commands
//! do to it), [`raft`] (the agreed order of commands).

pub mod kv;
pub mod raft;
pub mod state;
