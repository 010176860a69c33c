//! Files that come, are replaced, written over, moved, and go, each looked at again.

use super::content::{Content, bytes, difference};
use super::ledger::{Change, Ledger};
use super::meter::{Kind, Outcome};
use super::worker::{Worker, read_whole};
use bytes::Bytes;
use quarry_client::{OpenOptions, PublishOptions};
use quarry_common::wire::meta::RenameMode;
use rand::Rng;
use rand::seq::IteratorRandom;

/// Files that a worker has at most.
const FILES_MAX: usize = 60;

/// Inline, packed into segments, and chunks of their own.
const LENGTHS: [std::ops::Range<usize>; 4] =
    [1..257, 257..20_000, 20_000..400_000, 400_000..5_000_000];

impl Worker {
    /// Works on files until it is stopped.
    pub async fn change_files(mut self) -> Ledger {
        let mut ledger = Ledger::default();
        let mut number = 0u64;
        while self.goes_on().await {
            number += 1;
            let new = format!("{}/f{number}", self.path);
            let some = ledger.files().iter().choose(&mut self.random);
            let some = some.map(|(path, content)| (path.clone(), content.clone()));
            let full = ledger.files().len() >= FILES_MAX;
            match (some, self.random.random_range(0..100)) {
                (Some((path, _)), _) if full => self.remove(&mut ledger, path).await,
                (Some((path, _)), 0..15) => self.publish(&mut ledger, path).await,
                (Some((path, content)), 15..35) => {
                    self.write_over(&mut ledger, path, content).await
                }
                (Some((path, content)), 35..45) => {
                    self.rename(&mut ledger, path, content, new).await
                }
                (Some((path, content)), 45..50) => {
                    let onto = ledger.files().keys().choose(&mut self.random).cloned();
                    let onto = onto.filter(|onto| *onto != path).unwrap_or(new);
                    self.rename(&mut ledger, path, content, onto).await;
                }
                (Some((path, _)), 50..60) => self.remove(&mut ledger, path).await,
                (Some((path, content)), 60..70) => self.look(path, content).await,
                _ => self.publish(&mut ledger, new).await,
            }
        }
        ledger
    }

    /// Mostly small, as in real trees.
    fn some_content(&mut self) -> Content {
        let which = [0, 1, 1, 1, 2, 2, 3].into_iter().choose(&mut self.random);
        let len = self
            .random
            .random_range(LENGTHS[which.unwrap_or(0)].clone());
        Content::new(self.random.random(), len)
    }

    async fn publish(&mut self, ledger: &mut Ledger, path: String) {
        let content = self.some_content();
        let bytes = content.render();
        let change = Change::from([(path.clone(), Some(content))]);
        let publish = || async {
            let options = PublishOptions::default();
            self.client
                .publish(path.as_bytes(), &bytes[..], options)
                .await
        };
        self.change(Kind::Write, ledger, change, publish).await;
    }

    async fn write_over(&mut self, ledger: &mut Ledger, path: String, content: Content) {
        let len = self.random.random_range(1..100_000);
        let offset = self.random.random_range(0..=content.len());
        let seed = self.random.random();
        let new = Bytes::from(bytes(seed, len));
        let change = Change::from([(path.clone(), Some(content.patched(offset, len, seed)))]);
        let write = || async {
            let options = OpenOptions {
                write: true,
                ..OpenOptions::default()
            };
            let mut file = self.client.open(path.as_bytes(), options).await?;
            file.write_at(offset as u64, new.clone()).await?;
            file.close().await
        };
        self.change(Kind::Write, ledger, change, write).await;
    }

    async fn rename(&mut self, ledger: &mut Ledger, from: String, content: Content, to: String) {
        let change = Change::from([(from.clone(), None), (to.clone(), Some(content))]);
        let rename = || async {
            let (from, to) = (from.as_bytes(), to.as_bytes());
            self.client.rename(from, to, RenameMode::Replace).await
        };
        self.change(Kind::Write, ledger, change, rename).await;
    }

    async fn remove(&mut self, ledger: &mut Ledger, path: String) {
        let change = Change::from([(path.clone(), None)]);
        let remove = || async { self.client.unlink(path.as_bytes()).await };
        self.change(Kind::Write, ledger, change, remove).await;
    }

    async fn look(&mut self, path: String, content: Content) {
        let look = || async { read_whole(&self.client, &path).await };
        let found = self
            .meter
            .measure(Kind::Read, &format!("reading {path}"), look)
            .await;
        if let Outcome::Done(found) = found {
            if let Some(difference) = difference(&content.render(), &found) {
                self.meter.handle_fault(format!("{path}: {difference}"));
            }
        }
    }
}
