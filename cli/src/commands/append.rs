//! `quarry append`.

use crate::context::Context;
use crate::input::standard_input;
use crate::path::{Remote, escaped, local};
use crate::size::umask;
use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use quarry_client::{File, OpenOptions};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is appended in one step, in bytes.
const PIECE_LEN: usize = 16 << 20;

/// Append standard input, or a local file, to a file
///
/// Pieces of up to 16 MiB are each appended as a whole, also while others append to the same file.
/// The file is made if it is not there.
#[derive(Debug, clap::Args)]
pub struct Append {
    /// The file of the cluster
    file: OsString,
    /// What is appended: a local file, '-' is standard input
    #[arg(default_value = "-", value_name = "LOCAL")]
    local: OsString,
}

impl Append {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster or the local file says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let path = Remote::parse(&self.file)?;
        let (mut input, name): (Box<dyn AsyncRead + Unpin>, String) = match self.local.as_bytes() {
            b"-" => (Box::new(standard_input()), "standard input".to_owned()),
            name => {
                let file = tokio::fs::File::open(local(&self.local)?).await;
                (Box::new(file.context(escaped(name))?), escaped(name))
            }
        };
        let appended = AtomicU64::new(0);
        let done = context
            .with_client(async |client| {
                let options = OpenOptions {
                    write: true,
                    append: true,
                    create: true,
                    mode: 0o666 & !umask(),
                    ..OpenOptions::default()
                };
                // What can not be read leaves no empty file.
                let mut begun = BytesMut::new();
                input
                    .read_buf(&mut begun)
                    .await
                    .with_context(|| name.clone())?;
                let mut file = client.open(path.bytes(), options).await?;
                let mut input = begun.as_ref().chain(input);
                append_all(&mut file, &mut input, &name, &appended).await?;
                Ok(file.close().await?)
            })
            .await;
        // Who goes on has to know what is there.
        done.map_err(|error| match appended.into_inner() {
            0 => error,
            appended => error.context(format!("after {appended} bytes were appended, which stay")),
        })
    }
}

/// Appends all of the input, piece after piece, and counts it.
async fn append_all(
    file: &mut File,
    input: &mut (impl AsyncRead + Unpin),
    name: &str,
    appended: &AtomicU64,
) -> Result<()> {
    loop {
        let piece = read_piece(input).await.with_context(|| name.to_owned())?;
        if piece.is_empty() {
            return Ok(());
        }
        let len = piece.len() as u64;
        file.append(piece).await?;
        appended.fetch_add(len, Ordering::Relaxed);
    }
}

/// Fills a piece, or less at the end of the input.
async fn read_piece(input: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::new();
    let mut limited = input.take(PIECE_LEN as u64);
    while limited.read_buf(&mut piece).await? > 0 {}
    Ok(piece.freeze())
}
