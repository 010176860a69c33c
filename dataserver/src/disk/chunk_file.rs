//! One chunk file while it is written: what was received, what is on its way, what is durable.

use super::chunk_format::{FlushRecord, Footer, Header, Owner};
use super::data_file::{Buffer, Buffers, DataFile};
use super::entry::Entry;
use super::health::Health;
use super::layout::{self, DATA_AT, SECTOR_LEN};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::limits::{BLOCK_LEN, FLUSHES_MAX};
use quarry_common::{Code, Error, Result};
use std::path::Path;

/// What a run of bytes from the start of the chunk is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// Length in bytes.
    pub len: u32,
    /// CRC of all of them.
    pub crc: Crc,
    /// CRC of each block; the last may not be full.
    pub blocks: Vec<Crc>,
    /// Cuts up to its end.
    pub cuts: Vec<u32>,
}

impl Prefix {
    /// The prefix with `len` more bytes, whose CRCs were made of pieces that end at each end of a block and
    /// at the last byte.
    pub fn extend(&mut self, len: usize, crcs: &[Crc]) -> Result<()> {
        let refuse = || {
            Error::malformed(format!(
                "{len} bytes at {} came with {} CRCs",
                self.len,
                crcs.len()
            ))
        };
        let end = self.len as usize + len;
        let count = if len == 0 {
            0
        } else {
            end.div_ceil(BLOCK_LEN) - self.len as usize / BLOCK_LEN
        };
        if crcs.len() != count {
            return Err(refuse());
        }
        let mut at = self.len as usize;
        for crc in crcs {
            let piece_len = end.min((at / BLOCK_LEN + 1) * BLOCK_LEN) - at;
            match self.blocks.last_mut() {
                // The block goes on after a flush in the middle of it.
                Some(last) if !at.is_multiple_of(BLOCK_LEN) => {
                    *last = last.then(*crc, piece_len as u64)
                }
                _ => self.blocks.push(*crc),
            }
            self.crc = self.crc.then(*crc, piece_len as u64);
            at += piece_len;
        }
        self.len = end as u32;
        Ok(())
    }

    /// The entry of a chunk that ends here.
    pub fn entry(&self) -> Entry {
        Entry::File {
            len: self.len,
            crc: self.crc,
            cuts: self.cuts.clone(),
            blocks: self.blocks.clone(),
        }
    }

    fn expect(&self, doing: &str, len: u32, crc: Crc) -> Result<()> {
        if (self.len, self.crc) == (len, crc) {
            return Ok(());
        }
        Err(Error::malformed(format!(
            "{doing} of {len} bytes with CRC {crc:?}, but {} bytes with CRC {:?} have come",
            self.len, self.crc
        )))
    }
}

/// A chunk file that is open for writing.
pub struct ChunkFile {
    file: DataFile,
    owner: Owner,
    capacity: u32,
    buffer: Buffer,
    /// Where the first byte of the buffer goes.
    buffer_at: u64,
    received: Prefix,
    durable: Option<Prefix>,
    flushes: u32,
    file_len: u64,
}

impl ChunkFile {
    /// Creates the file, with its space and its header. Nothing is durable yet.
    pub fn create(
        path: &Path,
        owner: Owner,
        capacity: u32,
        direct_io: bool,
        buffers: &Buffers,
        health: &Health,
    ) -> Result<ChunkFile> {
        let file = DataFile::create(path, direct_io, health)?;
        // With the footer: a chunk that is filled needs no change of its length when it is sealed.
        let footer_len = Footer {
            owner,
            len: capacity,
            crc: Crc(u32::MAX),
            cuts: vec![],
            blocks: vec![Crc(u32::MAX); (capacity as usize).div_ceil(BLOCK_LEN)],
        }
        .encode()
        .len();
        let file_len = layout::data_end(&[], capacity) + footer_len as u64;
        file.allocate(file_len, health)?;
        let mut this = ChunkFile {
            file,
            owner,
            capacity,
            buffer: buffers.take(),
            buffer_at: 0,
            received: Prefix::default(),
            durable: None,
            flushes: 0,
            file_len,
        };
        this.write_sector(0, &Header { owner, capacity }.encode(), health)?;
        this.buffer_at = DATA_AT;
        Ok(this)
    }

    /// Goes on with a file that was found with the durable `prefix` and no footer, to finish it there.
    pub fn resume(
        path: &Path,
        owner: Owner,
        prefix: Prefix,
        direct_io: bool,
        buffers: &Buffers,
        health: &Health,
    ) -> Result<ChunkFile> {
        let file = DataFile::open(path, direct_io, health)?;
        let file_len = file.len()?;
        Ok(ChunkFile {
            file,
            owner,
            capacity: prefix.len,
            buffer: buffers.take(),
            buffer_at: layout::data_end(&prefix.cuts, prefix.len),
            received: prefix.clone(),
            durable: Some(prefix),
            flushes: FLUSHES_MAX,
            file_len,
        })
    }

    /// Receives the next bytes.
    ///
    /// Errors: `Malformed` if they pass the capacity or the CRCs do not fit; IO errors.
    pub fn append(&mut self, pieces: &[Bytes], crcs: &[Crc], health: &Health) -> Result<()> {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        if len > (self.capacity - self.received.len) as usize {
            return Err(Error::malformed(format!(
                "{len} bytes at {} are more than the {} that chunk {} was made for",
                self.received.len, self.capacity, self.owner.chunk
            )));
        }
        self.received.extend(len, crcs)?;
        pieces.iter().try_for_each(|piece| self.push(piece, health))
    }

