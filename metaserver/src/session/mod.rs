//! Sessions as the leader sees them: leases on its own monotonic clock. Their end is a command.

mod leases;

pub use leases::Leases;
