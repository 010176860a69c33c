//! `quarry xattr`.

use crate::context::Context;
use crate::path::{Remote, put_json};
use anyhow::Result;
use clap::Subcommand;
use quarry_common::wire::meta::XattrMode;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

/// Extended attributes: get, set, list, remove
#[derive(Debug, clap::Args)]
pub struct Xattr {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the value of an attribute to standard output, as it is
    Get {
        /// A file of the cluster
        file: OsString,
        /// As in user.colour
        name: OsString,
    },
    /// Set an attribute
    Set {
        /// A file of the cluster
        file: OsString,
        /// As in user.colour
        name: OsString,
        /// Up to 64 KiB
        value: OsString,
        /// Fail if it is there already
        #[arg(long, conflicts_with = "replace")]
        create: bool,
        /// Fail if it is not there
        #[arg(long)]
        replace: bool,
    },
    /// List the names of all attributes
    List {
        /// A file of the cluster
        file: OsString,
    },
    /// Remove an attribute
    Remove {
        /// A file of the cluster
        file: OsString,
        /// As in user.colour
        name: OsString,
    },
}

impl Xattr {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        match self.action {
            Action::Get { file, name } => {
                let path = Remote::parse(&file)?;
                let get = async |client: &quarry_client::Client| {
                    Ok(client.get_xattr(path.bytes(), name.as_bytes()).await?)
                };
                let value = context.with_client(get).await?;
                if context.json {
                    let mut object = Map::new();
                    put_json(&mut object, "name", name.as_bytes());
                    put_json(&mut object, "value", &value);
                    return context.print_json(&Value::Object(object));
                }
                let mut out = std::io::stdout().lock();
                out.write_all(&value)?;
                if context.terminal {
                    out.write_all(b"\n")?;
                }
                Ok(out.flush()?)
            }
            Action::Set {
                file,
                name,
                value,
                create,
                replace,
            } => {
                let path = Remote::parse(&file)?;
                let mode = match (create, replace) {
                    (true, _) => XattrMode::Create,
                    (false, true) => XattrMode::Replace,
                    (false, false) => XattrMode::Set,
                };
                context
                    .with_client(async |client| {
                        let (name, value) = (name.as_bytes(), value.as_bytes());
                        Ok(client.set_xattr(path.bytes(), name, value, mode).await?)
                    })
                    .await
            }
            Action::List { file } => {
                let path = Remote::parse(&file)?;
                let list = async |client: &quarry_client::Client| {
                    Ok(client.list_xattr(path.bytes()).await?)
                };
                let names = context.with_client(list).await?;
                if context.json {
                    let objects = names.iter().map(|name| {
                        let mut object = Map::new();
                        put_json(&mut object, "name", name);
                        Value::Object(object)
                    });
                    return context.print_json(&objects.collect());
                }
                let mut out = std::io::stdout().lock();
                for name in &names {
                    out.write_all(&context.name(name))?;
                    out.write_all(b"\n")?;
                }
                Ok(out.flush()?)
            }
            Action::Remove { file, name } => {
                let path = Remote::parse(&file)?;
                context
                    .with_client(async |client| {
                        Ok(client.remove_xattr(path.bytes(), name.as_bytes()).await?)
                    })
                    .await
            }
        }
    }
}
