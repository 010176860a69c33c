//! Where the metaservers were when this disk's dataserver last heard of them.
//!
//! Those of the configuration may all have been replaced while the dataserver ran: it has to find the others when it starts
//! again. The file is a help and no more; without it those of the configuration are asked.

use super::frame::{self, Kind};
use super::health::io_error;
use quarry_common::ids::ServerId;
use quarry_common::{Result, durable};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// The file in the disk's directory.
const FILE: &str = "metaservers";

pub(super) const CONTACTS: Kind = Kind {
    magic: *b"QMsv",
    version: 1,
    name: "addresses of the metaservers",
    body_len_max: 64 << 10,
};

/// Numbers and addresses (`host:port`).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contacts {
    pub(super) metaservers: Vec<(ServerId, String)>,
}

/// Those that the disk at `root` knows; none where nothing was noted, or what was noted can not be read.
pub fn read(root: &Path) -> Vec<(ServerId, String)> {
    let file = root.join(FILE);
    let read = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        read => read.map_err(|error| io_error("read", &file, error)),
    };
    let contacts = read.and_then(|bytes| frame::decode::<Contacts>(&CONTACTS, &bytes));
    contacts.map_or_else(
        |error| {
            let file = file.display();
            tracing::warn!("{file}: {error}; the metaservers of the configuration are asked");
            Vec::new()
        },
        |contacts| contacts.metaservers,
    )
}

/// Notes them. Durable when it returns.
///
/// # Errors
/// `Io`.
pub fn write(root: &Path, metaservers: &BTreeMap<ServerId, String>) -> Result<()> {
    let file = root.join(FILE);
    let metaservers = metaservers.iter().map(|(id, at)| (*id, at.clone()));
    let contacts = Contacts {
        metaservers: metaservers.collect(),
    };
    durable::replace(&file, &frame::encode(&CONTACTS, &contacts))
        .map_err(|error| io_error("write", &file, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let contacts = Contacts {
            metaservers: vec![(ServerId(4), "m:1".into())],
        };
        assert_eq!(
            frame::encode(&CONTACTS, &contacts)[..18],
            [
                b'Q', b'M', b's', b'v', 1, 0, 0, 0, 6, 0, 0, 0, // envelope
                1, 4, 3, b'm', b':', b'1'
            ]
        );
    }

    #[test]
    fn what_is_noted_is_read_and_what_can_not_be_read_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), []);
        let metaservers = BTreeMap::from([(ServerId(4), "m:1".to_owned())]);
        write(dir.path(), &metaservers).unwrap();
        assert_eq!(read(dir.path()), [(ServerId(4), "m:1".to_owned())]);
        fs::write(dir.path().join(FILE), "damaged").unwrap();
        assert_eq!(read(dir.path()), []);
    }
}
