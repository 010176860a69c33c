//! Writing: a chunk goes to every member of its group along a pipeline (DESIGN §4.2).
//!
//! [`core`] is the bookkeeping of one hop, [`hop`] carries it out over streams and a disk, and [`small`]
//! does the same for chunks that fit one message. [`admit`] decides whether a write is taken at all.

pub mod admit;
pub mod core;
pub mod hop;
pub mod small;
