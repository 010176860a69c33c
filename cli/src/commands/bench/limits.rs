//! What this machine could do at best: no cluster can be faster than its disk, its memory, its syncs,
//! its ciphers, its wake-ups.

use super::report::Limit;
use anyhow::{Context as _, Result, bail};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The size of one write, in bytes.
const WRITE_LEN: usize = 1 << 20;

/// Direct IO needs memory at such addresses.
const ALIGNMENT: usize = 4096;

/// What is copied in memory at a time, in bytes: much more than caches hold.
const COPY_LEN: usize = 256 << 20;

/// What is encrypted at a time, in bytes: a datagram over loopback.
const ENCRYPT_LEN: usize = 64 << 10;

/// How long single syncs are counted.
const SYNCS_FOR: Duration = Duration::from_secs(1);

/// How long encryption, and round trips, are measured.
const SHORT: Duration = Duration::from_millis(300);

/// What this machine could do at best.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sequential write with fdatasync at the end, bytes a second.
    pub write: f64,
    /// Whether that went past the page cache.
    pub direct: bool,
    /// Read from the page cache, bytes a second.
    pub cached_read: f64,
    /// Copy in memory by one thread, bytes a second.
    pub copy: f64,
    /// Appends of 4 KiB, each synced before the next, a second.
    pub syncs: f64,
    /// AES-128-GCM by one thread, bytes a second: what is sent is encrypted once and decrypted once.
    pub encryption: f64,
    /// Datagrams to another thread over loopback and back, one after the other, a second.
    pub round_trips: f64,
}

/// A file without a name: it goes with the process, however that ends.
struct Scratch {
    /// Past the page cache if the file system can do that.
    file: File,
    /// Through the page cache.
    cached: File,
    direct: bool,
}

impl Scratch {
    fn make(dir: &Path) -> Result<Scratch> {
        let path = dir.join(format!("bench-{:016x}", rand::random::<u64>()));
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true);
            options.custom_flags(flags).open(&path)
        };
        let cached = open(0).with_context(|| {
            format!(
                "{}: can not be made: name another place with --scratch",
                path.display()
            )
        })?;
        let direct = open(rustix::fs::OFlags::DIRECT.bits() as i32);
        std::fs::remove_file(&path)?;
        Ok(match direct {
            Ok(file) => Scratch {
                file,
                cached,
                direct: true,
            },
            Err(_) => Scratch {
                file: cached.try_clone()?,
                cached,
                direct: false,
            },
        })
    }
}

impl Limits {
    /// Measures in a directory, with a file of `len` bytes. Blocks for seconds.
    ///
    /// # Errors
    /// The directory can not be written, or has too little space.
    pub fn measure(dir: &Path, len: u64) -> Result<Limits> {
        let shown = dir.display();
        let space =
            rustix::fs::statvfs(dir).with_context(|| format!("{shown}: can not be measured"))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < len.saturating_add(1 << 30) {
            bail!(
                "{shown}: has {free} bytes free, a measurement with {len} bytes needs 1 GiB more than those: name another place with --scratch, or a smaller --size"
            );
        }
        let mut scratch = Scratch::make(dir)?;
        let write = write(&mut scratch.file, len)?;
        let cached_read = cached_read(&mut scratch.cached)?;
        let direct = scratch.direct;
        drop(scratch);
        let syncs = syncs(&mut Scratch::make(dir)?.cached)?;
        Ok(Limits {
            write,
            direct,
            cached_read,
            copy: copy(),
            syncs,
            encryption: encryption()?,
            round_trips: round_trips()?,
        })
    }

    /// For a report; `replicas` copies share the disk.
    pub fn list(&self, replicas: usize) -> Vec<Limit> {
        let how = if self.direct {
            "O_DIRECT 1 MiB"
        } else {
            "buffered: no O_DIRECT here"
        };
        let bytes = |name: String, rate| Limit {
            name,
            rate,
            is_bytes: true,
        };
        let count = |name: &str, rate| Limit {
            name: name.into(),
            rate,
            is_bytes: false,
        };
        vec![
            bytes(
                format!("sequential write, fdatasync at the end ({how})"),
                self.write,
            ),
            bytes(
                format!("the same for {replicas} copies on this disk"),
                self.write / replicas.max(1) as f64,
            ),
            bytes("read from the page cache".into(), self.cached_read),
            bytes("memory copy, one thread".into(), self.copy),
            bytes("AES-128-GCM, one thread".into(), self.encryption),
            count("append 4 KiB + fdatasync, one after the other", self.syncs),
            count(
                "datagram over loopback and back, one after the other",
                self.round_trips,
            ),
        ]
    }
}

