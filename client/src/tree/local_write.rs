//! Writing local files of a download: under a temporary name until they are whole.

use super::xattrs::{self, Xattrs};
use super::{Copied, local_error};
use crate::file::source::Piece;
use bytes::Bytes;
use quarry_common::error::{Code, Error, Result};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{Attr, FileKind};
use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;

/// Bytes gathered for one write.
const WRITE_LEN: usize = 1 << 20;

/// Symbolic links that are followed at most, as Linux does.
const LINKS_MAX: usize = 40;

/// A pipe without a reader is looked at again so often.
const READER_EVERY: Duration = Duration::from_millis(50);

/// A file with these bits runs as its owner, or its group.
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;

/// Where a file goes that is fetched onto a name, as `cp` decides it.
pub enum Onto {
    /// A new file takes this name: the given one, or that to which a symbolic link leads.
    Name(PathBuf),
    /// Its bytes go into the device or the pipe that is there.
    Stream,
}

/// Looks at what is there.
///
/// # Errors
/// `IsDirectory`; as stat(2) and readlink(2), naming the file.
pub fn onto(local: &Path) -> Result<Onto> {
    let found = match local.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found.map_err(|error| local_error(local, "be looked at", error))?),
    };
    match found {
        Some(meta) if meta.is_dir() => {
            let text = format!("{}: is a directory", local.display());
            Err(Error::new(Code::IsDirectory, text))
        }
        Some(meta) if !meta.is_file() => Ok(Onto::Stream),
        Some(_) | None => led_to(local)
            .map(Onto::Name)
            .map_err(|error| local_error(local, "be followed", error)),
    }
}

/// The name at the end of symbolic links, whether or not anything has it.
fn led_to(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                let target = std::fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(target);
            }
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Opens a device or a pipe for writing; a pipe once it has a reader. Cancel-safe.
///
/// # Errors
/// As open(2), naming the file.
pub async fn open_stream(path: &Path) -> Result<Box<dyn AsyncWrite + Send + Unpin>> {
    let failed = |error| local_error(path, "be written", error);
    let is_pipe = path.metadata().map_err(failed)?.file_type().is_fifo();
    if !is_pipe {
        let file = tokio::fs::File::options().write(true).open(path).await;
        return Ok(Box::new(file.map_err(failed)?));
    }
    // open(2) that waits for the reader would not end with the command.
    let no_reader = rustix::io::Errno::NXIO.raw_os_error();
    loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Err(error) if error.raw_os_error() == Some(no_reader) => {
                tokio::time::sleep(READER_EVERY).await;
            }
            opened => return Ok(Box::new(opened.map_err(failed)?)),
        }
    }
}

/// Below the top of a tree nothing is followed, and nothing is replaced but regular files and what is of
/// the same kind.
///
/// # Errors
/// `Exists` for what stays, naming it and the remedy.
pub fn make_way(path: &Path, kind: FileKind, replace: bool) -> Result<()> {
    let there = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there.map_err(|error| local_error(path, "be looked at", error))?,
    };
    if !replace {
        let text = format!("{}: exists already", path.display());
        return Err(Error::new(Code::Exists, text));
    }
    let (same, what) = kind_of(&there);
    match same == FileKind::File || same == kind {
        true => Ok(()),
        false => Err(in_the_way(path, what)),
    }
}

fn kind_of(meta: &Metadata) -> (FileKind, &'static str) {
    let kind = meta.file_type();
    if kind.is_file() {
        (FileKind::File, "a file")
    } else if kind.is_dir() {
        (FileKind::Directory, "a directory")
    } else if kind.is_symlink() {
        (FileKind::Symlink, "a symbolic link")
    } else if kind.is_fifo() {
        (FileKind::Fifo, "a pipe")
    } else if kind.is_socket() {
        (FileKind::Socket, "a socket")
    } else if kind.is_char_device() {
        (FileKind::CharDevice, "a device")
    } else {
        (FileKind::BlockDevice, "a device")
    }
}

fn in_the_way(path: &Path, what: &str) -> Error {
    let text = format!(
        "{}: is {what}, which a tree neither follows nor replaces: remove it and get the tree again",
        path.display()
    );
    Error::new(Code::Exists, text)
}

/// A file that is being written. Dropping it removes what is there.
pub struct NewFile {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
    gathered: Vec<Bytes>,
    gathered_len: usize,
    gathered_at: u64,
    at: u64,
    named: bool,
    without_xattrs: bool,
}

