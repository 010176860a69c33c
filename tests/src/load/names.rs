//! Names that come, move and go, without contents.

use super::content::Content;
use super::ledger::{Change, Ledger};
use super::meter::{Kind, Outcome};
use super::worker::{Worker, names};
use quarry_common::wire::meta::RenameMode;
use rand::Rng;
use rand::seq::IteratorRandom;

/// Names that a worker has at most.
const NAMES_MAX: usize = 100;

impl Worker {
    /// Works on names until it is stopped.
    pub async fn change_names(mut self) -> Ledger {
        let mut ledger = Ledger::default();
        let empty = || Some(Content::new(0, 0));
        let mut number = 0u64;
        while self.goes_on().await {
            number += 1;
            let new = format!("{}/n{number}", self.path);
            let some = ledger.files().keys().choose(&mut self.random).cloned();
            let full = ledger.files().len() >= NAMES_MAX;
            match (some, self.random.random_range(0..100)) {
                (Some(path), 0..20) if !full => {
                    let change = Change::from([(path.clone(), None), (new.clone(), empty())]);
                    // Done twice it would fail.
                    let rename = || async {
                        let (from, to) = (path.as_bytes(), new.as_bytes());
                        self.client.rename(from, to, RenameMode::NoReplace).await
                    };
                    self.change(Kind::Metadata, &mut ledger, change, rename)
                        .await;
                }
                (Some(path), at) if full || (20..45).contains(&at) => {
                    let change = Change::from([(path.clone(), None)]);
                    let unlink = || async { self.client.unlink(path.as_bytes()).await };
                    self.change(Kind::Metadata, &mut ledger, change, unlink)
                        .await;
                }
                (Some(_), 45..50) => self.compare_names(&ledger).await,
                _ => {
                    let change = Change::from([(new.clone(), empty())]);
                    let create = || async { self.client.create(new.as_bytes(), 0o644, true).await };
                    self.change(Kind::Metadata, &mut ledger, change, create)
                        .await;
                }
            }
        }
        ledger
    }

    async fn compare_names(&self, ledger: &Ledger) {
        let list = || async { names(&self.client, &self.path).await };
        let found = self
            .meter
            .measure(Kind::Metadata, "listing names", list)
            .await;
        if ledger.doubt_count() > 0 {
            return;
        }
        if let Outcome::Done(mut found) = found {
            found.sort();
            let expected = ledger
                .files()
                .keys()
                .filter_map(|path| path.rsplit('/').next());
            if !expected.eq(found.iter().map(String::as_str)) {
                self.meter
                    .handle_fault(format!("{} lists other names", self.path));
            }
        }
    }
}
