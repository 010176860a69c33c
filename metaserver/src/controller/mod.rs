//! The placement controller on the leader: which disks serve, and which disks hold which groups.

mod counts;
mod health;
mod life;
mod plan;
#[cfg(test)]
mod simulation;

pub use counts::count;
pub use health::Health;
pub use life::Life;
pub use plan::{Placement, Planner};
