//! Whole files and trees between the local file system and the cluster, and within it.

mod copy;
mod download;
mod local_read;
mod local_write;
mod naming;
mod transfer;
mod upload;
mod xattrs;

pub use copy::{Keep, copy_file, copy_tree};
pub use download::{get_file, get_tree};
pub use transfer::{Told, Transfer};
pub use upload::{put_file, put_tree};

use quarry_common::error::{Code, Error};
use std::path::{Path, PathBuf};

/// How a tree is copied.
#[derive(Clone, Debug)]
pub struct TreeOptions {
    /// Files on their way at a time.
    pub jobs: usize,
    /// Whether owners and groups are kept; for superusers.
    pub owners: bool,
    /// Whether existing files are replaced. Directories are merged in any case.
    pub replace: bool,
}

impl Default for TreeOptions {
    fn default() -> TreeOptions {
        TreeOptions {
            jobs: 32,
            owners: false,
            replace: true,
        }
    }
}

/// What became of a tree. Paths are those of the source.
#[derive(Debug, Default)]
pub struct TreeReport {
    /// Regular files copied.
    pub files: u64,
    /// Directories made or merged.
    pub directories: u64,
    /// Symbolic links and second names.
    pub links: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What can not be copied, and why.
    pub skipped: Vec<(PathBuf, String)>,
    /// What failed; everything else was copied.
    pub failed: Vec<(PathBuf, Error)>,
}

/// What became of one thing in a tree.
enum Copied {
    File(u64),
    Link,
    Skipped(String),
}

/// An error of the local file system.
fn local_error(path: &Path, doing: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    let code = match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::PermissionDenied => Code::AccessDenied,
        ErrorKind::AlreadyExists => Code::Exists,
        ErrorKind::IsADirectory => Code::IsDirectory,
        ErrorKind::NotADirectory => Code::NotDirectory,
        _ => Code::Io,
    };
    let text = format!("{}: can not {doing}: {error}", path.display());
    Error::new(code, text).with_source(error)
}
