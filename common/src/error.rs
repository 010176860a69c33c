//! One error for every border between crates and for the wire.
//!
//! A [`Code`] says what happened and is stable on the wire; its [`Kind`] says what the caller
//! can do about it; the text is for people and names the thing and the remedy. Inside a crate,
//! operations have small error enums of their own and become an [`Error`] at the border.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Tell the user: an errno of Linux.
    Posix(i32),
    /// The same request, later or elsewhere.
    Retry,
    /// Fetch the cluster map and try again.
    Refresh,
    /// You lost your lease, your epoch or your session: stop, start afresh.
    Fenced,
    /// Never this replica again; report it.
    Corrupt,
    /// No space on this disk; others may have some.
    NoSpace,
    /// Nobody can serve this now.
    Unavailable,
    /// The peer speaks nonsense: the stream is closed.
    Malformed,
    /// A defect of ours.
    Bug,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal => $kind:expr,)*) => {
        /// What happened: a number that never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "u16", from = "u16")]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $name = $number,)* }

        impl Code {
            /// Every code, for tests and documents.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// What a caller can do about it.
            pub fn kind(self) -> Kind {
                match self { $(Code::$name => $kind,)* }
            }
        }

        impl From<u16> for Code {
            /// A code of a newer version is `Unknown`: shown with its text, never retried.
            fn from(number: u16) -> Code {
                match number { $($number => Code::$name,)* _ => Code::Unknown }
            }
        }
    };
}

impl From<Code> for u16 {
    fn from(code: Code) -> u16 {
        code as u16
    }
}

codes! {
    /// EPERM.
    NotPermitted = 1 => Kind::Posix(1),
    /// ENOENT.
    NotFound = 2 => Kind::Posix(2),
    /// EIO: what was stored can not be read anywhere.
    Io = 5 => Kind::Posix(5),
    /// E2BIG.
    TooBig = 7 => Kind::Posix(7),
    /// EACCES.
    AccessDenied = 13 => Kind::Posix(13),
    /// EBUSY.
    Busy = 16 => Kind::Posix(16),
    /// EEXIST.
    Exists = 17 => Kind::Posix(17),
    /// EXDEV.
    CrossDevice = 18 => Kind::Posix(18),
    /// ENOTDIR.
    NotDirectory = 20 => Kind::Posix(20),
    /// EISDIR.
    IsDirectory = 21 => Kind::Posix(21),
    /// EINVAL.
    Invalid = 22 => Kind::Posix(22),
    /// EFBIG.
    FileTooBig = 27 => Kind::Posix(27),
    /// ENOSPC: the whole cluster is full.
    ClusterFull = 28 => Kind::Posix(28),
    /// EROFS.
    ReadOnly = 30 => Kind::Posix(30),
    /// EMLINK.
    TooManyLinks = 31 => Kind::Posix(31),
    /// ERANGE.
    OutOfRange = 34 => Kind::Posix(34),
    /// ENAMETOOLONG.
    NameTooLong = 36 => Kind::Posix(36),
    /// ENOTEMPTY.
    NotEmpty = 39 => Kind::Posix(39),
    /// ELOOP.
    TooManySymlinks = 40 => Kind::Posix(40),
    /// ENODATA: no such extended attribute.
    NoAttribute = 61 => Kind::Posix(61),
    /// EOPNOTSUPP.
    NotSupported = 95 => Kind::Posix(95),
    /// ESTALE: the inode is gone.
    Stale = 116 => Kind::Posix(116),

    /// Too much at once, or not ready yet.
    Overloaded = 1000 => Kind::Retry,
    /// This metaserver does not lead; the text names the leader if it is known.
    NotLeader = 1001 => Kind::Retry,
    /// A member that is filling does not have the chunk yet.
    NotYet = 1002 => Kind::Retry,
    /// A pool has too few disks for a write.
    TooFewDisks = 1003 => Kind::Retry,
    /// The connection broke or timed out before an answer: it may have happened.
    Disconnected = 1004 => Kind::Retry,
    /// An expectation of an atomic list did not hold.
    Changed = 1005 => Kind::Retry,
    /// A chunk has had all the flushes it can take; seal it and go on in another.
    FlushesUsedUp = 1006 => Kind::Retry,
    /// A metaserver does not reach a dataserver at the address that it advertises.
    NotReached = 1007 => Kind::Retry,

    /// The map of the caller is older than this server's.
    OldMap = 2000 => Kind::Refresh,
    /// This disk is no member or holder of the placement group.
    NotMember = 2001 => Kind::Refresh,
    /// A receipt of an epoch that is not its placement group's current one.
    OldReceipt = 2002 => Kind::Refresh,

    /// The session is unknown or has ended; what it had not committed is to be written again.
    SessionLost = 3000 => Kind::Fenced,
    /// A dataserver without a lease from the metaservers.
    NoLease = 3001 => Kind::Fenced,
    /// A chunk id that this disk has seen before, or below the mark of its session.
    ChunkUsed = 3002 => Kind::Fenced,
    /// A capability that does not allow this, or has expired.
    BadCapability = 3003 => Kind::Fenced,
    /// A receipt that no key confirms, or of a chunk outside the session's ranges.
    BadReceipt = 3004 => Kind::Fenced,
    /// A request number used again with another body.
    NumberReused = 3005 => Kind::Fenced,
    /// A certificate that is revoked, or whose role may not do this.
    WrongRole = 3006 => Kind::Fenced,
    /// The outcome of a request is not known: its session was lost before it was answered.
    UnknownOutcome = 3007 => Kind::Fenced,

    /// Stored bytes do not match their checksum.
    ChecksumMismatch = 4000 => Kind::Corrupt,
    /// A chunk that should be here is not.
    ChunkMissing = 4001 => Kind::Corrupt,
    /// A disk failed an operation and was taken out of service.
    DiskFailed = 4002 => Kind::Corrupt,

    /// This disk is full.
    DiskFull = 5000 => Kind::NoSpace,

    /// No server could be reached.
    Unreachable = 6000 => Kind::Unavailable,
    /// The server is stopping.
    Stopping = 6001 => Kind::Unavailable,
    /// Somebody else answers at the address of a server: another server of the cluster, or no server of ours.
    OtherServer = 6002 => Kind::Unavailable,

    /// A message that can not be decoded, is too long, or breaks the protocol.
    Malformed = 7000 => Kind::Malformed,
    /// Data arrived with a wrong checksum.
    DamagedOnTheWay = 7001 => Kind::Malformed,
    /// A format or protocol newer than known.
    TooNew = 7002 => Kind::Malformed,

    /// Configuration or identity that can not work; the text says what to change.
    Configuration = 8000 => Kind::Posix(22),

    /// A defect of ours.
    Bug = 9000 => Kind::Bug,
    /// A code of a newer version.
    Unknown = 9001 => Kind::Bug,
}

