//! The metaserver: Raft, the namespace state machine, sessions, the cluster map.
//!
//! Layers, each on the one before: [`kv`] (the store under the state), [`state`] (what commands
//! do to it), [`raft`] (the agreed order of commands), [`session`] and [`controller`] (what the
//! leader keeps in memory and decides), [`serve`] (requests), [`server`] (the life of a process).

pub mod config;
pub mod controller;
pub mod kv;
pub mod raft;
pub mod serve;
pub mod server;
pub mod session;
pub mod state;

pub use config::{ClusterSeed, MetaserverConfig};
pub use server::{Metaserver, check_identity, has_state};
