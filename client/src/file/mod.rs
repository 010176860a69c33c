//! Files: writing, publishing, reading.

pub mod assembler;
pub mod commit;
pub mod extents;
pub mod fetch;
pub mod publish;
pub mod reader;
pub mod source;
pub mod writer;

pub use publish::PublishOptions;