/// The result of anything that crosses a border.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its code, a text for people, and what caused it.
///
/// The source is for logs; it does not travel over the wire.
#[derive(Serialize, Deserialize)]
pub struct Error {
    /// What happened.
    pub code: Code,
    /// What went wrong, with what, and what to try next; no trailing full stop.
    pub text: String,
    /// What caused it, on this machine.
    #[serde(skip)]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a source.
    pub fn new(code: Code, text: impl Into<String>) -> Error {
        Error {
            code,
            text: text.into(),
            source: None,
        }
    }

    /// The same error with its cause.
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.source = Some(source.into());
        self
    }

    /// The same error, its text preceded by what was being done, unless it is already: `"put a to /b: disk is full"`.
    /// One that was quoted there is not any more.
    pub fn context(mut self, doing: impl fmt::Display) -> Error {
        let quoted = format!("'{doing}': ");
        if self.text.starts_with(&quoted) {
            self.text.drain(..quoted.len());
        }
        let doing = format!("{doing}: ");
        if !self.text.starts_with(&doing) {
            self.text.insert_str(0, &doing);
        }
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.code.kind()
    }

    /// The errno of Linux that a mount or a program would report: `EIO` where POSIX has no word.
    pub fn errno(&self) -> i32 {
        match self.kind() {
            Kind::Posix(errno) => errno,
            Kind::NoSpace => 28,
            Kind::Retry | Kind::Refresh | Kind::Unavailable => 11,
            Kind::Fenced | Kind::Corrupt | Kind::Malformed | Kind::Bug => 5,
        }
    }

    /// A defect of ours; says so.
    pub fn bug(text: impl Into<String>) -> Error {
        Error::new(Code::Bug, text)
    }

    /// A message that breaks the protocol.
    pub fn malformed(text: impl Into<String>) -> Error {
        Error::new(Code::Malformed, text)
    }
}

