//! `quarry user`.

use crate::context::Context;
use crate::table::Table;
use anyhow::{Context as _, Result, anyhow};
use clap::Subcommand;
use quarry_client::{Client, ClientFile};
use quarry_common::ids::{Gid, Uid};
use quarry_common::wire::meta::User as Account;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
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
        /// Where the client file goes, a file that is not there yet [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Issue a new client file to a user that there is
    ///
    /// For one that was lost, or whose certificate expires (it is valid for a year). The new file holds
    /// a new private key: give it to that user alone. The old one stays good until its certificate expires.
    Renew {
        /// As 'quarry user list' shows it
        name: String,
        /// Where the client file goes, a file that is not there yet [default: standard output]
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
    /// What the cluster says; the file is there already, or can not be written.
    pub async fn run(self, context: &Context) -> Result<()> {
        match self.action {
            Action::Add {
                name,
                uid,
                gids,
                admin,
                out,
            } => {
                let place = Place::reserve(out)?;
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
                place.fill(context, &file, "added")
            }
            Action::Renew { name, out } => {
                let place = Place::reserve(out)?;
                let renew = async |client: &Client| Ok(client.renew_user(&name).await?);
                let file = context.with_client(renew).await?;
                place.fill(context, &file, "renewed")
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

/// Where a client file will go. The file is made before the cluster is asked: a key that was issued and
/// could not be written would be lost. Unless it is filled it is removed again.
struct Place {
    /// `None`: standard output, or a file that was filled.
    path: Option<PathBuf>,
}

impl Place {
    fn reserve(path: Option<PathBuf>) -> Result<Place> {
        if let Some(path) = &path {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let mut file = OpenOptions::new();
            file.write(true).create_new(true).mode(0o600);
            let made = folder.map_or(Ok(()), std::fs::create_dir_all);
            made.and_then(|()| file.open(path)).map_err(|error| {
                let shown = path.display();
                // A file where a folder should be exists too.
                match std::fs::symlink_metadata(path).is_ok() {
                    true => anyhow!("{shown}: exists already: name another file with --out"),
                    false => anyhow!(
                        "{shown}: can not be written ({error}): name another file with --out"
                    ),
                }
            })?;
        }
        Ok(Place { path })
    }

    /// Writes the file and says so; `what` was done to the user.
    fn fill(mut self, context: &Context, file: &ClientFile, what: &str) -> Result<()> {
        let user = &file.user;
        let Some(path) = &self.path else {
            return context.print(&file.to_toml());
        };
        file.save(path).with_context(|| {
            format!("user {user} was {what} and has no client file: make one with 'quarry user renew {user} --out FILE'")
        })?;
        eprintln!("user {user} {what}; its client file is {}", path.display());
        self.path = None;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!("{} could not be removed: {error}", path.display());
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
    fn a_client_file_has_its_place_before_there_is_a_key() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/anna.toml");
        let reserve = || Place::reserve(Some(path.clone()));
        let refused = || reserve().err().unwrap().to_string();
        drop(reserve().unwrap());
        assert!(!path.exists(), "what the cluster refused leaves no file");
        let place = reserve().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(refused().contains("exists already"));
        let file = ClientFile {
            cluster: quarry_common::ids::ClusterId([1; 16]),
            metaservers: vec![],
            identity: "key".into(),
            user: "anna".into(),
        };
        let context = Context::new(None, false, "user");
        place.fill(&context, &file, "added").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), file.to_toml());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        let below_a_file = path.join("x.toml");
        let error = Place::reserve(Some(below_a_file)).err().unwrap();
        assert!(error.to_string().contains("can not be written"), "{error}");
    }

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
