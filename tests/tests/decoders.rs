//! No bytes make a decoder panic, no stored or sent type is without a decoder in the table, and none
//! of them changes its bytes.

use anyhow::{Context, Result, bail, ensure};
use quarry_tests::decoders::{self, Decoder};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long each decoder is fed with mutated bytes, unless `QUARRY_FUZZ_SECONDS` says otherwise.
const SECONDS: f64 = 2.0;

/// Decoders that are fed at the same time.
const THREADS: usize = 2;

/// The longest that one decoding may take.
const SLOW: Duration = Duration::from_secs(1);

/// Bytes at which encodings turn: tags of variable-length numbers, signs, ends.
const TURNS: [u8; 12] = [0, 1, 2, 127, 128, 249, 250, 251, 252, 253, 254, 255];

/// A sample with a few things wrong.
fn mutated(samples: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = samples[random.random_range(0..samples.len())].clone();
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            bytes.push(random.random());
        }
        let at = random.random_range(0..bytes.len());
        let to = (at + random.random_range(0..9)).min(bytes.len());
        match random.random_range(0..9) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = TURNS[random.random_range(0..TURNS.len())],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, TURNS[random.random_range(0..TURNS.len())]),
            4 => drop(bytes.drain(at..to)),
            5 => bytes[at..to].fill(0xff),
            6 => random.fill_bytes(&mut bytes[at..to]),
            7 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &samples[random.random_range(0..samples.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
        }
    }
    bytes
}

/// Feeds one decoder; how often, and how often it accepted.
fn feed(decoder: &Decoder, seconds: f64) -> Result<(u64, u64)> {
    for sample in &decoder.samples {
        ensure!(
            decoder.accepts(sample),
            "{}: refuses its sample {sample:02x?}",
            decoder.name
        );
    }
    let mut random = SmallRng::seed_from_u64(7);
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut fed, mut accepted) = (0, 0);
    while Instant::now() < until {
        let bytes = mutated(&decoder.samples, &mut random);
        let begun = Instant::now();
        let accepts = catch_unwind(AssertUnwindSafe(|| decoder.accepts(&bytes)));
        let accepts = accepts
            .ok()
            .with_context(|| format!("{} panics at {bytes:02x?}", decoder.name))?;
        ensure!(
            begun.elapsed() < SLOW,
            "{} takes {:?} for {bytes:02x?}",
            decoder.name,
            begun.elapsed()
        );
        fed += 1;
        accepted += u64::from(accepts);
    }
    Ok((fed, accepted))
}

#[test]
fn no_bytes_make_a_decoder_panic() -> Result<()> {
    let seconds = match std::env::var("QUARRY_FUZZ_SECONDS") {
        Ok(text) => text.parse().context("QUARRY_FUZZ_SECONDS is a number")?,
        Err(_) => SECONDS,
    };
    let waiting = Mutex::new(decoders::all()?);
    let next = || waiting.lock().expect("no thread panics").pop();
    std::thread::scope(|threads| {
        let feeders = [(); THREADS].map(|()| {
            threads.spawn(|| -> Result<()> {
                while let Some(decoder) = next() {
                    let (fed, accepted) = feed(&decoder, seconds)?;
                    println!("{}: {fed} inputs, {accepted} accepted", decoder.name);
                    ensure!(fed > 10, "{} was hardly tried", decoder.name);
                }
                Ok(())
            })
        });
        feeders
            .into_iter()
            .try_for_each(|feeder| feeder.join().expect("a feeder panicked"))
    })
}

/// Where types are that are sent or stored.
const SOURCES: [&str; 6] = [
    "common/src/wire",
    "common/src/map",
    "common/src/token",
    "common/src/error.rs",
    "metaserver/src/state",
    "metaserver/src/raft/entry.rs",
];

/// Types that serde never hears the name of, since they are written as the number they hold.
const NUMBERS: [&str; 1] = ["Flags"];

