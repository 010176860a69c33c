//! What all workers of a load have, and the little that they do alike.

use super::content::{Content, difference, digest};
use super::ledger::{Change, Ledger};
use super::meter::{Kind, Meter, Outcome};
use anyhow::Result;
use quarry_client::{Client, OpenOptions};
use quarry_common::error::Result as QuarryResult;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest range that is read at once.
const READ_LEN: usize = 4 << 20;

/// A client that does one thing after the other.
pub struct Worker {
    /// Its client.
    pub client: Client,
    /// What it does follows from this.
    pub random: SmallRng,
    /// Counts what is done.
    pub meter: Arc<Meter>,
    /// Set when it is to end.
    pub stop: Arc<AtomicBool>,
    /// It rests up to twice so long between two operations.
    pub pace: Duration,
    /// The folder that is its own, or the file that it shares with its like.
    pub path: String,
}

impl Worker {
    /// Rests; false when it is to end.
    pub async fn goes_on(&mut self) -> bool {
        if !self.pace.is_zero() {
            let rest = self.random.random_range(0.0..2.0);
            tokio::time::sleep(self.pace.mul_f64(rest)).await;
        }
        !self.stop.load(Ordering::Acquire)
    }

    /// Does something and writes down what became of it.
    pub async fn change<T, F: Future<Output = QuarryResult<T>>>(
        &self,
        kind: Kind,
        ledger: &mut Ledger,
        change: Change,
        op: impl Fn() -> F,
    ) {
        let what = format!("{kind:?} of {:?}", change.keys().collect::<Vec<_>>());
        match self.meter.measure(kind, &what, op).await {
            Outcome::Done(_) => ledger.handle_done(change),
            // What the library says was not done may yet be found to be done.
            Outcome::Unknown | Outcome::Failed => ledger.handle_unknown(change),
        }
    }
}

/// All bytes of a file.
pub async fn read_whole(client: &Client, path: &str) -> QuarryResult<Vec<u8>> {
    let mut file = client.open(path.as_bytes(), OpenOptions::reading()).await?;
    let mut all = Vec::new();
    loop {
        let bytes = file.read_at(all.len() as u64, READ_LEN).await?;
        all.extend_from_slice(&bytes);
        if bytes.len() < READ_LEN {
            return Ok(all);
        }
    }
}

/// The names in a folder.
pub async fn names(client: &Client, path: &str) -> QuarryResult<Vec<String>> {
    let mut dir = client.open_dir(path.as_bytes(), false).await?;
    let mut names = Vec::new();
    while let Some(entry) = dir.next().await? {
        names.push(String::from_utf8_lossy(&entry.name).into_owned());
    }
    Ok(names)
}

/// What is wrong with the files of a folder, compared with its ledger.
pub async fn folder_faults(client: &Client, path: &str, ledger: &Ledger) -> Result<Vec<String>> {
    let (mut found, mut details) = (BTreeMap::new(), Vec::new());
    for name in names(client, path).await? {
        let file = format!("{path}/{name}");
        let bytes = read_whole(client, &file).await?;
        let expected = ledger.files().get(&file).map(Content::render);
        let difference = expected.and_then(|expected| difference(&expected, &bytes));
        details.extend(difference.map(|difference| format!("{file}: {difference}")));
        found.insert(file, digest(&bytes));
    }
    let mut faults = ledger.faults(&found);
    faults.append(&mut details);
    Ok(faults)
}
