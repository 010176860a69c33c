//! What makes a directory a disk of a cluster: its identity file, its open number, its lock.

use super::frame::{self, Kind};
use super::health::io_error;
use quarry_common::ids::{ClusterId, DiskId, OpenNumber};
use quarry_common::{Code, Error, Result, durable};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The file that says whose disk this is.
const IDENTITY_FILE: &str = "identity";
/// The file with the open numbers.
const OPEN_FILE: &str = "open";
/// The file that a running dataserver holds locked.
const LOCK_FILE: &str = "lock";
/// What `mkfs.ext4` puts into a fresh file system; an empty one may have it.
const LOST_AND_FOUND: &str = "lost+found";

pub(super) const IDENTITY: Kind = Kind {
    magic: *b"QDsk",
    version: 1,
    name: "identity of a disk",
    body_len_max: 1024,
};
const OPENS: Kind = Kind {
    magic: *b"QOpn",
    version: 1,
    name: "open number of a disk",
    body_len_max: 64,
};

/// Where the parts of a disk are in its directory.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// The directory itself.
    pub root: PathBuf,
    /// Chunk files, in 256 folders.
    pub chunks: PathBuf,
    /// Segments.
    pub segments: PathBuf,
    /// The index.
    pub index: PathBuf,
    /// Marks of chunks that were set aside.
    pub aside: PathBuf,
    /// What is nobody's and will be removed.
    pub trash: PathBuf,
}

impl Rooms {
    /// Those of the disk at `root`.
    pub fn of(root: &Path) -> Rooms {
        Rooms {
            root: root.to_path_buf(),
            chunks: root.join("chunks"),
            segments: root.join("segments"),
            index: root.join("index"),
            aside: root.join("aside"),
            trash: root.join("trash"),
        }
    }

    /// The folder of chunk files with number `folder`.
    pub fn folder(&self, folder: u8) -> PathBuf {
        self.chunks.join(format!("{folder:02x}"))
    }

    fn names(&self) -> [&Path; 5] {
        [
            &self.chunks,
            &self.segments,
            &self.index,
            &self.aside,
            &self.trash,
        ]
    }
}

/// Which disk of which cluster a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The disk.
    pub disk: DiskId,
}

/// What a path is, before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is there.
    Missing,
    /// An empty directory, or one whose formatting was interrupted: it can be formatted.
    Empty,
    /// A directory with other things in it.
    Foreign,
    /// A disk that lost its identity file.
    Nameless,
    /// A disk.
    Formatted(DiskIdentity),
}

/// What is at `path`.
///
/// Errors: `NotDirectory` for a file, `AccessDenied`, `TooNew` for a newer format (with both numbers),
/// `ChecksumMismatch` for a damaged identity; each text names the remedy.
pub fn inspect(path: &Path) -> Result<State> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Missing),
        found => found.map_err(|error| io_error("look at", path, error))?,
    };
    if !metadata.is_dir() {
        return Err(Error::new(
            Code::NotDirectory,
            format!(
                "{} is not a directory: a disk of a dataserver is one; name another path",
                path.display()
            ),
        ));
    }
    let file = path.join(IDENTITY_FILE);
    match fs::read(&file) {
        Ok(bytes) => {
            let identity = frame::decode(&IDENTITY, &bytes).map_err(|error| {
                let remedy = match error.code {
                    Code::TooNew => "",
                    _ => "; its bytes are damaged: restore this small file from a backup, or give the cluster a new disk",
                };
                Error::new(error.code, format!("{}: {}{remedy}", file.display(), error.text))
            })?;
            Ok(State::Formatted(identity))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let rooms = Rooms::of(path);
            let was_disk = rooms.chunks.exists() && rooms.segments.exists();
            Ok(match is_empty(path)? {
                true => State::Empty,
                false if was_disk => State::Nameless,
                false => State::Foreign,
            })
        }
        Err(error) => Err(io_error("read", &file, error)),
    }
}

