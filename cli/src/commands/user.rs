//! `quarry user`.

use crate::context::Context;
use crate::table::Table;
use anyhow::{Result, bail};
use clap::Subcommand;
use quarry_client::Client;
use quarry_common::ids::{Gid, Uid};
use quarry_common::wire::meta::User as Account;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The first uid of people, as on Debian.
const FIRST_UID: u32 = 1000;

/// Users of the cluster
#[derive(Debug, clap::Args)]
pub struct User {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a user, make /home/NAME, and write the user's client file
    ///
    /// The client file holds the user's private key: give it to that user alone. The user puts it
    /// to ~/.config/quarry/client.toml.
    Add {
        /// 1 to 64 of A-Z a-z 0-9 . _ -
        name: String,
        /// The number that owns the user's files [default: that of the local account of this name,
        /// else the first that is free from 1000]
        #[arg(long)]
        uid: Option<Uid>,
        /// Groups; the first is that of new files [default: one with the number of the user]
        #[arg(long = "gid", value_name = "GID")]
        gids: Vec<Gid>,
        /// May do everything, also name other users' numbers in requests
        #[arg(long)]
        admin: bool,
        /// Where the client file goes [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List all users
    List,
}

impl User {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says; the file is there already.
    pub async fn run(self, context: &Context) -> Result<()> {
        match self.action {
            Action::Add {
                name,
                uid,
                gids,
                admin,
                out,
            } => {
                if let Some(out) = out.as_ref().filter(|out| out.exists()) {
                    bail!(
                        "{}: exists already: name another file with --out",
                        out.display()
                    );
                }
                let add = async |client: &Client| {
                    let uid = match uid {
                        Some(uid) => uid,
                        None => free_uid(&client.users().await?, &name),
                    };
                    let gids = match gids.is_empty() {
                        true => vec![Gid(uid.0)],
                        false => gids.clone(),
                    };
                    let account = Account {
                        name: name.clone(),
                        uid,
                        gids,
                        admin,
                    };
                    Ok(client.add_user(account).await?)
                };
                let file = context.with_client(add).await?;
                match out {
                    Some(out) => {
                        file.save(&out)?;
                        eprintln!("user {name} added; its client file is {}", out.display());
                        Ok(())
                    }
                    None => context.print(&file.to_toml()),
                }
            }
            Action::List => {
                let ask = async |client: &Client| Ok(client.users().await?);
                let users = context.with_client(ask).await?;
                match context.json {
                    true => context.print_json(&users.iter().map(json).collect()),
                    false => context.print(&text(&users)),
                }
            }
        }
    }
}

/// The uid of the local account of that name if nobody has it in the cluster, else the first
/// from 1000 on that is free.
fn free_uid(users: &[Account], name: &str) -> Uid {
    let taken = |uid: Uid| users.iter().any(|user| user.uid == uid);
    if let Some(uid) = crate::account::uid_of(name).filter(|uid| !taken(*uid)) {
        return uid;
    }
    let mut uid = Uid(FIRST_UID);
    while taken(uid) {
        uid.0 += 1;
    }
    uid
}

fn text(users: &[Account]) -> String {
    let mut table = Table::new(&["name", "uid", "gids", ""], &[1]);
    for user in users {
        let gids: Vec<String> = user.gids.iter().map(Gid::to_string).collect();
        table.row(vec![
            user.name.clone(),
            user.uid.to_string(),
            gids.join(","),
            if user.admin { "admin" } else { "" }.into(),
        ]);
    }
    table.text()
}

fn json(user: &Account) -> Value {
    json!({ "name": user.name, "uid": user.uid, "gids": user.gids, "admin": user.admin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_user_gets_a_number_that_nobody_has() {
        let user = |uid| Account {
            name: format!("u{uid}"),
            uid: Uid(uid),
            gids: vec![Gid(uid)],
            admin: false,
        };
        assert_eq!(free_uid(&[], "no-such-account"), Uid(1000));
        let users = [user(1000), user(1001), user(1003)];
        assert_eq!(free_uid(&users, "no-such-account"), Uid(1002));
        assert_eq!(free_uid(&users, "root"), Uid(0));
        assert_eq!(free_uid(&[user(0)], "root"), Uid(1000));
    }
}
