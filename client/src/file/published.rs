//! What was published without an answer: whether it is what has the name. To publish it again instead could
//! replace what another client published since.

use super::publish::PublishOptions;
use crate::client::Client;
use crate::meta::unexpected;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{ChunkId, FileOffset, InodeId};
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{
    Attr, Contents, Extent, ExtentSource, FileKind, NewExtent, Read, ReadReply, Source, View,
};

/// What has the name.
enum Found {
    Ours(Attr),
    Another,
    Nothing,
}

impl Client {
    /// Looks at what has the name after `error`.
    ///
    /// # Errors
    /// `UnknownOutcome` if it is not what was published; the text says what to do.
    pub(crate) async fn settle(
        &self,
        parent: InodeId,
        name: &[u8],
        options: &PublishOptions,
        contents: &Contents,
        error: Error,
    ) -> Result<Attr> {
        let advice = match self.find(parent, name, options, contents).await {
            Ok(Found::Ours(attr)) => return Ok(attr),
            Ok(Found::Another) => {
                "what has its name is another file, which may be newer: look at it before you store this one again"
                    .to_owned()
            }
            Ok(Found::Nothing) => "nothing has its name now: store it again".to_owned(),
            Err(failed) => {
                format!("look whether it is there before you store it again ({failed})")
            }
        };
        let text = format!(
            "whether it was stored is not known: {advice}: {}",
            error.text
        );
        Err(Error::new(Code::UnknownOutcome, text))
    }

    async fn find(
        &self,
        parent: InodeId,
        name: &[u8],
        options: &PublishOptions,
        contents: &Contents,
    ) -> Result<Found> {
        let attr = match self.lookup(parent, name).await {
            Err(error) if error.code == Code::NotFound => return Ok(Found::Nothing),
            found => found?,
        };
        if attr.kind != FileKind::File {
            return Ok(Found::Another);
        }
        let is_ours = match contents {
            Contents::Unnamed(inode) => attr.inode == *inode,
            Contents::Extents {
                size,
                extents,
                receipts,
            } => match first_chunk(extents, receipts) {
                // Only this upload wrote that chunk.
                Some((extent, chunk)) => {
                    let found = self.extents(attr.inode, extent.offset, extent.len).await?;
                    found.iter().any(|extent| chunk_of(extent) == Some(chunk))
                }
                // What is equal in everything is as good.
                None if is_like(&attr, *size, options) => {
                    let found = self.extents(attr.inode, FileOffset(0), *size).await?;
                    are_same(&found, extents)
                }
                None => false,
            },
        };
        Ok(match is_ours {
            true => Found::Ours(attr),
            false => Found::Another,
        })
    }

    /// The first extents of a range: as many as one command publishes fit an answer.
    async fn extents(&self, inode: InodeId, offset: FileOffset, len: u64) -> Result<Vec<Extent>> {
        let read = Read::Extents {
            view: View::Live,
            inode,
            offset,
            len,
        };
        match self.read(read).await? {
            ReadReply::Extents(page) => Ok(page.extents),
            _ => Err(unexpected("extents")),
        }
    }
}

fn first_chunk<'a>(
    extents: &'a [NewExtent],
    receipts: &[Receipt],
) -> Option<(&'a NewExtent, ChunkId)> {
    extents.iter().find_map(|extent| match extent.source {
        Source::Chunk { receipt, .. } => Some((extent, receipts.get(receipt as usize)?.chunk)),
        Source::Inline(_) | Source::Hole => None,
    })
}

fn chunk_of(extent: &Extent) -> Option<ChunkId> {
    match extent.source {
        ExtentSource::Chunk { chunk, .. } => Some(chunk),
        ExtentSource::Inline(_) => None,
    }
}

fn is_like(attr: &Attr, size: u64, options: &PublishOptions) -> bool {
    attr.size == size
        && attr.mode == options.mode
        && options.mtime.is_none_or(|mtime| mtime == attr.mtime)
        && attr.has_xattrs != options.xattrs.is_empty()
}

/// Whether all extents are inline, and the same.
fn are_same(found: &[Extent], published: &[NewExtent]) -> bool {
    let same = |(found, published): (&Extent, &NewExtent)| match (&found.source, &published.source)
    {
        (ExtentSource::Inline(found_bytes), Source::Inline(bytes)) => {
            found.offset == published.offset && found_bytes == bytes
        }
        _ => false,
    };
    found.len() == published.len() && found.iter().zip(published).all(same)
}
