//! Promises of a disk.
