//! Files: writing, publishing, reading.

pub mod assembler;
pub mod commit;
mod dirty;
pub mod extents;
pub mod fetch;
pub mod handle;
pub mod locate;
mod overlay;
pub mod publish;
mod published;
pub mod reader;
pub mod same_host;
mod shared;
pub mod source;
mod stream;
pub mod writer;

pub use handle::{File, OpenOptions};
pub use locate::{Located, Place, ReplicaAt};
pub use publish::PublishOptions;
pub use shared::SharedFile;
pub(crate) use shared::SharedFiles;
