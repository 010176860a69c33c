//! Files of dataservers on this host, over their Unix sockets.

use quarry_common::error::{Code, Error, Result};
use quarry_common::limits::REDEEM_WAIT;
use quarry_common::wire::data::ticket::{FileTicket, Secret, socket_name};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Redeems a ticket.
///
/// # Errors
/// `Unreachable`: the dataserver is in another network namespace, gone, or takes no more callers.
pub async fn redeem(ticket: &FileTicket) -> Result<File> {
    let redeemed = async {
        let mut stream = UnixStream::connect(socket_name(&ticket.socket)).await?;
        stream.write_all(&ticket.secret).await?;
        let received = stream.async_io(Interest::READABLE, || receive(&stream));
        received.await
    };
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    let received = tokio::time::timeout(REDEEM_WAIT, redeemed).await;
    let refuse = |why: String| {
        let text = format!("the dataserver's Unix socket gave no file: {why}");
        Error::new(Code::Unreachable, text)
    };
    match received.unwrap_or_else(late) {
        Ok((proof, Some(file))) if proof == Some(ticket.proof) => Ok(file),
        Ok((Some(_), _)) => Err(refuse("another program is there".into())),
        Ok((None, _)) => Err(refuse("it did not take the ticket".into())),
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// The proof, if it came whole, and the descriptor.
fn receive(stream: &UnixStream) -> io::Result<(Option<Secret>, Option<File>)> {
    let mut proof = Secret::default();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(&mut proof)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(stream, &mut pieces, &mut control, flags)?;
    // Descriptors are closed here but for one; more than there is space for were never made.
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let whole = received.bytes == proof.len();
    Ok((whole.then_some(proof), descriptor.map(File::from)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::checksum::Crc;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::{IoSlice, Read};
    use std::os::fd::AsFd;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    fn ticket() -> FileTicket {
        FileTicket {
            socket: rand::random(),
            secret: [1; 16],
            proof: [2; 16],
            len: 0,
            crc: Crc(0),
            runs: vec![],
            crcs: vec![],
        }
    }

    /// Takes a secret and answers with those bytes, and with a file.
    async fn answer(listener: &UnixListener, bytes: &[u8], files: usize) -> Secret {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut secret = Secret::default();
        stream.read_exact(&mut secret).await.unwrap();
        let file = File::open("/proc/self/cmdline").unwrap();
        let files = vec![file.as_fd(); files];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        }
        let bytes = [IoSlice::new(bytes)];
        rustix::net::sendmsg(&stream, &bytes, &mut control, SendFlags::NOSIGNAL).unwrap();
        secret
    }

    #[tokio::test]
    async fn a_file_comes_from_who_knows_the_proof_and_from_nobody_else() {
        let ticket = ticket();
        let refused = redeem(&ticket).await.unwrap_err();
        assert_eq!(refused.code, Code::Unreachable, "nobody listens");
        let listener = UnixListener::bind(socket_name(&ticket.socket)).unwrap();
        for (bytes, files, good) in [
            (&[2; 16][..], 1, true),
            (&[3; 16], 1, false),
            (&[2; 15], 1, false),
            (&[2; 16], 0, false),
            (&[2; 64], 8, true),
        ] {
            let (file, secret) = tokio::join!(redeem(&ticket), answer(&listener, bytes, files));
            assert_eq!(secret, ticket.secret);
            assert_eq!(file.is_ok(), good, "{bytes:?} {files} {file:?}");
            if let Ok(mut file) = file {
                let mut read = Vec::new();
                file.read_to_end(&mut read).unwrap();
                assert!(!read.is_empty());
            }
        }
        // One that says nothing.
        let (file, _) = tokio::join!(redeem(&ticket), listener.accept());
        assert_eq!(file.unwrap_err().code, Code::Unreachable);
    }
}
