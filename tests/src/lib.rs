//! What the tests of whole clusters are made of: clusters of real processes, real faults, a
//! generator of odd trees and a comparison that finds every difference.
//!
//! The promises to users stand in `tests/`, one file each. They run the `quarry` binary that
//! `scripts/test.sh` has built, as root (namespaces, loop file systems).

pub mod annotate;
pub mod cluster;
pub mod compare;
pub mod decoders;
pub mod drill;
pub mod generator;
pub mod hosts;
pub mod load;
pub mod mounts;
pub mod network;
pub mod power;
pub mod processes;
pub mod run;
pub mod sampler;
