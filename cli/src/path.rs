//! Paths of the cluster as they are typed and shown: absolute, bytes.

use crate::failure::Misuse;
use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use quarry_client::escaped;
use quarry_common::limits::PATH_LEN_MAX;
use serde_json::{Map, Value};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// An absolute path in the cluster. Repeated slashes and `.` are kept as typed: the metaserver
/// resolves them; a trailing slash says that a directory is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote(Vec<u8>);

impl Remote {
    /// Takes a path as it was typed.
    ///
    /// # Errors
    /// A [`Misuse`] for a relative path, an empty one, or one that is too long.
    pub fn parse(typed: &OsString) -> Result<Remote> {
        let bytes = typed.clone().into_vec();
        let shown = escaped(&bytes);
        if bytes.is_empty() {
            return Err(Misuse::new(
                "an empty path names nothing: paths of the cluster begin with /",
            )
            .into());
        }
        if bytes[0] != b'/' {
            return Err(Misuse::new(format!(
                "{shown}: paths of the cluster are absolute: did you mean /{shown}?"
            ))
            .into());
        }
        if bytes.len() > PATH_LEN_MAX {
            return Err(Misuse::new(format!(
                "{}...: the path has {} bytes, at most {PATH_LEN_MAX} are possible",
                escaped(&bytes[..64]),
                bytes.len()
            ))
            .into());
        }
        Ok(Remote(bytes))
    }

    /// All of a list.
    ///
    /// # Errors
    /// As [`Remote::parse`].
    pub fn parse_all(typed: &[OsString]) -> Result<Vec<Remote>> {
        typed.iter().map(Remote::parse).collect()
    }

    /// The bytes as typed: with a slash at their end the metaserver refuses what is no directory.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes without trailing slashes.
    pub fn trimmed(&self) -> &[u8] {
        trimmed(&self.0)
    }

    /// Whether it ends in a slash: a directory is meant.
    pub fn wants_directory(&self) -> bool {
        self.0.ends_with(b"/")
    }

    /// The last name, unless it is `/`, `.` or `..`.
    pub fn name(&self) -> Option<&[u8]> {
        let name = self.trimmed().rsplit(|byte| *byte == b'/').next()?;
        let odd: [&[u8]; 3] = [b"", b".", b".."];
        (!odd.contains(&name)).then_some(name)
    }

    /// The path of a name in this directory.
    pub fn join(&self, name: &[u8]) -> Remote {
        Remote(join(&self.0, name))
    }

    /// For a message: odd bytes escaped.
    pub fn shown(&self) -> String {
        escaped(&self.0)
    }
}

/// The name of a local file, which is not empty: the system would only say that there is no such file.
///
/// # Errors
/// A [`Misuse`].
pub fn local(typed: &OsStr) -> Result<&Path> {
    match typed.is_empty() {
        true => Err(Misuse::new("an empty name is no local file's").into()),
        false => Ok(Path::new(typed)),
    }
}

/// Without trailing slashes; `/` stays.
fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/');
    end.map_or(&path[..path.len().min(1)], |end| &path[..=end])
}

/// The path of a name in a directory.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = trimmed(dir).to_vec();
    if path != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Puts bytes into a JSON object: as `key` if they are UTF-8, else as `key_base64`.
pub fn put_json(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(key.to_owned(), text.into()),
        Err(_) => object.insert(format!("{key}_base64"), STANDARD.encode(bytes).into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Remote> {
        Remote::parse(&text.into())
    }

    #[test]
    fn a_relative_path_is_misuse_and_says_what_was_meant() {
        let error = parse("a/b").unwrap_err();
        assert!(error.is::<Misuse>());
        assert!(error.to_string().contains("/a/b"));
        assert!(parse("").is_err());
        let error = local(OsStr::new("")).unwrap_err();
        assert!(error.is::<Misuse>() && error.to_string().contains("empty name"));
        assert_eq!(local(OsStr::new("a")).unwrap(), Path::new("a"));
        assert!(parse(&format!("/{}", "a".repeat(PATH_LEN_MAX))).is_err());
    }

    #[test]
    fn trailing_slashes_mean_a_directory_and_names_are_joined() {
        let path = parse("/a/b//").unwrap();
        assert!(path.wants_directory());
        assert_eq!(path.bytes(), b"/a/b//");
        assert_eq!(path.trimmed(), b"/a/b");
        assert_eq!(path.name(), Some(&b"b"[..]));
        assert_eq!(path.join(b"c").bytes(), b"/a/b/c");
        assert_eq!(parse("//").unwrap().trimmed(), b"/");
        assert_eq!(parse("/").unwrap().join(b"c").bytes(), b"/c");
        assert_eq!(parse("/a/..").unwrap().name(), None);
        assert_eq!(parse("/").unwrap().name(), None);
    }

    #[test]
    fn odd_names_are_base64_for_programs() {
        let mut object = Map::new();
        put_json(&mut object, "path", b"/a");
        put_json(&mut object, "name", b"\xff");
        let text = Value::Object(object).to_string();
        assert_eq!(text, r#"{"name_base64":"/w==","path":"/a"}"#);
    }
}
