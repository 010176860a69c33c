//! `quarry append`.

use crate::context::Context;
use crate::input::standard_input;
use crate::path::{Remote, escaped};
use crate::size::umask;
use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use quarry_client::OpenOptions;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
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
        let mut input: Box<dyn AsyncRead + Unpin> = match self.local.as_bytes() {
            b"-" => Box::new(standard_input()),
            name => {
                let file = tokio::fs::File::open(&self.local).await;
                Box::new(file.with_context(|| escaped(name))?)
            }
        };
        context
            .with_client(async |client| {
                let options = OpenOptions {
                    write: true,
                    append: true,
                    create: true,
                    mode: 0o666 & !umask(),
                    ..OpenOptions::default()
                };
                let mut file = client.open(path.bytes(), options).await?;
                loop {
                    let piece = read_piece(&mut input).await?;
                    if piece.is_empty() {
                        break;
                    }
                    file.append(piece).await?;
                }
                Ok(file.close().await?)
            })
            .await
    }
}

/// Fills a piece, or less at the end of the input.
async fn read_piece(input: &mut (impl AsyncRead + Unpin)) -> Result<Bytes> {
    let mut piece = BytesMut::new();
    let mut limited = input.take(PIECE_LEN as u64);
    while limited
        .read_buf(&mut piece)
        .await
        .context("standard input")?
        > 0
    {}
    Ok(piece.freeze())
}