fn rate(amount: u64, started: Instant) -> f64 {
    amount as f64 / started.elapsed().as_secs_f64().max(1e-9)
}

/// A buffer at an address that direct IO takes, full of bytes that no disk can compress.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Aligned {
        let mut memory = vec![0; WRITE_LEN + ALIGNMENT];
        rand::Rng::fill(&mut rand::rng(), memory.as_mut_slice());
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Aligned { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + WRITE_LEN]
    }
}

fn write(file: &mut File, len: u64) -> Result<f64> {
    let buffer = Aligned::new();
    // Whole writes only: direct IO takes nothing else.
    let writes = len.div_ceil(WRITE_LEN as u64);
    let started = Instant::now();
    for _ in 0..writes {
        file.write_all(buffer.bytes())?;
    }
    file.sync_data()?;
    Ok(rate(writes * WRITE_LEN as u64, started))
}

/// The second of two reads: the first brings the file into memory.
fn cached_read(file: &mut File) -> Result<f64> {
    let mut buffer = vec![0; WRITE_LEN];
    let mut best = 0.0;
    for _ in 0..2 {
        file.rewind()?;
        let started = Instant::now();
        let mut total = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                len => total += len as u64,
            }
        }
        best = f64::max(best, rate(total, started));
    }
    Ok(best)
}

fn copy() -> f64 {
    let from = vec![1u8; COPY_LEN];
    let mut to = vec![2u8; COPY_LEN];
    let mut best = 0.0;
    for _ in 0..3 {
        let started = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
        best = f64::max(best, rate(COPY_LEN as u64, started));
    }
    best
}

fn syncs(file: &mut File) -> Result<f64> {
    let buffer = Aligned::new();
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < SYNCS_FOR {
        file.write_all(&buffer.bytes()[..4096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(rate(count, started))
}

fn encryption() -> Result<f64> {
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).context("AES-128-GCM")?;
    let key = LessSafeKey::new(key);
    let mut block = vec![1; ENCRYPT_LEN];
    let started = Instant::now();
    let mut count = 0_u64;
    while started.elapsed() < SHORT {
        let nonce = Nonce::from(&[0, count as u32, 0]);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut block);
        let tag = tag.context("AES-128-GCM")?;
        std::hint::black_box(&tag);
        count += 1;
    }
    Ok(rate(count * ENCRYPT_LEN as u64, started))
}

/// Nothing is lost on loopback as long as one datagram is on its way; a second without one is an error.
fn round_trips() -> Result<f64> {
    let socket = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a socket on loopback")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    };
    let (here, there) = (socket()?, socket()?);
    here.connect(there.local_addr()?)?;
    there.connect(here.local_addr()?)?;
    // An empty datagram ends it.
    let echo = std::thread::spawn(move || -> Result<()> {
        let mut datagram = [0; 64];
        loop {
            let len = there.recv(&mut datagram)?;
            if len == 0 {
                return Ok(());
            }
            there.send(&datagram[..len])?;
        }
    });
    let mut datagram = [1; 64];
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < SHORT {
        here.send(&datagram)?;
        here.recv(&mut datagram)
            .context("datagrams over loopback")?;
        count += 1;
    }
    let rate = rate(count, started);
    here.send(&[])?;
    match echo.join() {
        Ok(ended) => ended.map(|()| rate),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::measure(folder.path(), 3 << 20).unwrap();
        assert!(
            limits.write > 0.0
                && limits.cached_read > 0.0
                && limits.copy > 0.0
                && limits.syncs > 0.0
                && limits.encryption > 0.0
                && limits.round_trips > 0.0
        );
        assert_eq!(limits.list(3).len(), 7);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Limits::measure(folder.path(), u64::MAX - 1).is_err());
    }
}
