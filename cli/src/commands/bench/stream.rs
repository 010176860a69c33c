//! Large files: `bench write` and `bench read`.

use super::report::{Figure, Report, Work};
use super::{Bed, parse_positive};
use crate::path::join;
use crate::size::{counted, human};
use anyhow::{Result, ensure};
use bytes::Bytes;
use quarry_client::{Client, Options, PublishOptions};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// Random bytes that a file repeats: more than any cache of a processor, so that reading them costs
/// what reading a user's data costs.
const PATTERN_LEN: usize = 32 << 20;

/// How much, in how many files, by how many at a time.
#[derive(Debug, clap::Args)]
pub struct Stream {
    /// Bytes in all: 512M, 4G
    #[arg(long, default_value = "1G", value_parser = parse_positive)]
    size: u64,
    /// Files that they are in [default: one for each writer]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files: Option<u32>,
    /// Files under way at a time
    #[arg(long, visible_alias = "readers", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    writers: u32,
}

impl Stream {
    /// `bench write`.
    ///
    /// # Errors
    /// What the cluster or the local disk says.
    pub async fn write(&self, bed: &Bed<'_>) -> Result<Report> {
        let limits = bed.limits(self.size).await?;
        let best = limits.write / bed.replicas as f64;
        let figure = self.write_files(bed, Some(best)).await?;
        Ok(Report {
            what: self.what("write", bed),
            figures: vec![figure],
            limits: limits.list(bed.replicas),
            notes: vec![
                "best here: the sequential write of the same bytes, shared by all copies".into(),
                bed.processes.note(),
                "p50, p99, max: a whole file, until every copy of it is synced and it has its name"
                    .into(),
            ],
        })
    }

    /// `bench read`.
    ///
    /// # Errors
    /// What the cluster or the local disk says.
    pub async fn read(&self, bed: &Bed<'_>) -> Result<Report> {
        let limits = bed.limits(self.size).await?;
        self.write_files(bed, None).await?;
        let best = Some(limits.cached_read);
        let options = Options {
            same_host_reads: false,
            ..Options::default()
        };
        let over_quic = Client::connect_with(bed.client.file().clone(), options).await?;
        let first = self.read_files(bed, &over_quic, "read over QUIC, first time", None);
        let mut figures = vec![first.await?];
        let cached = self.read_files(bed, &over_quic, "read over QUIC, cached", best);
        figures.push(cached.await?);
        over_quic.close().await?;

        // Once before: other replicas may be read so, and are to be in the page cache as well.
        let name = "read on this host, cached";
        self.read_files(bed, bed.client, "read on this host", None)
            .await?;
        let before = bed.client.same_host_len();
        let on_host = self.read_files(bed, bed.client, name, best).await?;
        let note = match bed.client.same_host_len() - before {
            0 => "read on this host: no dataserver is here, so that all is read over QUIC".into(),
            len => {
                figures.push(on_host);
                format!(
                    "read on this host: {} came from the chunk files, past the network",
                    human(len)
                )
            }
        };
        Ok(Report {
            what: self.what("read", bed),
            figures,
            limits: limits.list(bed.replicas),
            notes: vec![
                "best here: reading a local file from the page cache, without network and encryption".into(),
                note,
                bed.processes.note(),
                "p50, p99, max: a whole file".into(),
            ],
        })
    }

    fn files(&self) -> u64 {
        u64::from(self.files.unwrap_or(self.writers))
    }

    /// The last file has what the division leaves over.
    fn len_of(&self, number: u64) -> u64 {
        let each = self.size / self.files();
        match number + 1 == self.files() {
            true => self.size - each * number,
            false => each,
        }
    }

    fn what(&self, word: &str, bed: &Bed<'_>) -> String {
        format!(
            "{word} {} in {}, {} at a time, {}",
            human(self.size),
            counted(self.files(), "file", "files"),
            self.writers,
            counted(bed.replicas as u64, "copy", "copies")
        )
    }

    async fn write_files(&self, bed: &Bed<'_>, best: Option<f64>) -> Result<Figure> {
        let mut pattern = vec![0; PATTERN_LEN];
        rand::Rng::fill(&mut rand::rng(), pattern.as_mut_slice());
        let pattern = Bytes::from(pattern);
        let (client, dir) = (bed.client.clone(), Arc::new(bed.dir.clone()));
        let lens: Arc<Vec<u64>> = Arc::new(
            (0..self.files())
                .map(|number| self.len_of(number))
                .collect(),
        );
        let operation = move |_, number: u64| {
            let (client, dir, pattern) = (client.clone(), dir.clone(), pattern.clone());
            let len = lens[number as usize];
            async move {
                let path = join(&dir, format!("f{number}").as_bytes());
                let source = Pattern {
                    at: (number as usize * 4097) % pattern.len(),
                    pattern,
                    left: len,
                };
                let attr = client
                    .publish(&path, source, PublishOptions::default())
                    .await?;
                ensure!(
                    attr.size == len,
                    "a file of {len} bytes was stored with {}",
                    attr.size
                );
                Ok(())
            }
        };
        let work = Work::Bytes(self.size);
        bed.drive("write", (self.writers, self.files()), work, best, operation)
            .await
    }

    async fn read_files(
        &self,
        bed: &Bed<'_>,
        client: &Client,
        name: &str,
        best: Option<f64>,
    ) -> Result<Figure> {
        let (client, dir) = (client.clone(), Arc::new(bed.dir.clone()));
        let lens: Arc<Vec<u64>> = Arc::new(
            (0..self.files())
                .map(|number| self.len_of(number))
                .collect(),
        );
        let operation = move |_, number: u64| {
            let (client, dir) = (client.clone(), dir.clone());
            let len = lens[number as usize];
            async move {
                let path = join(&dir, format!("f{number}").as_bytes());
                let read = client
                    .read_to(&path, &mut tokio::io::sink(), None, None)
                    .await?;
                ensure!(read == len, "{read} of {len} bytes were read");
                Ok(())
            }
        };
        let work = Work::Bytes(self.size);
        bed.drive(name, (self.writers, self.files()), work, best, operation)
            .await
    }
}

/// A stream of random bytes that repeat.
struct Pattern {
    pattern: Bytes,
    at: usize,
    left: u64,
}

impl AsyncRead for Pattern {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.left > 0 && buffer.remaining() > 0 {
            let run = (self.pattern.len() - self.at).min(buffer.remaining());
            let run = usize::try_from(self.left).unwrap_or(usize::MAX).min(run);
            buffer.put_slice(&self.pattern[self.at..self.at + run]);
            self.at = (self.at + run) % self.pattern.len();
            self.left -= run as u64;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_pattern_is_as_long_as_it_should_be() {
        let pattern = Bytes::from_static(b"abc");
        let mut source = Pattern {
            pattern,
            at: 1,
            left: 7,
        };
        let mut read = String::new();
        source.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "bcabcab");
    }

    #[test]
    fn the_files_together_are_the_size() {
        let stream = Stream {
            size: 1000,
            files: Some(3),
            writers: 2,
        };
        assert_eq!(
            (0..3).map(|number| stream.len_of(number)).sum::<u64>(),
            1000
        );
    }
}
