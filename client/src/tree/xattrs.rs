//! Extended attributes of local files and directories: those of the `user.` kind. Others mean something only
//! to the machine that they are on.

use crate::text::escaped;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use xattr::FileExt;

/// How the names begin.
pub const USER: &[u8] = b"user.";

/// Names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Those of an open file or directory; none where the file system knows of none.
///
/// # Errors
/// As flistxattr(2) and fgetxattr(2).
pub fn read(file: &File) -> io::Result<Xattrs> {
    let names = match file.list_xattr() {
        Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
        names => names?,
    };
    let mut xattrs = Vec::new();
    for name in names.filter(|name| name.as_bytes().starts_with(USER)) {
        // One that is removed just now is none.
        if let Some(value) = file.get_xattr(&name)? {
            xattrs.push((name.as_bytes().to_vec(), value));
        }
    }
    Ok(xattrs)
}

/// Sets those of an open file or directory; false where the file system takes none.
///
/// # Errors
/// As fsetxattr(2), naming the attribute.
pub fn write(file: &File, xattrs: &Xattrs) -> io::Result<bool> {
    for (name, value) in xattrs {
        match file.set_xattr(OsStr::from_bytes(name), value) {
            Err(error) if is_unsupported(&error) => return Ok(false),
            set => set.map_err(|error| {
                let text = format!("extended attribute {}: {error}", escaped(name));
                io::Error::new(error.kind(), text)
            })?,
        }
    }
    Ok(true)
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}
