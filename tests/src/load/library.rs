//! Files that are there before anything happens, and are read all the time.

use super::content::{Content, difference};
use super::meter::{Kind, Outcome};
use super::worker::Worker;
use anyhow::Result;
use quarry_client::{Client, OpenOptions, PublishOptions};
use rand::Rng;
use std::sync::Arc;

/// Where they are.
pub const LIBRARY: &str = "/library";

/// Their lengths: inline, small chunks, chunks of their own, one of several frames each.
const LENGTHS: [usize; 6] = [200, 3_000, 40_000, 70_000, 300_000, 3_000_000];

/// Makes so many; their contents follow from the seed.
pub async fn fill(client: &Client, seed: u64, count: usize) -> Result<Vec<Content>> {
    client.mkdir(LIBRARY.as_bytes(), 0o755).await?;
    let mut contents = Vec::new();
    for number in 0..count {
        let content = Content::new(
            seed ^ (number as u64) << 32,
            LENGTHS[number % LENGTHS.len()],
        );
        let bytes = content.render();
        let options = PublishOptions::default();
        client
            .publish(path(number).as_bytes(), &bytes[..], options)
            .await?;
        contents.push(content);
    }
    Ok(contents)
}

fn path(number: usize) -> String {
    format!("{LIBRARY}/{number}")
}

impl Worker {
    /// Reads parts of files, now here, now there, until it is stopped.
    pub async fn read_library(mut self, library: Arc<Vec<Content>>) {
        while self.goes_on().await {
            let number = self.random.random_range(0..library.len());
            let content = &library[number];
            let from = self.random.random_range(0..content.len());
            let len = self.random.random_range(1..=content.len() - from);
            let path = path(number);
            let read = || async {
                let mut file = self
                    .client
                    .open(path.as_bytes(), OpenOptions::reading())
                    .await?;
                file.read_at(from as u64, len).await
            };
            let found = self
                .meter
                .measure(Kind::Read, &format!("reading {path}"), read)
                .await;
            if let Outcome::Done(found) = found {
                if let Some(difference) = difference(&content.render()[from..from + len], &found) {
                    let fault = format!("{path} from {from} on: {difference}");
                    self.meter.handle_fault(fault);
                }
            }
        }
    }
}

/// What is wrong with the files now.
pub async fn faults(client: &Client, library: &[Content]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (number, content) in library.iter().enumerate() {
        let path = path(number);
        let found = super::worker::read_whole(client, &path).await?;
        if let Some(difference) = difference(&content.render(), &found) {
            faults.push(format!("{path}: {difference}"));
        }
    }
    Ok(faults)
}
