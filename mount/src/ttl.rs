//! How long the kernel may believe what it was told. Every such time is decided here.

use std::time::Duration;

/// How long names and attributes are believed.
///
/// Today by the clock alone: nothing tells a mount what others change, so that by default each use of a name or of attributes
/// asks the cluster, and what another client changed is seen at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// From a name to its inode, and from an inode to its attributes.
    pub attributes: Duration,
}

impl Ttl {
    /// Nothing is believed.
    pub const NONE: Ttl = Ttl {
        attributes: Duration::ZERO,
    };

    /// Whether attributes that nobody asked for yet are worth being told: they are forgotten at once otherwise.
    pub fn keeps_any(&self) -> bool {
        !self.attributes.is_zero()
    }
}