/// What became of a new file.
pub struct Named {
    /// Its length.
    pub len: u64,
    /// Whether the file system took no extended attributes.
    pub without_xattrs: bool,
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.named && self.file.is_some() {
            // Nothing more can be done about a file that can not be removed either.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

impl NewFile {
    /// A file that will be at `target`. Nothing is touched before the first bytes are written.
    pub fn new(target: &Path) -> NewFile {
        let name = format!(".quarry-{:08x}.part", rand::random::<u32>());
        NewFile {
            temporary: target.with_file_name(name),
            target: target.to_path_buf(),
            file: None,
            gathered: Vec::new(),
            gathered_len: 0,
            gathered_at: 0,
            at: 0,
            named: false,
            without_xattrs: false,
        }
    }

    /// Writes the next piece.
    ///
    /// # Errors
    /// As write(2), naming the file.
    pub async fn write(self, piece: Piece) -> Result<NewFile> {
        let mut new = self;
        match piece {
            Piece::Data(bytes) => {
                new.at += bytes.len() as u64;
                new.gathered_len += bytes.len();
                new.gathered.push(bytes);
                if new.gathered_len >= WRITE_LEN {
                    return new.blocking(NewFile::flush).await;
                }
            }
            Piece::Zeros(len) => {
                if new.gathered_len > 0 {
                    new = new.blocking(NewFile::flush).await?;
                }
                new.at += len;
                new.gathered_at = new.at;
            }
        }
        Ok(new)
    }

    /// Writes the rest, sets extended attributes, mode, times and owner, and gives the file its name.
    ///
    /// # Errors
    /// As the system calls, naming the file; `Exists` if it may not replace another.
    pub async fn finish(
        self,
        attr: Attr,
        xattrs: Xattrs,
        owners: bool,
        replace: bool,
    ) -> Result<Named> {
        let done = self.blocking(move |new| {
            new.flush()?;
            // While we may still write to it.
            new.without_xattrs = !xattrs::write(new.open()?, &xattrs)?;
            new.name(&attr, owners, replace)
        });
        let done = done.await?;
        Ok(Named {
            len: done.at,
            without_xattrs: done.without_xattrs,
        })
    }

    async fn blocking(
        self,
        work: impl FnOnce(&mut NewFile) -> io::Result<()> + Send + 'static,
    ) -> Result<NewFile> {
        let done = tokio::task::spawn_blocking(move || {
            let mut new = self;
            match work(&mut new) {
                Ok(()) => Ok(new),
                Err(error) => Err(local_error(&new.target, "be written", error)),
            }
        });
        done.await
            .map_err(|error| Error::bug("a file's writer failed").with_source(error))?
    }

    fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            // Nobody else reads it before it has its mode.
            let file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.temporary)?;
            self.file = Some(file);
        }
        self.file
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is not open"))
    }

    fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        let at = self.gathered_at;
        let file = self.open()?;
        rustix::fs::seek(&*file, rustix::fs::SeekFrom::Start(at))?;
        write_all(file, &gathered)?;
        self.gathered_at = self.at;
        self.gathered_len = 0;
        Ok(())
    }

    fn name(&mut self, attr: &Attr, owners: bool, replace: bool) -> io::Result<()> {
        let len = self.at;
        let file = self.open()?;
        // A hole at the end was not written.
        if file.metadata()?.len() != len {
            file.set_len(len)?;
        }
        if owners {
            std::os::unix::fs::fchown(&*file, Some(attr.uid.0), Some(attr.gid.0))?;
        }
        // After the owner: a change of it takes the set-id bits away.
        file.set_permissions(permissions(attr, &file.metadata()?))?;
        rustix::fs::futimens(file.as_fd(), &times(attr))?;
        if replace {
            std::fs::rename(&self.temporary, &self.target)?;
        } else {
            std::fs::hard_link(&self.temporary, &self.target)?;
            std::fs::remove_file(&self.temporary)?;
        }
        self.named = true;
        Ok(())
    }
}

