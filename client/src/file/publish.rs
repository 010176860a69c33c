//! The upload path: a file appears with all its contents in one step, or not at all.

use super::assembler::{Assembler, Batch, Written, any_lost};
use super::source::{Piece, ReaderSource, Source};
use crate::client::Client;
use crate::meta::unexpected;
use crate::namespace::shown;
use crate::progress::Progress;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::InodeId;
use quarry_common::limits::EXTENTS_PER_COMMAND_MAX;
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{Attr, Contents, Op, OpReply, Publish};
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncRead;

/// Extents of one command; a file with more is assembled under an inode without a name.
const EXTENTS_AT_ONCE: usize = 256;

const _: () = assert!(EXTENTS_AT_ONCE <= EXTENTS_PER_COMMAND_MAX);

/// What lost its session or the members of its chunks is begun again so often, by those who still have
/// the bytes.
pub(crate) const REPEATS: u32 = 3;

/// What a published file is like.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// Permission bits.
    pub mode: u16,
    /// Last change of the contents; the time of the publishing if left out.
    pub mtime: Option<Nanos>,
    /// Whether an existing file may be replaced.
    pub replace: bool,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Counts the bytes.
    pub progress: Option<Arc<Progress>>,
}

impl Default for PublishOptions {
    fn default() -> PublishOptions {
        PublishOptions {
            mode: 0o644,
            mtime: None,
            replace: true,
            xattrs: Vec::new(),
            progress: None,
        }
    }
}

impl Client {
    /// Uploads what `reader` gives to `path`, or to where a symbolic link there leads. The file becomes visible
    /// whole, in one step; when this is dropped or fails, nothing becomes visible.
    ///
    /// # Errors
    /// `Exists` with `replace: false`; `ClusterFull`; `Io` if the reader fails; outages are ridden out
    /// until nothing has moved for the data deadline. `UnknownOutcome` if the last answer was lost and what has
    /// the name then is not what was published: the text says what to do. `OldReceipt`, at once, if disks of the cluster came or
    /// went during the upload, and `SessionLost` if this client's session was lost meanwhile, since its machine slept or no
    /// metaserver was reached for long: nothing was published, and it is to be done again with a reader that begins anew.
    pub async fn publish(
        &self,
        path: &[u8],
        reader: impl AsyncRead + Send + Unpin,
        options: PublishOptions,
    ) -> Result<Attr> {
        let place = self.resolve_through(path).await?;
        let source = ReaderSource::new(reader);
        self.publish_at(place.parent.inode, &place.name, source, &options)
            .await
            .map_err(|error| error.context(shown(path)))
    }

    /// As [`Client::publish`], from any source, to a name in a directory.
    pub(crate) async fn publish_at(
        &self,
        parent: InodeId,
        name: &[u8],
        source: impl Source,
        options: &PublishOptions,
    ) -> Result<Attr> {
        let (contents, written) = self.upload(parent, source, options).await?;
        let published = self
            .publish_contents(parent, name, options, &contents)
            .await;
        let is_lost = any_lost(&written);
        // Until here the chunks were to be committed.
        drop(written);
        match published {
            Err(error) if error.code == Code::BadReceipt && is_lost => {
                Err(Error::new(Code::SessionLost, error.text))
            }
            Err(error) if error.code == Code::UnknownOutcome => {
                self.settle(parent, name, options, &contents, error).await
            }
            // No look at it: another one may have replaced it already.
            published => published,
        }
    }

