//! The dataserver: disks, the chunk store, the write pipeline, reads.

pub mod caller;
mod collect;
pub mod config;
pub mod dial;
pub mod disk;
pub mod disks;
pub mod heartbeat;
pub mod membership;
pub mod metaservers;
pub mod node;
pub mod opening;
pub mod pipeline;
pub mod read;
pub mod repair;
pub mod serve;
pub mod server;
pub mod turns;

pub use config::{DataserverConfig, DiskConfig};
pub use server::Dataserver;
