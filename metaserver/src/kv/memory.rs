//! The state in ordered maps in memory, for tests and simulation: with the same durability as
//! RocksDB without a write-ahead log, so that a power cut can be played.

use super::overlay::is_empty_range;
use super::{Batch, Family, Kv, KvRead, Visit};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::{Code, Error, Result, codec};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

type Map = BTreeMap<Bytes, Bytes>;

/// All families; cloning is cheap, and a family is copied when it is written while shared.
#[derive(Clone, Default)]
struct Image([Arc<Map>; Family::COUNT]);

/// An ordered map a family.
#[derive(Default)]
pub struct Memory {
    now: RwLock<Image>,
    flushed: RwLock<Image>,
}

/// The name of the only file of an exported copy.
const DUMP: &str = "dump";
/// Format of that file: this byte, the CRC-32 (little-endian) of the rest, the encoded families.
const DUMP_VERSION: u8 = 1;

impl Memory {
    /// An empty state.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// What would be found after a power cut: the state as of the last flush.
    pub fn after_power_cut(&self) -> Memory {
        let flushed = self
            .flushed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Memory {
            now: RwLock::new(flushed.clone()),
            flushed: RwLock::new(flushed),
        }
    }

    fn image(&self) -> Image {
        self.now
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl KvRead for Image {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0[family.index()].get(key).cloned())
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        let until = to.map_or(Bound::Unbounded, Bound::Excluded);
        if is_empty_range(from, until) {
            return Ok(());
        }
        for (key, value) in self.0[family.index()].range::<[u8], _>((Bound::Included(from), until))
        {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last_before(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>> {
        if is_empty_range(low, high) {
            return Ok(None);
        }
        let mut range = self.0[family.index()].range::<[u8], _>((Bound::Included(low), high));
        Ok(range
            .next_back()
            .map(|(key, value)| (key.clone(), value.clone())))
    }
}

impl KvRead for Memory {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        self.now
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(family, key)
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        // A copy, since `visit` may write.
        self.image().scan(family, from, to, visit)
    }

    fn last_before(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>> {
        self.now
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last_before(family, low, high)
    }
}

impl Kv for Memory {
    fn view(&self) -> Box<dyn KvRead> {
        Box::new(self.image())
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        for change in &batch.changes {
            let map = Arc::make_mut(&mut now.0[change.family.index()]);
            match &change.value {
                Some(value) => map.insert(change.key.clone(), value.clone()),
                None => map.remove(&change.key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let image = self.image();
        *self.flushed.write().unwrap_or_else(PoisonError::into_inner) = image;
        Ok(())
    }

    fn export(&self, to: &Path) -> Result<()> {
        let image = self.image();
        let families: Vec<(&str, Vec<(&Bytes, &Bytes)>)> = Family::ALL
            .iter()
            .map(|family| (family.name(), image.0[family.index()].iter().collect()))
            .collect();
        let body = codec::encode(&families);
        let mut bytes = vec![DUMP_VERSION];
        bytes.extend_from_slice(&Crc::of(&body).0.to_le_bytes());
        bytes.extend_from_slice(&body);
        let failed = |error| {
            io(
                format!("the copy {} can not be written", to.display()),
                error,
            )
        };
        std::fs::create_dir(to).map_err(failed)?;
        std::fs::write(to.join(DUMP), bytes).map_err(failed)
    }

    fn import(&self, from: &Path) -> Result<()> {
        let image = read_dump(from)?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = image.clone();
        *self.flushed.write().unwrap_or_else(PoisonError::into_inner) = image;
        Ok(())
    }

    fn open_copy(&self, from: &Path) -> Result<Box<dyn KvRead>> {
        Ok(Box::new(read_dump(from)?))
    }

    fn len_on_disk(&self) -> u64 {
        0
    }
}

fn read_dump(from: &Path) -> Result<Image> {
    let path = from.join(DUMP);
    let name = format!("the copy {}", path.display());
    let bytes =
        std::fs::read(&path).map_err(|error| io(format!("{name} can not be read"), error))?;
    let damaged =
        |why: &str| Error::new(Code::ChecksumMismatch, format!("{name} is damaged: {why}"));
    let Some((&version, rest)) = bytes.split_first() else {
        return Err(damaged("it is empty"));
    };
    if version != DUMP_VERSION {
        return Err(Error::new(
            Code::TooNew,
            format!("{name} has format {version}, this program knows {DUMP_VERSION}"),
        ));
    }
    let Some((crc, body)) = rest.split_first_chunk::<4>() else {
        return Err(damaged("it is too short"));
    };
    if Crc(u32::from_le_bytes(*crc)) != Crc::of(body) {
        return Err(damaged("its checksum is wrong"));
    }
    let families: Vec<(String, Vec<(Bytes, Bytes)>)> = codec::decode(&name, body)?;
    let mut image = Image::default();
    for (family, entries) in families {
        let known = Family::ALL.iter().find(|known| known.name() == family);
        let Some(known) = known else {
            return Err(damaged("it has a family that is not known"));
        };
        image.0[known.index()] = Arc::new(entries.into_iter().collect());
    }
    Ok(image)
}

fn io(text: String, error: std::io::Error) -> Error {
    Error::new(Code::Io, text).with_source(error)
}
