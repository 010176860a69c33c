//! The dataserver: disks, the chunk store, the write pipeline, reads.

pub mod disk;
pub mod pipeline;
