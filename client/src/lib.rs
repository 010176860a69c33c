//! The client library of Quarry: sessions, the namespace, files, readers, writers, trees.
//!
//! A [`Client`] is made from a [`ClientFile`]. Everything rides out outages of seconds: a request
//! without an answer is sent again (mutations exactly once), a chunk whose members fail goes on
//! in another one, a replica that is wrong or late is read from elsewhere.

mod admin;
mod backoff;
mod budget;
mod by_inode;
mod client;
mod client_file;
mod data;
mod dir;
mod file;
mod health;
mod map_cache;
mod meta;
mod namespace;
mod progress;
mod roll_call;
mod session;
mod telling;
mod text;
pub mod transport;
mod tree;

pub use client::{Client, Options};
pub use client_file::{CLUSTER_VARIABLE, ClientFile, MetaAddress};
pub use dir::Dir;
pub use file::{File, Located, OpenOptions, Place, PublishOptions, ReplicaAt, SharedFile};
pub use namespace::Usage;
pub use progress::Progress;
pub use roll_call::{Asked, RollCall, Says};
pub use text::escaped;
pub use tree::{
    Keep, Told, Transfer, TreeOptions, TreeReport, copy_file, copy_tree, get_file, get_tree,
    put_file, put_tree,
};
