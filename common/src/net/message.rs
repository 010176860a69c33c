//! Messages on bulk streams: `u16` little-endian length, then bincode (see [`crate::wire::data`]).

use super::bulk::{BulkReader, BulkWriter};
use crate::codec;
use crate::error::{Error, Result};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

impl BulkWriter {
    /// Writes one message.
    ///
    /// # Errors
    /// `Disconnected`: the stream broke. `Bug`: the message is longer than its length can say.
    pub async fn write_message<T: Serialize>(&mut self, message: &T) -> Result<()> {
        let body = codec::encode(message);
        let len = u16::try_from(body.len()).map_err(|_| {
            Error::bug(format!(
                "a message of {} bytes on a bulk stream",
                body.len()
            ))
        })?;
        let mut bytes = Vec::with_capacity(2 + body.len());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&body);
        self.write(Bytes::from(bytes)).await
    }
}

impl BulkReader {
    /// The next message, or `None` at the end of the stream; `what` names it in errors. Not cancel-safe.
    ///
    /// # Errors
    /// `Disconnected`: the stream broke. `Malformed`: it ended within the message, or is nonsense.
    pub async fn read_message<T: DeserializeOwned>(&mut self, what: &str) -> Result<Option<T>> {
        let Some(len) = self.read_small_or_end(2).await? else {
            return Ok(None);
        };
        let len = usize::from(u16::from_le_bytes([len[0], len[1]]));
        let body = self.read_small(len).await?;
        codec::decode(what, &body).map(Some)
    }
}
