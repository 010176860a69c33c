//! The agreed order of commands: Raft behind one small trait.

mod apply;
pub mod entry;

pub use apply::Apply;
