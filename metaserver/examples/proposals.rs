//! Prints how many proposals a second a Raft group of one takes, and how long one waits, with 1, 32, 128
//! and 512 callers: `cargo run --release -p quarry-metaserver --example proposals [DIRECTORY]`.
//!
//! The directory, which must not exist, is on the disk to measure; it is removed afterwards.

use bytes::Bytes;
use quarry_common::Result;
use quarry_common::ids::{ServerId, ShardId};
use quarry_metaserver::kv::{Batch, Family, KvRead, Rocks, RocksOptions};
use quarry_metaserver::raft::entry::{Entry, encode_answers};
use quarry_metaserver::raft::{Apply, Consensus, Raft, RaftOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Puts each command under its own first eight bytes and answers with nothing.
struct Trivial;

impl Apply for Trivial {
    fn apply(&self, _base: &dyn KvRead, entry: &[u8]) -> Result<(Batch, Bytes)> {
        let entry = Entry::decode(entry)?;
        let mut batch = Batch::new();
        let answers = vec![Bytes::new(); entry.commands.len()];
        for command in entry.commands {
            batch.put(Family::Inodes, command.slice(..8), command);
        }
        Ok((batch, encode_answers(&answers)))
    }

    fn reset(&self) {}
}

#[tokio::main]
async fn main() -> Result<()> {
    let temporary = std::env::temp_dir().join(format!("quarry-proposals-{}", std::process::id()));
    let dir = std::env::args().nth(1).map_or(temporary, PathBuf::from);
    let kv = Arc::new(Rocks::open(&dir.join("state"), RocksOptions::default())?);
    let options = RaftOptions::new(&dir, ServerId(1), ShardId::FIRST);
    let raft = Arc::new(Raft::start(options, kv, Arc::new(Trivial)).await?);
    raft.init(&[(ServerId(1), "127.0.0.1:1".to_owned())])
        .await?;
    raft.wait_until_leading(Duration::from_secs(10)).await?;

    let next = Arc::new(AtomicU64::new(0));
    println!("callers  proposals/s  mean wait");
    for callers in [1u32, 32, 128, 512] {
        let until = Instant::now() + Duration::from_secs(3);
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (raft, next) = (Arc::clone(&raft), Arc::clone(&next));
                tokio::spawn(async move {
                    let mut done = 0u64;
                    while Instant::now() < until {
                        let mut command = vec![0; 200];
                        let key = next
                            .fetch_add(1, Ordering::Relaxed)
                            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        command[..8].copy_from_slice(&key.to_be_bytes());
                        raft.propose(command.into()).await?;
                        done += 1;
                    }
                    Ok::<u64, quarry_common::Error>(done)
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.expect("a caller panicked")?;
        }
        let wait =
            Duration::from_secs(3) * callers / u32::try_from(done.max(1)).unwrap_or(u32::MAX);
        println!("{callers:7}  {:11}  {wait:?}", done / 3);
    }
    let begun = Instant::now();
    let mut barriers = 0u64;
    while begun.elapsed() < Duration::from_secs(1) {
        raft.read_barrier().await?;
        barriers += 1;
    }
    println!("{barriers} read barriers/s by one caller");
    raft.stop().await?;
    drop(raft);
    std::fs::remove_dir_all(&dir).map_err(|error| {
        quarry_common::Error::new(
            quarry_common::Code::Io,
            format!("{} was not removed", dir.display()),
        )
        .with_source(error)
    })
}
