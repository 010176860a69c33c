//! How long the kernel may believe what it was told. Every such time is decided here.

use std::time::Duration;

/// How long names and attributes are believed.
///
/// By the clock alone: nothing tells a mount what others change. A name is asked for each time it is used, and the answer has
/// the attributes: whoever opens a file by its name sees it as it is then. Only what stays open is believed for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// From a name to its inode.
    pub names: Duration,
    /// From an inode to its attributes.
    pub attributes: Duration,
}

impl Default for Ttl {
    fn default() -> Ttl {
        Ttl {
            names: Duration::ZERO,
            attributes: Duration::from_millis(900),
        }
    }
}

impl Ttl {
    /// Nothing is believed.
    pub const NONE: Ttl = Ttl::of(Duration::ZERO);

    /// Names and attributes are believed for so long.
    pub const fn of(both: Duration) -> Ttl {
        Ttl {
            names: both,
            attributes: both,
        }
    }

    /// Whether names and attributes that nobody asked for yet are worth being told: they are forgotten at once otherwise.
    pub fn keeps_names(&self) -> bool {
        !self.names.is_zero()
    }
}
