//! The namespace: a deterministic state machine over the key-value state (DESIGN §5).
//!
//! [`apply`] takes entries of the log, `ops` has one file for each operation, [`read`] answers
//! reads. What both need: [`keys`] and [`records`] (the formats), [`txn`] (the state during an
//! entry), [`access`] (permissions).

pub mod access;
pub mod apply;
pub mod chunks;
pub mod collect;
pub mod command;
pub mod data_records;
mod depth;
pub mod extents;
pub mod keys;
pub mod map_state;
pub mod ops;
pub mod purge;
pub mod read;
pub mod receipts;
pub mod records;
pub mod session;
pub mod stop;
pub mod text;
pub mod txn;
pub mod usage;

#[cfg(test)]
mod consistency;
#[cfg(test)]
pub(crate) mod data_testing;
#[cfg(test)]
mod determinism;
#[cfg(test)]
pub(crate) mod testing;
