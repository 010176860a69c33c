//! What the library promises, on a cluster in memory with faults.

#[allow(dead_code)]
#[path = "../fake/mod.rs"]
mod fake;

mod commits;
mod files;
mod metaservers;
mod pipelines;
mod replicas;
mod sessions;
mod shared_files;
mod slow_links;
mod trees;

use fake::Fake;
use quarry_client::{
    Client, OpenOptions, Options, Progress, PublishOptions, Transfer, TreeOptions,
};
use quarry_common::Code;
use quarry_common::ids::{DiskId, ServerId};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 7) >> 5) as u8 | 1).collect()
}

fn transfer(options: TreeOptions) -> Arc<Transfer> {
    Arc::new(Transfer::new(options, Arc::new(Progress::default())))
}

async fn publish(client: &Client, path: &[u8], bytes: &[u8]) -> quarry_common::Result<()> {
    client
        .publish(path, bytes, PublishOptions::default())
        .await
        .map(drop)
}

async fn read(client: &Client, path: &[u8]) -> quarry_common::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    client.read_to(path, &mut bytes, None, None).await?;
    Ok(bytes)
}

/// The disk from which a file is read.
async fn first_choice(fake: &Fake, client: &Client, path: &[u8]) -> DiskId {
    fake.state().reads.clear();
    for _ in 0..5 {
        read(client, path).await.unwrap();
    }
    let reads = std::mem::take(&mut fake.state().reads);
    let most = reads.into_iter().max_by_key(|(_, count)| *count);
    most.unwrap().0
}

/// A client that asks the metaservers for a fifth of a second only.
async fn impatient(fake: &Fake) -> Client {
    let options = Options {
        meta_deadline: Duration::from_millis(200),
        ..Options::default()
    };
    fake.client_with(options).await
}
