//! What is told where no metaserver leads: soon, and of each of them whether it answers.

use crate::table::Table;
use anyhow::Result;
use quarry_client::{Asked, ClientFile, RollCall, Says};
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;

/// After so long without an answer each metaserver is asked whether it is there. An election takes a second or two.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// Too few metaservers answer for one of them to lead.
#[derive(Debug)]
pub struct Leaderless(pub RollCall);

impl fmt::Display for Leaderless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no metaserver leads: {}", self.0.verdict())
    }
}

impl std::error::Error for Leaderless {}

/// Does what shows how a cluster is, for which nobody waits a minute: it ends as soon as too few metaservers answer for
/// one to lead. While enough do it goes on, since they will elect one.
///
/// # Errors
/// [`Leaderless`]; those of `work`.
pub async fn or_leaderless<T>(
    file: &ClientFile,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let missing = async {
        loop {
            tokio::time::sleep(PATIENCE).await;
            let called = RollCall::of(file).await?;
            if !called.has_majority() {
                return Ok::<_, anyhow::Error>(called);
            }
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        called = missing => Err(Leaderless(called?).into()),
    }
}

fn role(asked: &Asked) -> String {
    match &asked.says {
        _ if asked.is_removed => "was removed".to_owned(),
        Says::Leads => "leads".to_owned(),
        Says::Follows(None) => "answers, does not lead".to_owned(),
        Says::Follows(Some(leader)) => format!("answers, takes {leader} for the leader"),
        Says::Nothing(_) => "does not answer".to_owned(),
    }
}

/// Why it does not answer; its name stands beside.
fn why(asked: &Asked) -> Option<&str> {
    let Says::Nothing(error) = &asked.says else {
        return None;
    };
    if asked.is_removed {
        return None;
    }
    let named = error.text.split_once(&asked.address);
    let after = named.and_then(|(_, after)| after.strip_prefix(": "));
    Some(after.unwrap_or(&error.text))
}

/// The error with which a command ends: where nobody leads that is shown first.
#[cfg(feature = "servers")]
pub fn shown(context: &crate::context::Context, error: anyhow::Error) -> anyhow::Error {
    let Some(nobody) = error.downcast_ref::<Leaderless>() else {
        return error;
    };
    let shown = match context.json {
        true => context.print_json(&nobody.json()),
        false => context.print(&nobody.text()),
    };
    shown
        .err()
        .unwrap_or_else(|| crate::failure::Reported.into())
}

impl Leaderless {
    /// The verdict, and all that were asked.
    pub fn text(&self) -> String {
        let mut table = Table::new(&["metaserver", "address", "role", ""], &[0]);
        for asked in &self.0.0 {
            table.row(vec![
                asked.server.to_string(),
                asked.address.clone(),
                role(asked),
                why(asked).unwrap_or_default().to_owned(),
            ]);
        }
        format!("{self}\n\n{}", table.text())
    }

    /// All that were asked.
    pub fn json(&self) -> Value {
        let one = |asked: &Asked| {
            json!({
                "server": asked.server,
                "address": asked.address,
                "role": role(asked),
                "votes": !asked.is_removed,
                "leads": matches!(asked.says, Says::Leads),
                "answers": asked.answers(),
                "why": why(asked),
            })
        };
        self.0.0.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::ServerId;
    use quarry_common::{Code, Error};

    #[test]
    fn each_metaserver_is_shown_with_what_it_says() {
        let silent = |why| Says::Nothing(Error::new(Code::Unreachable, why));
        let says = [
            silent("connect to metaserver/1 at meta-1:7410: nothing listens there"),
            silent("it is late"),
            Says::Follows(None),
            silent("it is gone"),
        ];
        let asked = says.into_iter().zip(1..).map(|(says, id)| Asked {
            server: ServerId(id),
            address: format!("meta-{id}:7410"),
            says,
            is_removed: id == 4,
        });
        let nobody = Leaderless(RollCall(asked.collect()));
        let text = nobody.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("1 of 3 metaservers answers"), "{text}");
        assert!(lines[0].contains("start metaserver 1 or 2"), "{text}");
        assert!(
            lines[3].ends_with("does not answer         nothing listens there"),
            "{text}"
        );
        assert!(lines[4].ends_with("it is late"), "{text}");
        assert!(lines[5].contains("answers, does not lead"), "{text}");
        assert!(lines[6].trim_end().ends_with("was removed"), "{text}");
        let json = nobody.json();
        assert_eq!(json[0]["answers"], false);
        assert_eq!(json[2]["answers"], true);
        assert_eq!(json[2]["leads"], false);
    }
}