    /// Makes durable what `source` gives; nobody sees it yet.
    async fn upload(
        &self,
        parent: InodeId,
        mut source: impl Source,
        options: &PublishOptions,
    ) -> Result<(Contents, Vec<Written>)> {
        let mut assembler = Assembler::new(self.shared.data.clone());
        let mut size = 0;
        let mut unnamed = None;
        while let Some(piece) = source.next().await? {
            let len = match piece {
                Piece::Data(bytes) => {
                    let len = bytes.len() as u64;
                    assembler.write(size, bytes).await?;
                    len
                }
                Piece::Zeros(len) => {
                    assembler.end_range().await?;
                    len
                }
            };
            size += len;
            if let Some(progress) = &options.progress {
                Progress::add(&progress.bytes, len);
            }
            if assembler.done_count() >= EXTENTS_AT_ONCE {
                let written = assembler.take_done();
                self.commit_aside(parent, options, &mut unnamed, written)
                    .await?;
            }
        }
        let rest = assembler.take().await?;
        if unnamed.is_none() && rest.len() <= EXTENTS_AT_ONCE {
            let Batch { extents, receipts } = Batch::of(&rest);
            let contents = Contents::Extents {
                size,
                extents,
                receipts,
            };
            return Ok((contents, rest));
        }
        self.commit_aside(parent, options, &mut unnamed, rest)
            .await?;
        let inode = unnamed.ok_or_else(|| Error::bug("no inode to publish"))?;
        let begun = Instant::now();
        let sized = self.commit_extents(inode, &[], Some(size), None).await;
        sized.map_err(|error| self.unseen(error, begun))?;
        Ok((Contents::Unnamed(inode), Vec::new()))
    }

    async fn publish_contents(
        &self,
        parent: InodeId,
        name: &[u8],
        options: &PublishOptions,
        contents: &Contents,
    ) -> Result<Attr> {
        let op = Op::Publish(Publish {
            parent,
            name: name.to_vec(),
            mode: options.mode,
            mtime: options.mtime,
            replace: options.replace,
            xattrs: options.xattrs.clone(),
            contents: contents.clone(),
        });
        match self.commit(op).await? {
            OpReply::Attr(attr) => Ok(attr),
            _ => Err(unexpected("attributes")),
        }
    }

    /// An error of what nobody sees before it is published: if it may have been done, that makes no difference.
    fn unseen(&self, mut error: Error, begun: Instant) -> Error {
        if error.code == Code::UnknownOutcome {
            error.code = match begun.elapsed() < self.shared.options.meta_deadline {
                true => Code::SessionLost,
                false => Code::Unreachable,
            };
        }
        error
    }

    /// Commits ranges to the inode without a name, which is made with the first.
    async fn commit_aside(
        &self,
        parent: InodeId,
        options: &PublishOptions,
        unnamed: &mut Option<InodeId>,
        written: Vec<Written>,
    ) -> Result<()> {
        let begun = Instant::now();
        let inode = match *unnamed {
            Some(inode) => inode,
            None => {
                let mode = options.mode;
                let op = Op::CreateUnnamed { parent, mode };
                let made = self.mutate(op).await;
                match made.map_err(|error| self.unseen(error, begun))? {
                    OpReply::Attr(attr) => *unnamed.insert(attr.inode),
                    _ => return Err(unexpected("attributes")),
                }
            }
        };
        for some in written.chunks(EXTENTS_AT_ONCE) {
            let begun = Instant::now();
            let committed = self.commit_extents(inode, some, None, None).await;
            committed.map_err(|error| self.unseen(error, begun))?;
        }
        Ok(())
    }

    /// Writes ranges into a file.
    pub(crate) async fn commit_extents(
        &self,
        inode: InodeId,
        written: &[Written],
        size: Option<u64>,
        mtime: Option<Nanos>,
    ) -> Result<Attr> {
        let Batch { extents, receipts } = Batch::of(written);
        let op = Op::CommitExtents {
            inode,
            extents,
            receipts,
            size,
            mtime,
        };
        match self.commit(op).await? {
            OpReply::Attr(attr) => Ok(attr),
            _ => Err(unexpected("attributes")),
        }
    }
}

/// Whether doing an upload again from the start can help: the session, or the members that
/// confirmed the chunks, are no more. Nothing was published then.
pub(crate) fn worth_repeating(error: &Error) -> bool {
    matches!(
        error.code,
        Code::OldReceipt | Code::BadReceipt | Code::SessionLost | Code::Stale
    )
}
