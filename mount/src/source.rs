//! What is mounted, as mount(8) and /etc/fstab name it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What is mounted: `CLIENT_FILE[:DIR]`, as `/etc/quarry/client.toml:/home`.
///
/// A word without a slash, as `quarry` or `quarry:/home`, means the client file that every command finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The client file, if one is named.
    pub file: Option<PathBuf>,
    /// The directory of the cluster, if one is named.
    pub subdir: Option<Vec<u8>>,
}

impl Source {
    /// Takes apart what was named. A file whose name has `:/` in it is taken whole if it is there.
    pub fn parse(text: &OsStr) -> Source {
        let bytes = text.as_bytes();
        let colon = match PathBuf::from(text).is_file() {
            true => None,
            false => bytes.windows(2).rposition(|pair| pair == b":/"),
        };
        let (file, subdir) = match colon {
            Some(at) => (&bytes[..at], Some(bytes[at + 1..].to_vec())),
            None => (bytes, None),
        };
        let file = file.contains(&b'/').then(|| {
            let file = OsString::from_vec(file.to_vec());
            PathBuf::from(file)
        });
        Source { file, subdir }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Option<String>, Option<String>) {
        let source = Source::parse(OsStr::new(text));
        let file = source.file.map(|file| file.to_str().unwrap().to_owned());
        let subdir = source.subdir.map(|dir| String::from_utf8(dir).unwrap());
        (file, subdir)
    }

    #[test]
    fn a_source_is_a_client_file_and_a_directory() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("/etc/q.toml"), (some("/etc/q.toml"), None));
        assert_eq!(parsed("/etc/q.toml:/"), (some("/etc/q.toml"), some("/")));
        assert_eq!(
            parsed("/etc/q.toml:/home/ann"),
            (some("/etc/q.toml"), some("/home/ann"))
        );
        assert_eq!(parsed("./q.toml"), (some("./q.toml"), None));
        assert_eq!(parsed("quarry"), (None, None));
        assert_eq!(parsed("none"), (None, None));
        assert_eq!(parsed("quarry:/home"), (None, some("/home")));
    }

    #[test]
    fn a_file_with_a_colon_in_its_name_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a:");
        std::fs::create_dir(&odd).unwrap();
        let file = odd.join("client.toml");
        std::fs::write(&file, "").unwrap();
        let source = Source::parse(file.as_os_str());
        assert_eq!((source.file, source.subdir), (Some(file), None));
    }
}
