//! A cluster as a file system of this machine: FUSE on top of the client library (DESIGN §5.2).
//!
//! The kernel asks, one request a system call and more; `fs` answers each from a task of its own. Everything that
//! makes an outage invisible is the client library's: here are names for inodes, handles, whose rights count, and what
//! FUSE wants to have said in its own way.

mod access;
mod attributes;
mod caller;
mod core;
mod errno;
mod fs;
mod handles;
mod inodes;
mod interrupts;
mod listing;
mod mountpoint;
mod options;
mod rights;
mod serve;
mod source;
mod space;
mod ttl;
mod umount;

pub use mountpoint::check_mountpoint;
pub use options::MountOptions;
pub use serve::{Mounted, mount, remount};
pub use source::Source;
pub use umount::{Unmount, unmount};

/// The type of our mounts in /proc/mounts, after `fuse.`.
pub const SUBTYPE: &str = "quarry";
