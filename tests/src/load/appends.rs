//! Records appended to a file that others append to as well.

use super::meter::{Kind, Outcome};
use super::records::{Records, record};
use super::worker::Worker;
use bytes::Bytes;
use quarry_client::OpenOptions;
use rand::Rng;
use rand::seq::IteratorRandom;
use std::sync::{Arc, Mutex};

/// Inline, packed into segments, and chunks of their own.
const LENGTHS: [std::ops::Range<usize>; 3] = [24..257, 257..20_000, 66_000..200_000];

impl Worker {
    /// Appends records until it is stopped, or so many.
    pub async fn append_records(mut self, writer: u32, count: u64, records: Arc<Mutex<Records>>) {
        for number in 0..count {
            if !self.goes_on().await {
                return;
            }
            let name = (writer, number);
            let which = [0, 0, 0, 1, 1, 2].into_iter().choose(&mut self.random);
            let len = self
                .random
                .random_range(LENGTHS[which.unwrap_or(0)].clone());
            let bytes = Bytes::from(record(name, len));
            let append = || async {
                let options = OpenOptions {
                    append: true,
                    ..OpenOptions::default()
                };
                let mut file = self.client.open(self.path.as_bytes(), options).await?;
                file.append(bytes.clone()).await
            };
            let what = format!("appending record {name:?}");
            let outcome = self.meter.measure(Kind::Append, &what, append).await;
            let mut records = records.lock().expect("nobody panics with this lock");
            match outcome {
                Outcome::Done(offset) => records.handle_done(name, offset, len),
                Outcome::Unknown | Outcome::Failed => records.handle_unknown(name, len),
            }
        }
    }
}