/// Whether there is nothing in a directory but what an interrupted formatting leaves.
fn is_empty(path: &Path) -> Result<bool> {
    let rooms = Rooms::of(path);
    let ours: Vec<_> = rooms
        .names()
        .iter()
        .filter_map(|room| room.file_name())
        .map(|name| name.to_os_string())
        .collect();
    for item in fs::read_dir(path).map_err(|error| io_error("list", path, error))? {
        let item = item.map_err(|error| io_error("list", path, error))?;
        let name = item.file_name();
        if name == LOST_AND_FOUND
            || name == format!("{IDENTITY_FILE}.new").as_str()
            || name == LOCK_FILE
        {
            continue;
        }
        if !ours.contains(&name) || has_files(&item.path())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether there is anything but directories below `path`.
fn has_files(path: &Path) -> Result<bool> {
    if !path.is_dir() {
        return Ok(true);
    }
    for item in fs::read_dir(path).map_err(|error| io_error("list", path, error))? {
        if has_files(&item.map_err(|error| io_error("list", path, error))?.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the directory `path`, created if missing, the disk `identity`; durable when it returns.
/// The identity comes last: a directory that has one is complete.
///
/// Errors: `NotEmpty` if something is there, those of [`inspect`], and IO errors.
pub fn format(path: &Path, identity: DiskIdentity) -> Result<()> {
    match inspect(path)? {
        State::Missing | State::Empty => {}
        State::Formatted(found) => {
            return Err(Error::new(
                Code::NotEmpty,
                format!(
                    "{} is already disk {} of cluster {}: name an empty directory, or remove this one's contents if nobody needs them",
                    path.display(),
                    found.disk,
                    found.cluster
                ),
            ));
        }
        State::Foreign => {
            return Err(Error::new(
                Code::NotEmpty,
                format!(
                    "{} is not empty and is no disk of a cluster: name an empty directory",
                    path.display()
                ),
            ));
        }
        State::Nameless => return Err(nameless(path)),
    }
    let rooms = Rooms::of(path);
    let make = |path: &Path| match fs::create_dir(path) {
        // Left by a formatting that was interrupted.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| io_error("create", path, error)),
    };
    let sync =
        |path: &Path| durable::sync_directory(path).map_err(|error| io_error("sync", path, error));
    // With the parents that it lacks.
    durable::create_directory(path).map_err(|error| io_error("create", path, error))?;
    rooms.names().into_iter().try_for_each(make)?;
    (0..=255).try_for_each(|folder| make(&rooms.folder(folder)))?;
    sync(&rooms.chunks)?;
    sync(path)?;
    // One that was there may be somebody's of just before.
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        sync(parent)?;
    }
    let file = path.join(IDENTITY_FILE);
    durable::replace(&file, &frame::encode(&IDENTITY, &identity))
        .map_err(|error| io_error("write", &file, error))
}

/// The identity of the disk at `path`, which must be one of `cluster`.
///
/// Errors: those of [`inspect`]; `NotFound` where nothing or an empty directory is, `Configuration` for
/// another cluster's disk; each text names the remedy.
pub fn expect(path: &Path, cluster: ClusterId) -> Result<DiskIdentity> {
    let shown = path.display();
    match inspect(path)? {
        State::Formatted(identity) if identity.cluster == cluster => Ok(identity),
        State::Formatted(identity) => Err(Error::new(
            Code::Configuration,
            format!(
                "{shown} is disk {} of cluster {}, this dataserver is of cluster {cluster}: name another directory, or mount the right disk there",
                identity.disk, identity.cluster
            ),
        )),
        State::Missing => Err(Error::new(
            Code::NotFound,
            format!(
                "there is no directory {shown}: is its file system mounted? A new disk is formatted first"
            ),
        )),
        State::Empty => Err(Error::new(
            Code::NotFound,
            format!(
                "{shown} is empty, a disk with data was expected: is its file system mounted? If its data is lost, add it as a new disk"
            ),
        )),
        State::Foreign => Err(Error::new(
            Code::NotFound,
            format!(
                "{shown} is not empty and is no disk of a cluster: mount the right disk there, or add an empty directory as a new disk"
            ),
        )),
        State::Nameless => Err(nameless(path)),
    }
}

/// What to do about a disk without its identity.
pub fn nameless(path: &Path) -> Error {
    let shown = path.display();
    let text = format!(
        "{shown} is a disk whose file '{IDENTITY_FILE}' is gone: put that small file back, from a backup; {}",
        replacing(path)
    );
    Error::new(Code::Configuration, text)
}

/// How a disk whose data is lost becomes a new one.
pub fn replacing(path: &Path) -> String {
    format!(
        "if that can not be, empty the directory and start the dataserver with '--replace-disk {}': \
         it becomes a new disk, to which the other copies of its chunks are copied",
        path.display()
    )
}

/// Locks the disk at `root` for this process until the file is dropped.
///
/// Errors: `Busy` if another process, or this one, has it.
pub fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| io_error("open", &path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            Code::Busy,
            format!(
                "{} is in use by another dataserver: stop that one first, or name another directory",
                root.display()
            ),
        )),
        Err(error) => Err(io_error("lock", &path, error.into())),
    }
}

/// The numbers of the last two starts of a disk. They are equal once the last one is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opens {
    /// Of the last start that was registered; 0 if there was none or its number was lost.
    pub previous: OpenNumber,
    /// Of this start.
    pub current: OpenNumber,
}

/// Begins a new start of the disk at `root`, for which `fresh` is a random number; durable when it returns.
///
/// The number is random, not counted: two clones of a disk must not choose the same one. A start that
/// was not registered before the process died is begun again under its number: the metaservers
/// know that number or the one before it, and would take a third for a clone's.
pub fn start(root: &Path, fresh: OpenNumber) -> Result<Opens> {
    let path = root.join(OPEN_FILE);
    let opens = match read_opens(&path)? {
        Some(opens) if opens.previous != opens.current => return Ok(opens),
        Some(opens) => Opens {
            previous: opens.current,
            current: fresh,
        },
        None => Opens {
            previous: OpenNumber(0),
            current: fresh,
        },
    };
    write_opens(&path, opens)?;
    Ok(opens)
}

