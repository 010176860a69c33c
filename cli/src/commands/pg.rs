//! `quarry pg`.

use crate::context::Context;
use crate::table::Table;
use anyhow::Result;
use clap::Subcommand;
use quarry_common::ids::{DiskId, PoolId};
use quarry_common::map::{EpochRange, Holder, MemberState};
use quarry_common::wire::meta::PgStatus;
use serde_json::{Value, json};

/// Placement groups
#[derive(Debug, clap::Args)]
pub struct Pg {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List placement groups with their members
    List {
        /// Of this pool only
        #[arg(long)]
        pool: Option<PoolId>,
        /// Only those that are not clean: their members are not what they should be, or not complete
        #[arg(long)]
        unclean: bool,
    },
}

impl Pg {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let Action::List { pool, unclean } = self.action;
        let found = context
            .ask(async |client| {
                let pools = match pool {
                    Some(pool) => vec![pool],
                    None => client.map().topology.pools.keys().copied().collect(),
                };
                let mut found = Vec::new();
                for pool in pools {
                    let groups = client.all_pgs(pool).await?.into_iter();
                    let wanted = groups.filter(|group| !(unclean && group.clean));
                    found.extend(wanted.map(|group| (pool, group)));
                }
                Ok(found)
            })
            .await?;
        match context.json {
            true => context.print_json(&found.iter().map(json).collect()),
            false => context.print(&text(&found)),
        }
    }
}

fn holder_text(holder: &Holder) -> String {
    let range = |range: &EpochRange| format!("{}-{}", range.first, range.last);
    let covers: Vec<String> = holder.covers.iter().map(range).collect();
    format!("{} ({})", holder.disk, covers.join(" "))
}

type Position = Option<(DiskId, MemberState)>;

fn word(state: MemberState) -> &'static str {
    match state {
        MemberState::Filling => "filling",
        MemberState::Complete => "complete",
    }
}

fn member_text(position: &Position) -> String {
    match position {
        None => "empty".into(),
        Some((disk, MemberState::Complete)) => disk.to_string(),
        Some((disk, state)) => format!("{disk} ({})", word(*state)),
    }
}

fn text(found: &[(PoolId, PgStatus)]) -> String {
    let head = [
        "group",
        "state",
        "epoch",
        "disks, head first",
        "holders (epochs)",
    ];
    let mut table = Table::new(&head, &[0, 2]);
    for (pool, group) in found {
        let members: Vec<String> = group.members.iter().map(member_text).collect();
        table.row(vec![
            format!("{pool}.{}", group.pg),
            if group.clean { "clean" } else { "unclean" }.into(),
            group.epoch.to_string(),
            members.join(" "),
            group
                .holders
                .iter()
                .map(holder_text)
                .collect::<Vec<_>>()
                .join(" "),
        ]);
    }
    table.text()
}

fn json((pool, group): &(PoolId, PgStatus)) -> Value {
    let member = |position: &Position| match position {
        None => Value::Null,
        Some((disk, state)) => json!({ "disk": disk, "state": word(*state) }),
    };
    let range = |range: &EpochRange| json!([range.first, range.last]);
    let holder = |holder: &Holder| {
        json!({
            "disk": holder.disk,
            "covers": holder.covers.iter().map(range).collect::<Vec<_>>(),
        })
    };
    json!({
        "pool": pool,
        "pg": group.pg,
        "epoch": group.epoch,
        "clean": group.clean,
        "members": group.members.iter().map(member).collect::<Vec<_>>(),
        "holders": group.holders.iter().map(holder).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{Epoch, PgId};

    #[test]
    fn empty_positions_filling_members_and_holders_are_named() {
        let group = PgStatus {
            pg: PgId(7),
            epoch: Epoch(3),
            members: vec![
                Some((DiskId(1), MemberState::Complete)),
                None,
                Some((DiskId(2), MemberState::Filling)),
            ],
            clean: false,
            holders: vec![Holder {
                disk: DiskId(9),
                covers: vec![
                    EpochRange {
                        first: Epoch(0),
                        last: Epoch(4),
                    },
                    EpochRange {
                        first: Epoch(6),
                        last: Epoch(6),
                    },
                ],
            }],
        };
        let found = (PoolId(1), group);
        assert!(text(std::slice::from_ref(&found)).contains("1 empty 2 (filling)"));
        assert!(text(std::slice::from_ref(&found)).contains("9 (0-4 6-6)"));
        let value = json(&found);
        assert_eq!(value["members"][1], Value::Null);
        assert_eq!(value["members"][2]["state"], "filling");
        assert_eq!(value["holders"][0]["covers"][1], json!([6, 6]));
    }
}