fn write_all(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    use std::io::Write;
    let mut slices: Vec<IoSlice> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let batch = rest.len().min(512);
        match file.write_vectored(&rest[..batch]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn timespec(time: Nanos) -> rustix::fs::Timespec {
    let (seconds, nanos) = time.parts();
    rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    }
}

fn times(attr: &Attr) -> rustix::fs::Timestamps {
    rustix::fs::Timestamps {
        last_access: timespec(attr.atime),
        last_modification: timespec(attr.mtime),
    }
}

/// The mode of a copy: it acts for another user or group only if it belongs to whom the original does, as
/// with `cp`.
fn permissions(attr: &Attr, copy: &Metadata) -> Permissions {
    let mut mode = u32::from(attr.mode);
    let same_owner = copy.uid() == attr.uid.0;
    if !same_owner {
        mode &= !SET_UID;
    }
    if !same_owner || copy.gid() != attr.gid.0 {
        mode &= !SET_GID;
    }
    Permissions::from_mode(mode)
}

/// Finishes a directory after everything in it is there; false if the file system took no extended
/// attributes.
pub fn finish_directory(path: &Path, attr: &Attr, xattrs: &Xattrs, owners: bool) -> Result<bool> {
    let took = match xattrs.is_empty() {
        true => Ok(true),
        // While we may still write to it.
        false => File::open(path).and_then(|directory| xattrs::write(&directory, xattrs)),
    };
    finish_node(path, attr, owners)?;
    took.map_err(|error| local_error(path, "be given its extended attributes", error))
}

/// Sets mode, owner and times of a directory, a pipe or a device.
pub fn finish_node(path: &Path, attr: &Attr, owners: bool) -> Result<()> {
    let set = || -> io::Result<()> {
        if owners {
            std::os::unix::fs::chown(path, Some(attr.uid.0), Some(attr.gid.0))?;
        }
        std::fs::set_permissions(path, permissions(attr, &path.metadata()?))?;
        rustix::fs::utimensat(
            rustix::fs::CWD,
            path,
            &times(attr),
            rustix::fs::AtFlags::empty(),
        )?;
        Ok(())
    };
    set().map_err(|error| local_error(path, "be given its mode and times", error))
}

/// Makes a symbolic link with its times.
pub fn symlink(target: &[u8], path: &Path, attr: &Attr, owners: bool, replace: bool) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let target = std::ffi::OsStr::from_bytes(target);
    let make = || -> io::Result<()> {
        match std::os::unix::fs::symlink(target, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && replace => {
                std::fs::remove_file(path)?;
                std::os::unix::fs::symlink(target, path)?;
            }
            other => other?,
        }
        if owners {
            std::os::unix::fs::lchown(path, Some(attr.uid.0), Some(attr.gid.0))?;
        }
        rustix::fs::utimensat(
            rustix::fs::CWD,
            path,
            &times(attr),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    };
    make().map_err(|error| local_error(path, "be made a symbolic link", error))
}

/// Gives a file a second name.
pub fn link(existing: &Path, new: &Path, replace: bool) -> Result<()> {
    let make = || match std::fs::hard_link(existing, new) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && replace => {
            std::fs::remove_file(new)?;
            std::fs::hard_link(existing, new)
        }
        other => other,
    };
    make().map_err(|error| local_error(new, "be linked", error))
}

/// Makes the directory at the top of a tree, or takes the one that is there or that a symbolic link
/// leads to.
pub fn make_top(path: &Path) -> Result<()> {
    match create_private(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(|error| local_error(path, "be made", error)),
    }
}

/// Until it is finished nobody else sees what is in it, also if it never is.
fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes a directory within a tree, or takes the one that is there; a link to one is in the way.
pub fn make_directory(path: &Path) -> Result<()> {
    match create_private(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = path.symlink_metadata();
            let there = there.map_err(|error| local_error(path, "be looked at", error))?;
            match there.is_dir() {
                true => Ok(()),
                false => Err(in_the_way(path, kind_of(&there).1)),
            }
        }
        other => other.map_err(|error| local_error(path, "be made", error)),
    }
}

/// A name from the cluster as a local one.
///
/// # Errors
/// `Invalid` for one that would lead elsewhere.
pub fn local_name(name: &[u8]) -> Result<&std::ffi::OsStr> {
    use std::os::unix::ffi::OsStrExt;
    let leads_away = name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|byte| matches!(byte, b'/' | 0));
    if leads_away {
        let text = format!("'{}' is no name of a file", name.escape_ascii());
        return Err(Error::new(Code::Invalid, text));
    }
    Ok(std::ffi::OsStr::from_bytes(name))
}

/// Makes a pipe or a device; skipped where only root may.
pub fn make_node(path: &Path, attr: &Attr, owners: bool, replace: bool) -> Result<Copied> {
    use rustix::fs::FileType;
    let (kind, what) = match attr.kind {
        FileKind::CharDevice => (FileType::CharacterDevice, "a device"),
        FileKind::BlockDevice => (FileType::BlockDevice, "a device"),
        _ => (FileType::Fifo, "a pipe"),
    };
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let make = || rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, attr.device);
    let made = match make() {
        Err(rustix::io::Errno::EXIST) if replace => {
            std::fs::remove_file(path).and_then(|()| make().map_err(io::Error::from))
        }
        other => other.map_err(io::Error::from),
    };
    match made {
        Ok(()) => finish_node(path, attr, owners).map(|()| Copied::File(0)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(Copied::Skipped(format!("{what} is only made by root")))
        }
        Err(error) => Err(local_error(path, "be made", error)),
    }
}