/// Remembers that the metaservers have registered this start; durable when it returns.
pub fn confirm(root: &Path, opens: Opens) -> Result<()> {
    let registered = Opens {
        previous: opens.current,
        current: opens.current,
    };
    write_opens(&root.join(OPEN_FILE), registered)
}

fn write_opens(path: &Path, opens: Opens) -> Result<()> {
    durable::replace(path, &frame::encode(&OPENS, &opens))
        .map_err(|error| io_error("write", path, error))
}

/// `None`: never opened, or not to be read any more.
fn read_opens(path: &Path) -> Result<Option<Opens>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path, error)),
    };
    match frame::decode::<Opens>(&OPENS, &bytes) {
        Ok(opens) => Ok(Some(opens)),
        Err(error) if error.code == Code::TooNew => Err(error.context(path.display())),
        Err(error) => {
            // The disk then counts as rolled back, which is what a damaged file may mean.
            tracing::warn!(
                "{}: {error}; the disk starts as if it had been restored from a copy",
                path.display()
            );
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY_1: DiskIdentity = DiskIdentity {
        cluster: ClusterId([1; 16]),
        disk: DiskId(7),
    };

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        assert_eq!(frame::encode(&IDENTITY, &IDENTITY_1)[..29], [
            b'Q', b'D', b's', b'k', 1, 0, 0, 0, 17, 0, 0, 0,
            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, // cluster
            7,                                              // disk
        ]);
        let opens = Opens {
            previous: OpenNumber(3),
            current: OpenNumber(4),
        };
        assert_eq!(
            frame::encode(&OPENS, &opens)[..14],
            [b'Q', b'O', b'p', b'n', 1, 0, 0, 0, 2, 0, 0, 0, 3, 4]
        );
    }

    #[test]
    fn formatting_makes_a_disk_of_an_empty_directory_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        assert_eq!(inspect(&path).unwrap(), State::Missing);
        fs::create_dir_all(path.join(LOST_AND_FOUND)).unwrap();
        fs::create_dir_all(path.join("chunks/0a")).unwrap();
        assert_eq!(
            inspect(&path).unwrap(),
            State::Empty,
            "an interrupted formatting can be repeated"
        );
        format(&path, IDENTITY_1).unwrap();
        assert_eq!(inspect(&path).unwrap(), State::Formatted(IDENTITY_1));
        assert_eq!(format(&path, IDENTITY_1).unwrap_err().code, Code::NotEmpty);
        let other = dir.path().join("other");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("letter"), "x").unwrap();
        assert_eq!(format(&other, IDENTITY_1).unwrap_err().code, Code::NotEmpty);
        assert_eq!(
            fs::read_dir(&other).unwrap().count(),
            1,
            "nothing was changed"
        );
    }

    #[test]
    fn a_disk_that_lost_its_identity_is_never_formatted_over() {
        let dir = tempfile::tempdir().unwrap();
        format(dir.path(), IDENTITY_1).unwrap();
        fs::write(dir.path().join("chunks/0a/0001-000000000000000a"), "x").unwrap();
        fs::remove_file(dir.path().join(IDENTITY_FILE)).unwrap();
        assert_eq!(inspect(dir.path()).unwrap(), State::Nameless);
        assert!(format(dir.path(), IDENTITY_1).is_err());
        assert!(
            expect(dir.path(), IDENTITY_1.cluster)
                .unwrap_err()
                .text
                .contains("'identity' is gone")
        );
    }

    #[test]
    fn open_numbers_follow_each_other_and_a_lost_one_is_zero() {
        let dir = tempfile::tempdir().unwrap();
        let opens = |previous, current| Opens {
            previous: OpenNumber(previous),
            current: OpenNumber(current),
        };
        let start = |fresh| start(dir.path(), OpenNumber(fresh)).unwrap();
        assert_eq!(start(5), opens(0, 5));
        confirm(dir.path(), opens(0, 5)).unwrap();
        assert_eq!(start(9), opens(5, 9));
        fs::write(dir.path().join(OPEN_FILE), "garbage").unwrap();
        assert_eq!(start(11).previous, OpenNumber(0));
    }

    /// Else a dataserver that is killed while it waits for the metaservers is refused for ever.
    #[test]
    fn a_start_that_was_not_registered_is_begun_again_under_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let first = start(dir.path(), OpenNumber(5)).unwrap();
        confirm(dir.path(), first).unwrap();
        let unregistered = start(dir.path(), OpenNumber(6)).unwrap();
        assert_eq!(start(dir.path(), OpenNumber(7)).unwrap(), unregistered);
        confirm(dir.path(), unregistered).unwrap();
        let next = start(dir.path(), OpenNumber(8)).unwrap();
        assert_eq!(next.previous, OpenNumber(6));
    }
}
