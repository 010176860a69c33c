//! Repair (DESIGN §4.5): every member comes to hold every chunk of its groups, and nobody else keeps them.
//!
//! Each disk has three loops. [`worker`] fills the groups that the disk has joined, as [`core`] says; [`mend`]
//! replaces bad and missing copies; [`leave`] deletes what the disk no longer is to hold. [`list`] and
//! [`confirm`] answer other dataservers and the metaservers. All of them copy chunks by [`fetch`].

pub mod confirm;
pub mod core;
pub mod fetch;
pub mod leave;
pub mod list;
pub mod mend;
pub mod pace;
pub mod suspects;
pub mod tally;
#[cfg(test)]
mod traces;
pub mod worker;

use crate::disk::Disk;
use crate::metaservers::Metaservers;
use crate::node::Node;
use std::sync::Arc;

/// The three loops of a disk, until they are dropped. Cancel-safe.
pub async fn run(node: Arc<Node>, disk: Disk, metaservers: Metaservers) {
    tokio::join!(
        worker::run(Arc::clone(&node), disk.clone(), metaservers.clone()),
        mend::run(Arc::clone(&node), disk.clone(), metaservers.clone()),
        leave::run(node, disk, metaservers),
    );
}
