//! metaserver