impl Clone for Error {
    /// Without the source, which can not be cloned; its text is kept, once.
    fn clone(&self) -> Error {
        let cause = self.source.as_ref().map(ToString::to_string);
        let text = match cause.filter(|cause| !self.text.contains(cause)) {
            Some(cause) => format!("{}: {cause}", self.text),
            None => self.text.clone(),
        };
        Error {
            code: self.code,
            text,
            source: None,
        }
    }
}

impl PartialEq for Error {
    /// Same code, same text.
    fn eq(&self, other: &Error) -> bool {
        self.code == other.code && self.text == other.text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.text)?;
        match &self.source {
            Some(source) => write!(f, " ({source:?})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        let kind = std::io::Error::from_raw_os_error(error.errno()).kind();
        std::io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn what_was_being_done_is_said_once() {
        let error = Error::new(Code::DiskFull, "disk is full").context("/b");
        assert_eq!(error.clone().context("/b"), error);
        assert_eq!(error.context("put a").text, "put a: /b: disk is full");
        let error = Error::new(Code::NotFound, "'/b': not there").context("/b");
        assert_eq!(error.text, "/b: not there");
        for text in ["can not be read", "can not be read: denied"] {
            let error = Error::new(Code::Io, text).with_source("denied");
            assert_eq!(error.clone().text, "can not be read: denied");
        }
    }

    #[test]
    fn codes_read_back_as_themselves_and_unknown_ones_are_not_retried() {
        for code in Code::ALL {
            assert_eq!(Code::from(u16::from(*code)), *code);
        }
        assert_eq!(Code::from(65_535).kind(), Kind::Bug);
    }

    /// Number, code, what a caller can do: new ones come in between, none changes.
    const PINNED: &str = "
        1 NotPermitted Posix(1)
        2 NotFound Posix(2)
        5 Io Posix(5)
        7 TooBig Posix(7)
        13 AccessDenied Posix(13)
        16 Busy Posix(16)
        17 Exists Posix(17)
        18 CrossDevice Posix(18)
        20 NotDirectory Posix(20)
        21 IsDirectory Posix(21)
        22 Invalid Posix(22)
        27 FileTooBig Posix(27)
        28 ClusterFull Posix(28)
        30 ReadOnly Posix(30)
        31 TooManyLinks Posix(31)
        34 OutOfRange Posix(34)
        36 NameTooLong Posix(36)
        39 NotEmpty Posix(39)
        40 TooManySymlinks Posix(40)
        61 NoAttribute Posix(61)
        95 NotSupported Posix(95)
        116 Stale Posix(116)
        1000 Overloaded Retry
        1001 NotLeader Retry
        1002 NotYet Retry
        1003 TooFewDisks Retry
        1004 Disconnected Retry
        1005 Changed Retry
        1006 FlushesUsedUp Retry
        1007 NotReached Retry
        2000 OldMap Refresh
        2001 NotMember Refresh
        2002 OldReceipt Refresh
        3000 SessionLost Fenced
        3001 NoLease Fenced
        3002 ChunkUsed Fenced
        3003 BadCapability Fenced
        3004 BadReceipt Fenced
        3005 NumberReused Fenced
        3006 WrongRole Fenced
        3007 UnknownOutcome Fenced
        4000 ChecksumMismatch Corrupt
        4001 ChunkMissing Corrupt
        4002 DiskFailed Corrupt
        5000 DiskFull NoSpace
        6000 Unreachable Unavailable
        6001 Stopping Unavailable
        6002 OtherServer Unavailable
        7000 Malformed Malformed
        7001 DamagedOnTheWay Malformed
        7002 TooNew Malformed
        8000 Configuration Posix(22)
        9000 Bug Bug
        9001 Unknown Bug
    ";

    #[test]
    fn a_code_never_changes_its_number_nor_its_kind() {
        let now = Code::ALL.iter().map(|code| {
            let line = format!("{} {code:?} {:?}", u16::from(*code), code.kind());
            (line, codec::encode(code))
        });
        let pinned = PINNED
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        let pinned = pinned.map(|line| {
            let number: u16 = line.split(' ').next().unwrap().parse().unwrap();
            (line.to_owned(), codec::encode(&number))
        });
        assert_eq!(now.collect::<Vec<_>>(), pinned.collect::<Vec<_>>());
    }

    #[test]
    fn a_posix_code_is_its_errno() {
        for code in Code::ALL {
            if let (Kind::Posix(errno), true) = (code.kind(), u16::from(*code) < 1000) {
                assert_eq!(errno, i32::from(u16::from(*code)));
            }
        }
    }
}
