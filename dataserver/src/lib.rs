//! dataserver
