//! Reading the file of a chunk past the network, on the same host (DESIGN §4.3).
//!
//! Over its connection, where its certificate and its capability are checked, a client gets a
//! [`FileTicket`]. It redeems the ticket on the dataserver's Unix socket for the file, opened for
//! reading only:
//!
//! ```text
//! client → dataserver   16 bytes: the secret
//! dataserver → client   16 bytes: the proof; with the first, the file's descriptor (SCM_RIGHTS)
//! ```
//!
//! Whatever is wrong with a secret, the dataserver closes the socket without a word.
//!
//! The socket has an abstract name (unix(7)), which belongs to the host's network namespace, needs
//! no folder that both sides may use, and is gone with the dataserver. The name is random; should
//! another program take over that of a dataserver that is gone, then it does not know the proof.

use crate::checksum::Crc;
use crate::error::{Error, Result};
use crate::limits::{BLOCK_LEN, CHUNK_LEN_MAX, FILE_RUNS_MAX};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt::Write;

/// 16 random bytes.
pub type Secret = [u8; 16];

/// Lets whoever knows it fetch the file of one chunk, once and soon; and what is in that file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTicket {
    /// Makes the name of the Unix socket, see [`socket_name`].
    pub socket: Secret,
    /// What the client shows there.
    pub secret: Secret,
    /// What the dataserver shows there.
    pub proof: Secret,
    /// The length of the chunk.
    pub len: u32,
    /// The CRC of all of it.
    pub crc: Crc,
    /// Where its bytes stand in the file, in order and without gaps in the chunk.
    pub runs: Vec<FileRun>,
    /// One a block.
    pub crcs: Vec<Crc>,
}

/// Bytes of a chunk that stand together in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRun {
    /// Position of the first one in the file.
    pub file_at: u64,
    /// How many.
    pub len: u32,
}

impl FileTicket {
    /// Checks that runs and CRCs are those of a chunk of this length.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::malformed(format!("a ticket for a file {what}")));
        if self.len > CHUNK_LEN_MAX || self.crcs.len() != (self.len as usize).div_ceil(BLOCK_LEN) {
            return refuse("has not one checksum a block");
        }
        let runs_len: u64 = self.runs.iter().map(|run| u64::from(run.len)).sum();
        let in_a_file = |run: &FileRun| run.file_at <= i64::MAX as u64 - u64::from(run.len);
        if self.runs.len() > FILE_RUNS_MAX
            || runs_len != u64::from(self.len)
            || !self.runs.iter().all(in_a_file)
        {
            return refuse("does not say where the chunk is in it");
        }
        Ok(())
    }
}

/// The abstract name of a Unix socket, with the NUL that says that it is one.
pub fn socket_name(socket: &Secret) -> OsString {
    let mut name = String::from("\0quarry-files-1-");
    for byte in socket {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn ticket() -> FileTicket {
        FileTicket {
            socket: [1; 16],
            secret: [2; 16],
            proof: [3; 16],
            len: 70_000,
            crc: Crc(4),
            runs: vec![
                FileRun {
                    file_at: 65_536,
                    len: 69_000,
                },
                FileRun {
                    file_at: 135_168,
                    len: 1_000,
                },
            ],
            crcs: vec![Crc(5), Crc(0x0100_0000)],
        }
    }

    #[test]
    fn tickets_have_golden_bytes() {
        let golden = [
            &[1; 16][..],
            &[2; 16],
            &[3; 16],
            // len, crc
            &[252, 0x70, 0x11, 1, 0, 4],
            // Two runs.
            &[2, 252, 0, 0, 1, 0, 252, 0x88, 0x0d, 1, 0],
            &[252, 0, 0x10, 2, 0, 251, 0xe8, 3],
            // Two CRCs.
            &[2, 5, 252, 0, 0, 0, 1],
        ]
        .concat();
        assert_eq!(codec::encode(&ticket()), golden);
        assert_eq!(codec::decode("a ticket", &golden), Ok(ticket()));
        let name = socket_name(&[0xab; 16]);
        let golden = "\0quarry-files-1-abababababababababababababababab";
        assert_eq!(name, OsString::from(golden));
    }

    #[test]
    fn impossible_tickets_are_refused() {
        assert_eq!(ticket().check(), Ok(()));
        let bad: [fn(&mut FileTicket); 6] = [
            |ticket| ticket.len += 1,
            |ticket| ticket.len = u32::MAX,
            |ticket| ticket.crcs.truncate(1),
            |ticket| ticket.runs.truncate(1),
            |ticket| ticket.runs[1].file_at = i64::MAX as u64 - 999,
            |ticket| {
                let none = FileRun { file_at: 0, len: 0 };
                ticket.runs.resize(FILE_RUNS_MAX + 1, none);
            },
        ];
        for change in bad {
            let mut ticket = ticket();
            change(&mut ticket);
            assert!(ticket.check().is_err(), "{ticket:?}");
        }
    }
}
