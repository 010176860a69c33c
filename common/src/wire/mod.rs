//! Every message between roles. The layouts are bincode of the types here (see [`crate::codec`]),
//! except the frames of bulk data, which are spelled byte by byte in [`data::frame`].

mod bounds;
pub mod data;
pub mod meta;
