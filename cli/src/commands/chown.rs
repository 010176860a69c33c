//! `quarry chown`.

use super::for_each;
use crate::context::Context;
use crate::failure::Misuse;
use crate::path::{Remote, escaped};
use crate::walk::walk;
use anyhow::{Result, bail};
use quarry_client::Client;
use quarry_common::ids::{Gid, Uid};
use quarry_common::wire::meta::{Attr, FileKind, SetAttr};
use std::ffi::OsString;

/// Change the owner, the group, or both
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Chown {
    /// Directories with all that is in them
    #[arg(short = 'R', long)]
    recursive: bool,
    /// A symbolic link itself, not what it leads to
    #[arg(short = 'h', long)]
    no_dereference: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// OWNER, OWNER:GROUP or :GROUP; an owner is a number or a user of the cluster, a group a number
    #[arg(value_name = "OWNER[:GROUP]")]
    owner: String,
    /// Files of the cluster
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<OsString>,
}

impl Chown {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        let (owner, group) = split(&self.owner)?;
        context
            .with_client(async |client| {
                let uid = match &owner {
                    None => None,
                    Some(Owner::Number(uid)) => Some(*uid),
                    Some(Owner::Name(name)) => Some(uid_of(client, name).await?),
                };
                let set = SetAttr {
                    uid,
                    gid: group,
                    ..SetAttr::default()
                };
                let change = async |path: &[u8], attr: &Attr| {
                    let done = client.set_attr_inode(attr.inode, set.clone()).await;
                    done.map(drop)
                        .map_err(|error| error.context(escaped(path)).into())
                };
                for_each(context, &paths, async |path| {
                    let attr = match self.no_dereference {
                        true => client.lstat(path.bytes()).await?,
                        false => client.stat(path.bytes()).await?,
                    };
                    change(path.bytes(), &attr).await?;
                    match self.recursive && attr.kind == FileKind::Directory {
                        true => walk(context, client, path.bytes(), attr.inode, &change).await,
                        false => Ok(()),
                    }
                })
                .await
            })
            .await
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Number(Uid),
    Name(String),
}

fn split(text: &str) -> Result<(Option<Owner>, Option<Gid>)> {
    let (owner, group) = text.split_once(':').unwrap_or((text, ""));
    let owner = match (owner, owner.parse()) {
        ("", _) => None,
        (_, Ok(uid)) => Some(Owner::Number(uid)),
        (name, Err(_)) => Some(Owner::Name(name.to_owned())),
    };
    let group = match (group, group.parse()) {
        ("", _) => None,
        (_, Ok(gid)) => Some(gid),
        (name, Err(_)) => {
            return Err(Misuse::new(format!(
                "'{name}' is no group: groups of a cluster are numbers"
            ))
            .into());
        }
    };
    if owner.is_none() && group.is_none() {
        return Err(Misuse::new(format!(
            "'{text}' names neither owner nor group: 1000, anna:100 and :100 do"
        ))
        .into());
    }
    Ok((owner, group))
}

async fn uid_of(client: &Client, name: &str) -> Result<Uid> {
    match client
        .users()
        .await?
        .into_iter()
        .find(|user| user.name == name)
    {
        Some(user) => Ok(user.uid),
        None => bail!("the cluster has no user '{name}': 'quarry user list' shows who there is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_group_are_told_apart() {
        assert_eq!(
            split("1000").unwrap(),
            (Some(Owner::Number(Uid(1000))), None)
        );
        assert_eq!(
            split("anna:100").unwrap(),
            (Some(Owner::Name("anna".into())), Some(Gid(100)))
        );
        assert_eq!(split(":100").unwrap(), (None, Some(Gid(100))));
        assert!(split(":").is_err() && split("1:staff").is_err());
    }
}
