//! Why an operation did not go on.

use quarry_common::Error;

/// Why an operation did not go on. The two are never confused: the first is the same on every
/// metaserver and becomes the answer, the second is this machine's and ends applying.
#[derive(Debug)]
pub enum Stop {
    /// The operation is refused: the error is its answer.
    Refused(Error),
    /// The state can not be read, or makes no sense.
    Broken(Error),
}

/// What an operation returns.
pub type OpResult<T> = Result<T, Stop>;

impl From<Error> for Stop {
    /// An error of a check. What reads the state makes its own errors [`Stop::Broken`].
    fn from(error: Error) -> Stop {
        Stop::Refused(error)
    }
}

impl From<Stop> for Error {
    /// For readers, which tell their caller either way.
    fn from(stop: Stop) -> Error {
        match stop {
            Stop::Refused(error) | Stop::Broken(error) => error,
        }
    }
}
