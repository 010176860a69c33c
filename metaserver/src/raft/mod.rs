//! The agreed order of commands: Raft behind one small trait.
