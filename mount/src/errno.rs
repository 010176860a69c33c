//! What a failed call is for the program that made it.

use fuser::Errno;
use quarry_common::error::{Error, Kind};

/// The answer to a request of the kernel.
pub type Answer<T> = Result<T, Failure>;

/// Why there is no better answer.
#[derive(Debug)]
pub enum Failure {
    /// What the cluster said.
    Cluster(Error),
    /// What the mount itself refuses, with words that only system calls have.
    Refused(Errno),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Cluster(error)
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Refused(errno)
    }
}

impl Failure {
    /// The errno that the program gets; `doing` is for the log.
    pub fn errno(&self, doing: &'static str) -> Errno {
        match self {
            Failure::Cluster(error) => of(doing, error),
            Failure::Refused(errno) => *errno,
        }
    }
}

/// The errno of an error. What POSIX has no word for is `EIO` and goes to the log: there alone stands what happened, and to
/// what. Never `EAGAIN`: who gets that for a file gives up or turns in circles, and the client library has waited already.
fn of(doing: &'static str, error: &Error) -> Errno {
    let errno = match error.kind() {
        // A client file that can not be used is nothing that the program asked wrongly.
        Kind::Posix(_) if error.code == quarry_common::Code::Configuration => libc::EIO,
        Kind::Posix(errno) => errno,
        Kind::NoSpace => libc::ENOSPC,
        Kind::Retry
        | Kind::Refresh
        | Kind::Unavailable
        | Kind::Fenced
        | Kind::Corrupt
        | Kind::Malformed
        | Kind::Bug => libc::EIO,
    };
    match errno {
        libc::EIO | libc::ENOSPC => tracing::warn!("{doing}: {error}"),
        _ => tracing::debug!("{doing}: {error}"),
    }
    Errno::from_i32(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::Code;

    #[test]
    fn no_program_is_told_to_try_again() {
        for code in Code::ALL {
            let errno = of("test", &Error::new(*code, "text")).code();
            assert_ne!(errno, libc::EAGAIN, "{code:?}");
            if let (Kind::Posix(own), true) = (code.kind(), u16::from(*code) < 1000) {
                assert_eq!(errno, own, "{code:?}");
            }
        }
    }
}
