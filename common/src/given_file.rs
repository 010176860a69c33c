//! Files that people give to programs: configurations, identities, authorities, seeds, client files.
//!
//! A name that was mistyped may lead to a device without an end or to a pipe that nobody writes to:
//! only regular files of bounded length are read.

use rustix::fs::OFlags;
use std::fmt::Display;
use std::fs::{File, FileType, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The longest file that is read, in bytes: a real one has a few thousand.
pub const FILE_LEN_MAX: u64 = 1 << 20;

/// What such a file holds, and who may read it.
#[derive(Debug)]
pub struct GivenFile {
    /// The text.
    pub text: String,
    /// The permissions, as of `chmod`.
    mode: u32,
}

/// Reads a regular file of at most [`FILE_LEN_MAX`] bytes of UTF-8; symbolic links are followed.
///
/// # Errors
/// Those of the system. For what is no such file the text says what it is instead; it names no path,
/// that is the caller's, who knows what the file is for.
pub fn read(path: &Path) -> Result<GivenFile> {
    // Before it is opened: opening a device may do something, and a socket can not be opened.
    check_type(std::fs::metadata(path)?.file_type())?;
    // What became a pipe since then must not hang either.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)?;
    let found = file.metadata()?;
    check_type(found.file_type())?;
    Ok(GivenFile {
        text: text_of(file)?,
        mode: found.permissions().mode() & 0o7777,
    })
}

fn check_type(found: FileType) -> Result<()> {
    let what = match found {
        found if found.is_file() => return Ok(()),
        found if found.is_dir() => "a directory",
        found if found.is_fifo() => "a pipe",
        found if found.is_socket() => "a socket",
        _ => "a device",
    };
    let kind = match found.is_dir() {
        true => ErrorKind::IsADirectory,
        false => ErrorKind::InvalidInput,
    };
    Err(Error::new(
        kind,
        format!("it is {what}, and a file is wanted"),
    ))
}

/// The length that a file has may be no promise: what is read counts.
fn text_of(file: File) -> Result<String> {
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let text = format!(
            "it is longer than {FILE_LEN_MAX} bytes, the most that is read: is it the right file?"
        );
        return Err(Error::new(ErrorKind::FileTooLarge, text));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = format!("byte {at} is no text (UTF-8): is it the right file?");
        Error::new(ErrorKind::InvalidData, text)
    })
}

impl GivenFile {
    /// What is wrong with a file that holds a private key and that others than its owner may read;
    /// `shown` is what it is, with its path.
    pub fn key_is_open(&self, shown: impl Display, path: &Path) -> Option<String> {
        (self.mode & 0o077 != 0).then(|| {
            format!(
                "{shown} holds a private key and others may read it (mode {:04o}): chmod 600 {}",
                self.mode,
                path.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path) -> String {
        read(path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_file_is_neither_read_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let pipe = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), pipe, mode, 0).unwrap();
        let _listens = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(said(&at("pipe")).contains("a pipe, and a file is wanted"));
        assert!(said(&at("socket")).contains("a socket"));
        assert!(said(dir.path()).contains("a directory"));
        assert!(said(Path::new("/dev/zero")).contains("a device"));
        assert_eq!(
            read(&at("none")).unwrap_err().kind(),
            ErrorKind::NotFound,
            "what is not there is told from what can not be read"
        );
    }

    #[test]
    fn a_file_is_read_up_to_the_most_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let most = "x".repeat(FILE_LEN_MAX as usize);
        std::fs::write(&path, &most).unwrap();
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(read(&dir.path().join("link")).unwrap().text == most);
        std::fs::write(&path, most + "x").unwrap();
        assert!(said(&path).contains("1048576"));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(said(&path).contains("byte 2"));
    }

    #[test]
    fn a_key_that_others_may_read_is_told_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "").unwrap();
        let open = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).unwrap();
            read(&path).unwrap().key_is_open("this", &path)
        };
        assert_eq!((open(0o600), open(0o400)), (None, None));
        for mode in [0o640, 0o604, 0o620] {
            let told = open(mode).unwrap();
            let remedy = format!("(mode {mode:04o}): chmod 600 {}", path.display());
            assert!(told.contains(&remedy), "{told}");
        }
    }
}
