//! `quarry locate`.

use crate::context::Context;
use crate::path::{Remote, put_json};
use crate::table::Table;
use anyhow::Result;
use quarry_client::{Located, Place, ReplicaAt};
use quarry_common::wire::data::ReplicaState;
use serde_json::{Map, Value, json};
use std::ffi::OsString;

/// Show where the bytes of a file are: every extent, its chunk, placement group and replicas
///
/// Each member of the placement group is asked what it has.
#[derive(Debug, clap::Args)]
pub struct Locate {
    /// A file of the cluster
    file: OsString,
}

impl Locate {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let path = Remote::parse(&self.file)?;
        let locate = async |client: &quarry_client::Client| Ok(client.locate(path.bytes()).await?);
        let extents = context.with_client(locate).await?;
        if context.json {
            let mut object = Map::new();
            put_json(&mut object, "path", path.bytes());
            object.insert("extents".into(), extents.iter().map(extent_json).collect());
            return context.print_json(&Value::Object(object));
        }
        context.print(&format!("{}\n{}", path.shown(), text(&extents)))
    }
}

fn text(extents: &[Located]) -> String {
    let mut table = Table::new(
        &[
            "offset", "bytes", "chunk", "at", "group", "epoch", "replica",
        ],
        &[0, 1, 3],
    );
    for extent in extents {
        let place = [extent.offset.to_string(), extent.len.to_string()];
        let mut row = place.to_vec();
        match &extent.at {
            Place::Inline => row.push("in the metadata".into()),
            Place::Hole => row.push("a hole: zeros, no space".into()),
            Place::Chunk {
                pool,
                chunk,
                chunk_offset,
                pg,
                pg_epoch,
                replicas,
                ..
            } => {
                row.extend([
                    chunk.to_string(),
                    chunk_offset.to_string(),
                    format!("{pool}.{pg}"),
                    pg_epoch.to_string(),
                ]);
                let mut lines = replicas.iter().map(replica_text);
                row.push(
                    lines
                        .next()
                        .unwrap_or_else(|| "none: no disk has it".into()),
                );
                table.row(row);
                for line in lines {
                    let mut row = vec![String::new(); 6];
                    row.push(line);
                    table.row(row);
                }
                continue;
            }
        }
        table.row(row);
    }
    table.text()
}

fn replica_text(replica: &ReplicaAt) -> String {
    format!(
        "disk {} on {} ({}), {}: {}",
        replica.disk,
        replica.host,
        replica.address,
        replica.role,
        state(replica)
    )
}

/// What the dataserver says of its replica.
fn state(replica: &ReplicaAt) -> String {
    match &replica.info {
        Ok(Some(info)) => format!(
            "{}, {} bytes, crc {:08x}",
            state_word(info.state),
            info.len,
            info.crc.0
        ),
        Ok(None) => "does not have it".into(),
        Err(error) => format!("does not answer ({error})"),
    }
}

fn state_word(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Open => "open",
        ReplicaState::Sealed => "sealed",
        ReplicaState::SetAside => "damaged, set aside",
    }
}

fn extent_json(extent: &Located) -> Value {
    let mut object = Map::new();
    object.insert("offset".into(), extent.offset.into());
    object.insert("len".into(), extent.len.into());
    match &extent.at {
        Place::Inline => object.insert("kind".into(), "inline".into()),
        Place::Hole => object.insert("kind".into(), "hole".into()),
        Place::Chunk {
            pool,
            chunk,
            chunk_offset,
            chunk_len,
            pg,
            pg_epoch,
            replicas,
        } => {
            let fields = json!({
                "kind": "chunk",
                "pool": pool,
                "chunk": chunk.to_string(),
                "chunk_offset": chunk_offset,
                "chunk_len": chunk_len,
                "pg": pg,
                "pg_epoch": pg_epoch,
                "replicas": replicas.iter().map(replica_json).collect::<Vec<_>>(),
            });
            if let Value::Object(fields) = fields {
                object.extend(fields);
            }
            None
        }
    };
    Value::Object(object)
}

fn replica_json(replica: &ReplicaAt) -> Value {
    let info = replica.info.as_ref().ok().copied().flatten();
    json!({
        "disk": replica.disk,
        "server": replica.server,
        "address": replica.address,
        "host": replica.host,
        "role": replica.role,
        "state": state(replica),
        "len": info.map(|info| info.len),
        "crc": info.map(|info| info.crc.0),
        "sealed": info.map(|info| info.state == ReplicaState::Sealed),
    })
}
