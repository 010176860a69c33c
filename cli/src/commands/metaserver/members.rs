//! `quarry metaserver add`, `remove` and `status`.

use crate::address::{Address, METASERVER_PORT};
use crate::commands::status::role;
use crate::context::Context;
use crate::leaderless::shown;
use crate::server_folder::{MetaserverFiles, metaservers_toml};
use crate::table::Table;
use anyhow::{Result, bail};
use quarry_client::Client;
use quarry_common::ids::ServerId;
use quarry_common::wire::meta::MetaserverStatus;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Add {
    /// Where it will be reached; the port is 7410 if left out
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// A folder that is not there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Its number, as 'quarry metaserver status' shows it
    #[arg(value_name = "NUMBER", value_parser = number)]
    id: ServerId,
}

#[derive(Debug, clap::Args)]
pub struct Status {}

/// A metaserver by its number.
fn number(text: &str) -> Result<ServerId, String> {
    let number = text.parse().map(ServerId);
    number.map_err(|_| {
        format!("'{text}' is no number of a metaserver: 'quarry metaserver status' lists them")
    })
}

impl Add {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says; the folder is there already or can not be written.
    pub async fn run(self, context: &Context) -> Result<()> {
        let address = Address::parse(&self.address, METASERVER_PORT)?;
        // Before the cluster has invited one that has no folder then.
        if self.out.exists() {
            bail!(
                "{}: is there already: name another folder",
                self.out.display()
            );
        }
        // Names may be known where it runs, and not here.
        let unfound = tokio::net::lookup_host(address.text()).await.err();
        let ask = async |client: &Client| {
            let settings = client.settings().await?;
            Ok((client.add_metaserver(address.text()).await?, settings))
        };
        let (new, settings) = context.with_client(ask).await?;
        let files = MetaserverFiles {
            identity: &new.identity,
            authority: &new.authority,
            address: &address,
            seed: None,
            metaservers: &new.metaservers,
            doom_grace_seconds: Some(settings.doom_grace_seconds),
            out_after_seconds: Some(settings.out_after_seconds),
        };
        files.write(&self.out).map_err(|error| {
            error.context(format!(
                "metaserver {id} was invited and has no folder: remove it again with 'quarry metaserver remove {id}'",
                id = new.id
            ))
        })?;
        let dir = self.out.display();
        context.print(&format!(
            "metaserver {id} is invited; {dir} is its folder: copy it to its machine and run there\n  \
             quarry metaserver run --config metaserver.toml\n\
             'quarry metaserver status' shows when it votes\n",
            id = new.id
        ))?;
        if let Some(error) = unfound {
            eprintln!(
                "quarry: {}: warning: {} is not found from here ({error}): the other metaservers must find it; if it is wrong, \
                 'quarry metaserver remove {}' takes it back",
                context.command,
                address.text(),
                new.id
            );
        }
        Ok(())
    }
}

impl Remove {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let id = self.id;
        let ask = async |client: &Client| {
            client.remove_metaserver(id).await?;
            context.print(&format!(
                "metaserver {id} is removed: stop its process and remove its directory\n"
            ))?;
            Ok(client.metaservers().await?)
        };
        let left = context.with_client(ask).await?;
        let left = left.into_iter().filter(|metaserver| metaserver.votes);
        let left: Vec<_> = left.map(|there| (there.id, there.address)).collect();
        context.print(&format!(
            "a dataserver.toml that names none of those that are left is to be changed; a client says so itself:\n  \
             metaservers = {}\n",
            metaservers_toml(&left)
        ))
    }
}

impl Status {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let ask = async |client: &Client| Ok(client.metaservers().await?);
        let metaservers = context.ask(ask).await;
        let metaservers = metaservers.map_err(|error| shown(context, error))?;
        match context.json {
            true => context.print_json(&metaservers.iter().map(json).collect()),
            false => context.print(&text(&metaservers)),
        }
    }
}

/// Entries that it has still to apply, of those that the leader has.
fn lag(metaserver: &MetaserverStatus, all: &[MetaserverStatus]) -> Option<u64> {
    let applied = metaserver
        .standing
        .as_ref()?
        .applied
        .map_or(0, |last| last + 1);
    let leader = all.iter().find(|other| other.leads)?.standing.as_ref()?;
    Some(
        leader
            .last_log
            .map_or(0, |last| last + 1)
            .saturating_sub(applied),
    )
}

fn text(metaservers: &[MetaserverStatus]) -> String {
    let mut table = Table::new(
        &[
            "metaserver",
            "address",
            "role",
            "term",
            "last log",
            "applied",
            "lag",
            "snapshot",
        ],
        &[0, 3, 4, 5, 6, 7],
    );
    let shown = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    for metaserver in metaservers {
        let standing = metaserver.standing.as_ref();
        table.row(vec![
            metaserver.id.to_string(),
            metaserver.address.clone(),
            role(metaserver).to_owned(),
            shown(standing.map(|standing| standing.term)),
            shown(standing.and_then(|standing| standing.last_log)),
            shown(standing.and_then(|standing| standing.applied)),
            shown(lag(metaserver, metaservers)),
            shown(standing.and_then(|standing| standing.snapshot)),
        ]);
    }
    table.text()
}

fn json(metaserver: &MetaserverStatus) -> Value {
    let standing = metaserver.standing.as_ref();
    json!({
        "server": metaserver.id,
        "address": metaserver.address,
        "role": role(metaserver),
        "votes": metaserver.votes,
        "leads": metaserver.leads,
        "answers": standing.is_some(),
        "term": standing.map(|standing| standing.term),
        "last_log": standing.and_then(|standing| standing.last_log),
        "applied": standing.and_then(|standing| standing.applied),
        "snapshot": standing.and_then(|standing| standing.snapshot),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::wire::meta::Standing;

    fn metaserver(id: u32, standing: Option<Standing>) -> MetaserverStatus {
        MetaserverStatus {
            id: ServerId(id),
            address: format!("meta-{id}:7410"),
            votes: id != 3,
            leads: id == 1,
            standing,
        }
    }

    #[test]
    fn the_table_says_who_leads_who_lags_and_who_is_not_there() {
        let at = |last_log, applied| Standing {
            term: 4,
            last_log: Some(last_log),
            applied: Some(applied),
            snapshot: None,
            is_new: false,
        };
        let all = [
            metaserver(1, Some(at(120, 119))),
            metaserver(2, None),
            metaserver(3, Some(at(100, 95))),
        ];
        let text = text(&all);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("leads") && lines[1].contains("120"),
            "{text}"
        );
        assert!(lines[2].contains("does not answer"), "{text}");
        assert!(lines[3].contains("catches up"), "{text}");
        assert_eq!(lag(&all[0], &all), Some(1));
        assert_eq!(lag(&all[1], &all), None);
        assert_eq!(lag(&all[2], &all), Some(25));
    }
}
