//! Collection on the leader: its own pass over what lost its references, and what dataservers ask of it (DESIGN §5.4).
//!
//! There is no soft state to lose: what is doomed, and which disks have deleted it, stands in the state.

use super::caller::Peer;
use super::{Serving, lookup};
use crate::raft::blocking;
use crate::state::collect::{self, ChunkPage, Standing};
use crate::state::command::{Action, Reply};
use crate::state::keys::SystemKey;
use crate::state::session::OpenRanges;
use quarry_common::ids::{ChunkId, DiskId, Epoch, PoolId, Version};
use quarry_common::limits::COLLECT_CHUNKS_MAX;
use quarry_common::time::Nanos;
use quarry_common::wire::meta::MetaReply;
use quarry_common::{Code, Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// How often the leader looks for what lost its references: removed data is not waited for.
const EVERY: Duration = Duration::from_secs(5);

/// Dooms what is to be doomed, for ever. An error ends a pass, and the next one begins anew.
pub async fn collect(serving: Arc<Serving>) {
    let mut swept_at = Epoch::ZERO;
    loop {
        tokio::time::sleep(EVERY).await;
        if !serving.consensus.is_leader() {
            swept_at = Epoch::ZERO;
            continue;
        }
        if let Err(error) = pass(&serving, &mut swept_at).await {
            tracing::warn!(%error, "a pass of collection was given up");
        }
    }
}

async fn pass(serving: &Serving, swept_at: &mut Epoch) -> Result<()> {
    let mut from = None;
    loop {
        let page = blocking(|| candidates(serving, from))?;
        serving.doom(page.chunks).await?;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    // A member's word forgets what it was the last to say. Only without any word, when a member that was waited
    // for has left, is there something to look for.
    let epoch = serving.map().epoch;
    while epoch > *swept_at {
        let page = blocking(|| collect::forgettable(&*serving.kv.view(), &serving.map(), from))?;
        serving.gone(None, page.chunks).await?;
        from = page.next;
        if from.is_none() {
            *swept_at = epoch;
        }
    }
    Ok(())
}

/// A page of what lost its references and nobody may commit any more, as far as can be seen from here: both are looked
/// at again when the command is applied.
fn candidates(serving: &Serving, from: Option<(PoolId, ChunkId)>) -> Result<ChunkPage> {
    let view = serving.kv.view();
    let mut page = collect::unreferenced(&*view, from)?;
    let (map, open) = (serving.map(), OpenRanges::of(&*view));
    let mut kept = Vec::new();
    for (pool, chunk) in page.chunks {
        if collect::standing(&map.topology, &open, pool, chunk)? == Standing::Nobodys {
            kept.push((pool, chunk));
        }
    }
    page.chunks = kept;
    Ok(page)
}

impl Serving {
    async fn doom(&self, chunks: Vec<(PoolId, ChunkId)>) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        match self
            .propose(Version::default(), Action::Doom(chunks))
            .await?
        {
            Reply::Doomed(0) => Ok(()),
            Reply::Doomed(count) => {
                tracing::info!(count, "chunks are doomed");
                Ok(())
            }
            other => Err(Error::bug(format!("a doom was answered with {other:?}"))),
        }
    }

    async fn gone(&self, disk: Option<DiskId>, chunks: Vec<(PoolId, ChunkId)>) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let action = Action::Gone { disk, chunks };
        self.propose(Version::default(), action).await.map(drop)
    }

    /// A dataserver speaks for its own disks alone, and of so many chunks.
    fn check_disk(&self, peer: &Peer, disk: DiskId, chunks: usize) -> Result<()> {
        let server = peer.dataserver()?;
        if chunks > COLLECT_CHUNKS_MAX {
            let text = format!("{chunks} chunks at once, {COLLECT_CHUNKS_MAX} are the most");
            return Err(Error::malformed(text));
        }
        match self.map().topology.disks.get(&disk) {
            Some(found) if found.server == server => Ok(()),
            _ => {
                let text = format!("disk {disk} is none of dataserver {server}'s");
                Err(Error::new(Code::NotMember, text))
            }
        }
    }

    /// `Due`: what a disk is to delete now.
    pub(super) async fn due(
        &self,
        peer: &Peer,
        disk: DiskId,
        from: Option<(PoolId, ChunkId)>,
    ) -> Result<MetaReply> {
        self.check_disk(peer, disk, 0)?;
        self.consensus.read_barrier().await?;
        let grace = u64::try_from(self.settings.doom_grace.as_micros()).unwrap_or(u64::MAX);
        let until = Version(Nanos::now().micros().saturating_sub(grace));
        let page = collect::due(&*self.kv.view(), &self.map(), disk, until, from)?;
        Ok(reply(page))
    }

    /// `Gone`: a disk does not have these.
    pub(super) async fn note_gone(
        &self,
        peer: &Peer,
        disk: DiskId,
        chunks: Vec<(PoolId, ChunkId)>,
    ) -> Result<MetaReply> {
        self.check_disk(peer, disk, chunks.len())?;
        self.gone(Some(disk), chunks).await?;
        Ok(MetaReply::Noted)
    }

    /// `Has`: a disk tells what it has. What is nobody's is doomed; of that, a disk without a part in the
    /// group, from which nobody reads, is to delete it now, and the others when it is due.
    pub(super) async fn handle_has(
        &self,
        peer: &Peer,
        disk: DiskId,
        chunks: Vec<(PoolId, ChunkId)>,
    ) -> Result<MetaReply> {
        self.check_disk(peer, disk, chunks.len())?;
        self.consensus.read_barrier().await?;
        let nobodys = blocking(|| self.standing_of(&chunks, Standing::Nobodys))?;
        self.doom(nobodys).await?;
        let map = self.map();
        let mut doomed = blocking(|| self.standing_of(&chunks, Standing::Doomed))?;
        doomed.retain(|(pool, chunk)| {
            map.locate(*pool, *chunk)
                .is_ok_and(|(_, row)| !collect::has_part(row, disk))
        });
        Ok(reply(ChunkPage {
            chunks: doomed,
            next: None,
        }))
    }

    /// Those of `chunks` that stand so.
    fn standing_of(
        &self,
        chunks: &[(PoolId, ChunkId)],
        wanted: Standing,
    ) -> Result<Vec<(PoolId, ChunkId)>> {
        let view = self.kv.view();
        let (map, open) = (self.map(), OpenRanges::of(&*view));
        let mut found = Vec::new();
        for (pool, chunk) in chunks {
            if collect::standing(&map.topology, &open, *pool, *chunk)? == wanted {
                found.push((*pool, *chunk));
            }
        }
        Ok(found)
    }

    /// How many chunks wait for their deletion.
    pub(super) fn doomed_chunks(&self) -> Result<u64> {
        lookup::number(&*self.kv, SystemKey::DoomedChunks)
    }
}

fn reply(page: ChunkPage) -> MetaReply {
    MetaReply::Due {
        chunks: page.chunks,
        next: page.next,
    }
}
