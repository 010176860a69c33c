//! The placement controller on the leader: compares the table of members with the targets.

mod counts;
mod health;
mod plan;

pub use counts::{count, is_clean};
pub use health::Health;
pub use plan::{Placement, plan};
