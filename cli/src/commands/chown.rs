//! `quarry chown`.

use super::for_each;
use crate::context::Context;
use crate::failure::Misuse;
use crate::path::{Remote, escaped};
use crate::walk::walk;
use anyhow::{Result, bail};
use quarry_client::Client;
use quarry_common::ids::{Gid, Uid};
use quarry_common::wire::meta::{Attr, FileKind, SetAttr, User};
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
    /// OWNER, OWNER:GROUP or :GROUP; an owner is a number or a user of the cluster, a group a number.
    /// 'anna:' is anna and her group
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
                let mut set = SetAttr::default();
                if let Some(Group::Number(gid)) = group {
                    set.gid = Some(gid);
                }
                match &owner {
                    None => {}
                    Some(Owner::Number(uid)) => set.uid = Some(*uid),
                    Some(Owner::Name(name)) => {
                        let user = user_of(client, name).await?;
                        set.uid = Some(user.uid);
                        if group == Some(Group::OfOwner) {
                            set.gid = user.gids.first().copied();
                        }
                    }
                }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Number(Gid),
    /// That of the owner's new files.
    OfOwner,
}

fn split(text: &str) -> Result<(Option<Owner>, Option<Group>)> {
    let wrong = |what: String| Err(Misuse::new(what).into());
    let (owner, group) = match text.split_once(':') {
        Some((owner, group)) => (owner, Some(group)),
        None => (text, None),
    };
    let owner = match (owner, owner.parse()) {
        ("", _) => None,
        // In chown(2) it means that the owner stays.
        (_, Ok(Uid(u32::MAX))) => {
            return wrong(format!("'{owner}' is no user: it stands for none"));
        }
        (_, Ok(uid)) => Some(Owner::Number(uid)),
        (name, Err(_)) => Some(Owner::Name(name.to_owned())),
    };
    let group = match (group, &owner) {
        (None, Some(_)) => None,
        (Some(""), Some(Owner::Name(_))) => Some(Group::OfOwner),
        (Some(""), Some(Owner::Number(_))) => {
            return wrong(format!(
                "'{text}' names no group, and a number has none of its own: 1000, 1000:100 and anna: do"
            ));
        }
        (None | Some(""), None) => {
            return wrong(format!(
                "'{text}' names neither owner nor group: 1000, anna:100 and :100 do"
            ));
        }
        (Some(name), _) => match name.parse() {
            Ok(Gid(u32::MAX)) => {
                return wrong(format!("'{name}' is no group: it stands for none"));
            }
            Ok(gid) => Some(Group::Number(gid)),
            Err(_) => {
                return wrong(format!(
                    "'{name}' is no group: groups of a cluster are numbers"
                ));
            }
        },
    };
    Ok((owner, group))
}

async fn user_of(client: &Client, name: &str) -> Result<User> {
    let mut users = client.users().await?.into_iter();
    match users.find(|user| user.name == name) {
        Some(user) => Ok(user),
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
            (
                Some(Owner::Name("anna".into())),
                Some(Group::Number(Gid(100)))
            )
        );
        assert_eq!(
            split("anna:").unwrap(),
            (Some(Owner::Name("anna".into())), Some(Group::OfOwner))
        );
        assert_eq!(
            split(":100").unwrap(),
            (None, Some(Group::Number(Gid(100))))
        );
        for (bad, said) in [
            ("", "neither owner nor group"),
            (":", "neither owner nor group"),
            ("1:staff", "'staff' is no group"),
            ("4294967295", "'4294967295' is no user"),
            ("1:4294967295", "'4294967295' is no group"),
            ("5:", "'5:' names no group"),
        ] {
            let error = split(bad).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
