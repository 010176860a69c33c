//! The servers of a development cluster: their names, how each is, and what can be done to it.

use super::home::{Home, Plan};
use crate::table::Table;
use quarry_common::ids::ServerId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A server. Its text is its name: `meta-1`, `data-3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// A metaserver.
    Meta(ServerId),
    /// A dataserver.
    Data(ServerId),
}

impl Server {
    /// All servers of a cluster and their addresses, in the order in which they start.
    pub fn all(plan: &Plan) -> Vec<(Server, String)> {
        let metaservers = plan.metaservers().into_iter();
        let metaservers = metaservers.map(|(id, address)| (Server::Meta(id), address));
        let dataservers = plan.dataserver_addresses().into_iter();
        let dataservers = dataservers.map(|(id, address)| (Server::Data(id), address));
        metaservers.chain(dataservers).collect()
    }

    /// Its number.
    pub fn id(self) -> ServerId {
        match self {
            Server::Meta(id) | Server::Data(id) => id,
        }
    }

    /// Where the log of its process is.
    pub fn log(self, home: &Home) -> PathBuf {
        home.dir().join(format!("{self}.log"))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Meta(id) => write!(f, "meta-{id}"),
            Server::Data(id) => write!(f, "data-{id}"),
        }
    }
}

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its process runs and has not said yet that it is ready.
    Starting,
    /// It serves.
    Running,
    /// Its process is stopped (SIGSTOP) and holds on to everything.
    Paused,
    /// It has no process.
    Dead,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Dead => "dead",
        })
    }
}

/// A server as `quarry dev status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its number.
    pub server: ServerId,
    /// Where it listens.
    pub address: String,
    /// Its process; of a cluster in one process, that one.
    pub pid: Option<u32>,
    /// How it is.
    pub state: State,
    /// How its last process ended, if it is dead.
    pub ended: Option<String>,
    /// The log of its process, if it has one of its own.
    pub log: Option<PathBuf>,
    /// Where in the log its last process began to write.
    pub log_from: u64,
}

/// What can be done to a server that is a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
    /// A new process on the same state.
    Start,
}

impl Action {
    /// Whether it can be done to a server in that state.
    ///
    /// # Errors
    /// The server's state and the remedy. `place` is `--dir DIR` for commands, with a space before.
    pub fn check(self, name: &str, state: State, place: &str) -> Result<(), String> {
        let start = format!("'quarry dev start {name}{place}' starts it again");
        let resume = format!("'quarry dev resume {name}{place}' lets it go on");
        Err(match (self, state) {
            (Action::Kill, State::Starting | State::Running | State::Paused)
            | (Action::Pause, State::Starting | State::Running)
            | (Action::Resume, State::Paused)
            | (Action::Start, State::Dead) => return Ok(()),
            (Action::Kill, State::Dead) => format!("{name} is dead already: {start}"),
            (Action::Pause | Action::Resume, State::Dead) => format!("{name} is dead: {start}"),
            (Action::Pause, State::Paused) => format!("{name} is paused already: {resume}"),
            (Action::Resume, State::Starting | State::Running) => {
                format!("{name} is {state}, not paused: there is nothing to resume")
            }
            (Action::Start, State::Paused) => format!("{name} is paused, not dead: {resume}"),
            (Action::Start, State::Starting | State::Running) => {
                format!("{name} is {state} already: there is nothing to start")
            }
        })
    }

    /// Whether it is done once the server is in that state.
    pub fn is_done(self, state: State) -> bool {
        match self {
            Action::Kill => state == State::Dead,
            Action::Pause => state == State::Paused,
            Action::Resume => matches!(state, State::Starting | State::Running),
            Action::Start => state == State::Running,
        }
    }
}

/// The table of `quarry dev status`.
pub fn text(servers: &[Seen]) -> String {
    let mut table = Table::new(&["name", "number", "address", "process", "state"], &[1, 3]);
    for server in servers {
        let state = match &server.ended {
            Some(how) => format!("{} ({how})", server.state),
            None => server.state.to_string(),
        };
        table.row(vec![
            server.name.clone(),
            server.server.to_string(),
            server.address.clone(),
            server.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            state,
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 4] = [Action::Kill, Action::Pause, Action::Resume, Action::Start];
    const STATES: [State; 4] = [State::Starting, State::Running, State::Paused, State::Dead];

    #[test]
    fn what_is_done_already_is_refused_and_what_is_refused_has_its_reason() {
        for action in ACTIONS {
            for state in STATES {
                let checked = action.check("data-3", state, " --dir /d");
                if action.is_done(state) {
                    assert!(checked.is_err(), "{action:?} of {state}");
                }
                let Err(text) = checked else { continue };
                let remedy = match state {
                    State::Dead => "quarry dev start data-3 --dir /d",
                    State::Paused => "quarry dev resume data-3 --dir /d",
                    State::Starting | State::Running => "nothing to",
                };
                let parts = ["data-3", &state.to_string(), remedy];
                assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            }
            let possible = STATES.map(|state| action.check("x", state, "").is_ok());
            let expected = match action {
                Action::Kill => [true, true, true, false],
                Action::Pause => [true, true, false, false],
                Action::Resume => [false, false, true, false],
                Action::Start => [false, false, false, true],
            };
            assert_eq!(possible, expected, "{action:?}");
        }
    }

    #[test]
    fn the_table_says_how_a_dead_server_ended() {
        let seen = |state, pid, ended: Option<&str>| Seen {
            name: "meta-2".into(),
            server: ServerId(2),
            address: "127.0.0.1:7".into(),
            pid,
            state,
            ended: ended.map(str::to_owned),
            log: None,
            log_from: 0,
        };
        let servers = [
            seen(State::Running, Some(12), None),
            seen(State::Dead, None, Some("exit status: 1")),
        ];
        let text = text(&servers);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("12  running"), "{text}");
        assert!(lines[2].contains("-  dead (exit status: 1)"), "{text}");
    }
}
