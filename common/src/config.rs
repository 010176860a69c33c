//! A server's settings: one TOML file, each key also a flag and an environment variable.
//!
//! [`ConfigFile`] reads the file and refuses keys that nobody knows; the command line puts its
//! flags over it ([`ConfigFile::set`]) and then turns the whole into the role's own type.

pub mod values;

use crate::error::{Code, Error, Result};
use crate::given_file;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The keys of a configuration file, and what is put over them.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    /// The file, for messages; `None` when all comes from flags.
    path: Option<PathBuf>,
    table: Table,
    /// The keys whose values are those of flags or environment variables.
    set: BTreeSet<String>,
}

impl ConfigFile {
    /// Reads a file; without one, starts with no keys at all.
    ///
    /// # Errors
    /// `Configuration`, naming the file: it can not be read, is no TOML, or has a key that is not
    /// in `known` (the text lists them).
    pub fn read(path: Option<&Path>, known: &[&str]) -> Result<ConfigFile> {
        let Some(path) = path else {
            return Ok(ConfigFile {
                path: None,
                table: Table::new(),
                set: BTreeSet::new(),
            });
        };
        let wrong = |what: String| {
            Error::new(
                Code::Configuration,
                format!("configuration {}: {what}", path.display()),
            )
        };
        let text = given_file::read(path)
            .map_err(|error| wrong(format!("can not be read: {error}")))?
            .text;
        let table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| wrong(error.to_string().trim_end().to_owned()))?;
        // Paths in it are shown elsewhere too: with the whole path.
        let absolute = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
        let file = ConfigFile {
            path: Some(absolute),
            table,
            set: BTreeSet::new(),
        };
        file.check_keys(known)?;
        Ok(file)
    }

    fn check_keys(&self, known: &[&str]) -> Result<()> {
        match self.table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.wrong(&format!(
                "unknown key '{}'; the known keys are {}",
                key.escape_debug(),
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// Whether a key has a value.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Puts the value of a flag or an environment variable, if it was given, over the file's.
    pub fn set(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.table.insert(key.to_owned(), value.into());
            self.set.insert(key.to_owned());
        }
    }

    /// Takes out a path; a relative one is relative to the folder of the file.
    ///
    /// # Errors
    /// `Configuration` if it is not a text.
    pub fn take_path(&mut self, key: &str) -> Result<Option<PathBuf>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::String(path)) => Ok(Some(self.resolve(Path::new(&path)))),
            Some(other) => Err(self.wrong(&format!(
                "the key '{key}' is a path in quotes, not {}",
                other.type_str()
            ))),
        }
    }

    /// A path as it stands in the file: relative to the file's folder, so that a server's folder
    /// can be copied to anywhere.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let folder = self.path.as_deref().and_then(Path::parent);
        folder.map_or_else(|| path.to_path_buf(), |folder| folder.join(path))
    }

    /// The keys as a role's own type.
    ///
    /// # Errors
    /// `Configuration`: a value has the wrong type, or a key is missing or (deeper down) unknown.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        Value::Table(self.table.clone())
            .try_into()
            .map_err(|error: toml::de::Error| {
                let text = error.to_string();
                self.wrong(&text.trim_end().replace('\n', ", "))
            })
    }

    /// An error that names where the value came from: flag and variable of the key that `what` begins with, or of the
    /// one that the TOML library names at its end; the file else.
    pub fn wrong(&self, what: &str) -> Error {
        let at_end = what
            .strip_suffix('`')
            .and_then(|what| what.rsplit_once("in `"));
        let key = key_at_start(at_end.map_or(what, |(_, key)| key));
        let text = match &self.path {
            _ if self.set.contains(key) => format!(
                "--{} (or QUARRY_{} in the environment): {what}",
                key.replace('_', "-"),
                key.to_uppercase()
            ),
            Some(path) => format!("configuration {}: {what}", path.display()),
            None => {
                format!("configuration from flags and environment: {what} (or give --config FILE)")
            }
        };
        Error::new(Code::Configuration, text)
    }
}

fn key_at_start(text: &str) -> &str {
    let end = text.find(|letter: char| !(letter.is_ascii_lowercase() || letter == '_'));
    end.map_or(text, |end| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    const KNOWN: &[&str] = &["listen", "dir", "disks"];

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: String,
        #[serde(default)]
        disks: Vec<Deep>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Deep {
        path: PathBuf,
    }

    fn file(text: &str) -> (tempfile::TempDir, Result<ConfigFile>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.toml");
        std::fs::write(&path, text).unwrap();
        let read = ConfigFile::read(Some(&path), KNOWN);
        (folder, read)
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_file_and_the_known_ones() {
        let (_folder, read) = file("listen = 'x'\nlitsen = 'y'\n");
        let text = read.unwrap_err().text;
        for part in ["litsen", "server.toml", "listen, dir, disks"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_of_a_disk_is_refused_too() {
        let (_folder, read) = file("listen = 'x'\n[[disks]]\npaht = '/d'\n");
        let text = read.unwrap().decode::<Sample>().unwrap_err().text;
        assert!(
            text.contains("paht") && text.contains("server.toml"),
            "{text}"
        );
    }

    #[test]
    fn a_flag_wins_over_the_file_and_paths_follow_the_file() {
        let (folder, read) = file("listen = 'x'\ndir = 'state'\n");
        let mut config = read.unwrap();
        config.set("listen", Some("y"));
        config.set("disks", None::<Value>);
        let dir = config.take_path("dir").unwrap();
        assert_eq!(dir, Some(folder.path().join("state")));
        let sample: Sample = config.decode().unwrap();
        assert_eq!(sample.listen, "y");
    }

    #[test]
    fn a_bad_value_is_blamed_on_the_flag_or_the_variable_that_it_came_from() {
        let (_folder, read) = file("listen = 'x'\ndisks = 7\n");
        let mut config = read.unwrap();
        let blamed = |config: &ConfigFile| config.decode::<Sample>().unwrap_err().text;
        assert!(blamed(&config).starts_with("configuration /"));
        config.set("listen", Some("y"));
        assert!(blamed(&config).starts_with("configuration /"));
        config.set("disks", Some(8));
        let text = blamed(&config);
        let flag = "--disks (or QUARRY_DISKS in the environment): ";
        assert!(text.starts_with(flag), "{text}");
        for (what, said) in [
            ("listen 'junk' is none", "--listen (or QUARRY_LISTEN"),
            ("disks: /d is named twice", "--disks (or QUARRY_DISKS"),
            ("listens nowhere", "configuration /"),
            ("the key 'dir' is missing", "configuration /"),
        ] {
            let text = config.wrong(what).text;
            assert!(text.starts_with(said) && text.ends_with(what), "{text}");
        }
    }

    #[test]
    fn a_missing_key_and_a_broken_file_say_what_is_wrong() {
        let (_folder, read) = file("dir = 'state'\n");
        let mut config = read.unwrap();
        config.take_path("dir").unwrap();
        assert!(
            config
                .decode::<Sample>()
                .unwrap_err()
                .text
                .contains("listen")
        );
        let (_folder, read) = file("listen = \n");
        assert!(read.unwrap_err().text.contains("server.toml"));
        let missing = ConfigFile::read(Some(Path::new("/nonexistent/a.toml")), KNOWN);
        assert!(missing.unwrap_err().text.contains("/nonexistent/a.toml"));
        let endless = ConfigFile::read(Some(Path::new("/dev/zero")), KNOWN);
        let text = endless.unwrap_err().text;
        assert!(
            text.contains("/dev/zero") && text.contains("a device"),
            "{text}"
        );
    }
}