    /// Makes what was received durable, with a record of it.
    ///
    /// Errors: `Malformed` if `len` and `crc` are not what was received; `FlushesUsedUp`; IO errors.
    pub fn flush(&mut self, len: u32, crc: Crc, health: &Health) -> Result<()> {
        self.received.expect("a flush", len, crc)?;
        if self
            .durable
            .as_ref()
            .is_some_and(|durable| durable.len == len)
        {
            return Ok(());
        }
        if self.flushes == FLUSHES_MAX {
            return Err(Error::new(
                Code::FlushesUsedUp,
                format!(
                    "chunk {} had its {FLUSHES_MAX} flushes: seal it and go on in another",
                    self.owner.chunk
                ),
            ));
        }
        if !self.buffer.len().is_multiple_of(SECTOR_LEN) {
            // The rest of this sector stays empty: it holds acknowledged bytes from now on.
            self.received.cuts.push(len);
        }
        self.end_data(health)?;
        let record = FlushRecord {
            owner: self.owner,
            sequence: self.flushes,
            len,
            crc,
            cuts: self.received.cuts.clone(),
        };
        self.write_out(health)?;
        let data_at = self.buffer_at;
        self.write_sector(
            layout::flush_record_at(self.flushes),
            &record.encode(),
            health,
        )?;
        self.buffer_at = data_at;
        self.flushes += 1;
        // One sync for both: recovery believes the record only if the bytes verify.
        self.file.sync(health)?;
        self.durable = Some(self.received.clone());
        Ok(())
    }

    /// Makes the whole chunk durable, with its footer at the end of the file.
    ///
    /// Errors: as [`ChunkFile::flush`].
    pub fn seal(&mut self, len: u32, crc: Crc, health: &Health) -> Result<Entry> {
        self.received.expect("a seal", len, crc)?;
        self.end_data(health)?;
        self.finish(health)
    }

    /// Ends the chunk at its last flush, or says that it had none.
    pub fn finish_at_flush(&mut self, health: &Health) -> Result<Option<Entry>> {
        let Some(durable) = self.durable.clone() else {
            return Ok(None);
        };
        self.buffer.clear();
        self.buffer_at = layout::data_end(&durable.cuts, durable.len);
        self.received = durable;
        self.finish(health).map(Some)
    }

    /// Gives the buffer back, and the space that was reserved and not used if the file is to be thrown away.
    pub fn close(self, buffers: &Buffers) {
        buffers.give(self.buffer);
    }

    /// What is durable: as far as the last flush.
    pub fn durable(&self) -> Option<&Prefix> {
        self.durable.as_ref()
    }

    /// Frees what was reserved beyond what was written.
    pub fn free_reserved(&mut self, health: &Health) -> Result<()> {
        self.file.set_len(self.buffer_at, health)
    }

    fn finish(&mut self, health: &Health) -> Result<Entry> {
        let Prefix {
            len,
            crc,
            cuts,
            blocks,
        } = self.received.clone();
        self.push(
            &Footer {
                owner: self.owner,
                len,
                crc,
                cuts,
                blocks,
            }
            .encode(),
            health,
        )?;
        self.write_out(health)?;
        // The cut loses nothing that was acknowledged: flushes end before the footer. If a power cut
        // leaves the new length without the footer, recovery goes by the flush records.
        if self.file_len != self.buffer_at {
            self.file.set_len(self.buffer_at, health)?;
            self.file_len = self.buffer_at;
        }
        self.file.sync(health)?;
        Ok(self.received.entry())
    }

    fn push(&mut self, mut bytes: &[u8], health: &Health) -> Result<()> {
        while !bytes.is_empty() {
            let taken = self.buffer.push(bytes);
            bytes = &bytes[taken..];
            if self.buffer.is_full() {
                self.write_out(health)?;
            }
        }
        Ok(())
    }

    /// Writes what the buffer holds, the last sector filled up with zeros.
    fn end_data(&mut self, health: &Health) -> Result<()> {
        self.buffer.pad_to(SECTOR_LEN);
        if self.buffer.is_full() {
            self.write_out(health)
        } else {
            Ok(())
        }
    }

    fn write_out(&mut self, health: &Health) -> Result<()> {
        if self.buffer.len() > 0 {
            self.file
                .write(self.buffer_at, self.buffer.bytes(), health)?;
            self.buffer_at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Writes a record into a sector of its own.
    fn write_sector(&mut self, at: u64, record: &[u8], health: &Health) -> Result<()> {
        self.write_out(health)?;
        self.buffer.push(record);
        self.buffer.pad_to(SECTOR_LEN);
        self.file.write(at, self.buffer.bytes(), health)?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::checksum;

    #[test]
    fn crcs_of_pieces_become_those_of_blocks() {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| ((i * 7) >> 2) as u8).collect();
        let mut prefix = Prefix::default();
        for end in [10, 100, 65_536, 65_537, 200_000, 200_000, 300_000] {
            let mut at = prefix.len as usize;
            let mut crcs = Vec::new();
            let len = end - at;
            while at < end {
                let to = end.min((at / BLOCK_LEN + 1) * BLOCK_LEN);
                crcs.push(Crc::of(&bytes[at..to]));
                at = to;
            }
            prefix.extend(len, &crcs).unwrap();
            assert_eq!(
                (prefix.crc, &prefix.blocks),
                (Crc::of(&bytes[..end]), &checksum::blocks(&bytes[..end]))
            );
        }
        assert!(prefix.extend(1, &[]).is_err());
        assert!(prefix.extend(0, &[Crc(1)]).is_err());
        assert!(prefix.extend(BLOCK_LEN, &[Crc(1)]).is_err());
    }
}