fn rust_files(at: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if at.is_file() {
        found.push(at.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(at).with_context(|| format!("list {}", at.display()))? {
        let path = entry?.path();
        if path.is_dir() || path.extension().is_some_and(|end| end == "rs") {
            rust_files(&path, found)?;
        }
    }
    Ok(())
}

/// The names of the types in a source that can be read by serde.
fn readable_types(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    for piece in source.split("#[derive(").skip(1) {
        let Some((derives, rest)) = piece.split_once(")]") else {
            continue;
        };
        if !derives.contains("Deserialize") {
            continue;
        }
        let mut words = rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let name = words
            .by_ref()
            .find(|word| ["struct", "enum"].contains(word))
            .and_then(|_| words.next());
        names.extend(name.map(str::to_owned));
    }
    names
}

#[test]
fn every_sent_and_stored_type_is_in_the_table() -> Result<()> {
    let table = decoders::all()?;
    let read: BTreeSet<&str> = table
        .iter()
        .flat_map(|decoder| decoder.types.iter().copied())
        .chain(NUMBERS)
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for source in SOURCES {
        rust_files(&root.join(source), &mut files)?;
    }
    let (mut seen, mut missing) = (0, Vec::new());
    for file in files {
        let source = fs::read_to_string(&file)?;
        for name in readable_types(&source) {
            seen += 1;
            if name != "Code" && !read.contains(name.as_str()) {
                missing.push(format!("{name} in {}", file.display()));
            }
        }
    }
    ensure!(
        seen > 80,
        "only {seen} types were found: the search is broken"
    );
    ensure!(
        missing.is_empty(),
        "types without a decoder in the table: {missing:#?}"
    );
    Ok(())
}

/// The formats of a disk are private to the dataserver.
#[test]
fn every_format_of_a_disk_is_pinned_beside_it() -> Result<()> {
    let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataserver/src/disk");
    let mut files = Vec::new();
    rust_files(&disk, &mut files)?;
    let mut seen = 0;
    for file in files {
        let source = fs::read_to_string(&file)?;
        let types = readable_types(&source);
        seen += types.len();
        ensure!(
            types.is_empty() || source.contains("fn golden_bytes()"),
            "{types:?} in {} have no test golden_bytes",
            file.display()
        );
    }
    ensure!(seen > 7, "only {seen} types: the search is broken");
    Ok(())
}

/// What programs that are in use store and send.
const PINNED: &str = include_str!("formats.golden");

#[test]
fn what_is_stored_and_sent_has_the_bytes_that_it_always_had() -> Result<()> {
    let mut now = String::new();
    let table = decoders::all()?;
    for decoder in table.iter().filter(|decoder| !decoder.pinned.is_empty()) {
        now += &format!("# {}\n{}\n\n", decoder.name, decoder.pinned.join("\n"));
    }
    let (mut lines, mut pinned) = (now.lines(), PINNED.lines());
    let differ = iter::from_fn(|| Some((lines.next(), pinned.next())))
        .take_while(|pair| *pair != (None, None))
        .find(|(now, pinned)| now != pinned);
    if let Some((new, old)) = differ {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("formats.golden");
        fs::write(&file, &now)?;
        bail!(
            "a format changed. It was\n  {}\nand is\n  {}\nPrograms and disks with the old one are in \
             use: a changed record needs a new version, a changed message a new version of the \
             protocol. All as it is now is in {}: where only lines come in, of a type or of a \
             variant behind the others, take them over to tests/tests/formats.golden",
            old.unwrap_or("not there"),
            new.unwrap_or("not there"),
            file.display()
        );
    }
    Ok(())
}

#[test]
fn a_type_that_is_not_in_the_table_would_be_found() {
    let source = "#[derive(Clone, Deserialize)]\n#[serde(transparent)]\npub struct New(u8);\n\
        #[derive(Debug)] pub struct Other;\n#[derive(\n Serialize,\n Deserialize,\n)]\nenum Third {}";
    assert_eq!(readable_types(source), ["New", "Third"]);
}
