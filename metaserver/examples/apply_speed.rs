//! Measures applying and reading over RocksDB on one thread: `cargo run --release -p quarry-metaserver --example apply_speed`.

use quarry_common::ids::{
    ClusterId, InodeId, KeyNumber, PoolId, RequestNumber, ServerId, SessionId, Uid, Version,
};
use quarry_common::map::{FailureDomain, Pool, Redundancy};
use quarry_common::token::{Access, Capability, Key};
use quarry_common::wire::meta::{Caller, Op, Read, View};
use quarry_common::{Result, codec};
use quarry_metaserver::kv::{Kv, Rocks, RocksOptions};
use quarry_metaserver::raft::Apply;
use quarry_metaserver::raft::entry::{Entry, decode_answers};
use quarry_metaserver::state::apply::Machine;
use quarry_metaserver::state::command::{Action, Answer, Bootstrap, Command, Reply};
use quarry_metaserver::state::read::read;
use std::time::Instant;

const ENTRIES: u64 = 500;
const PER_ENTRY: u64 = 200;

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("quarry-apply-speed-{}", std::process::id()));
    let measured = measure(&dir);
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("{} is left: {error}", dir.display());
    }
    measured
}

fn measure(dir: &std::path::Path) -> Result<()> {
    let kv = Rocks::open(dir, RocksOptions::default())?;
    let machine = Machine::new();
    let apply = |time_us, actions: Vec<Action>| -> Result<Vec<Answer>> {
        let commands = actions
            .into_iter()
            .map(|action| {
                codec::encode(&Command {
                    seen: Version(0),
                    action,
                })
                .into()
            })
            .collect();
        let (batch, answers) = machine.apply(&kv, &Entry { time_us, commands }.encode())?;
        kv.write(&batch)?;
        decode_answers(&answers)?
            .iter()
            .map(|answer| codec::decode("an answer", answer))
            .collect()
    };
    let begin = Bootstrap {
        cluster: ClusterId([1; 16]),
        metaservers: vec![(ServerId(1), "127.0.0.1:7410".to_owned())],
        pool: (
            PoolId(1),
            Pool {
                name: "data".to_owned(),
                redundancy: Redundancy::Replicated {
                    replicas: 3,
                    min_members: 2,
                },
                failure_domain: FailureDomain::Host,
                pg_count: 64,
                chunk_len_max: 64 << 20,
                in_use: false,
                exceptions: Default::default(),
            },
        ),
        capability_key: Key {
            number: KeyNumber(1),
            secret: [1; 32],
        },
        users: vec![quarry_common::wire::meta::User {
            name: "ann".to_owned(),
            uid: Uid(1000),
            gids: Vec::new(),
            admin: true,
        }],
    };
    let open = Action::OpenSession {
        user: "ann".to_owned(),
        certificate: [0; 32],
    };
    let mut answers = apply(1, vec![Action::Bootstrap(begin), open])?;
    let session = match answers.remove(1)? {
        Reply::Session(session) => session,
        _ => SessionId::NONE,
    };
    let caller = Caller {
        uid: Uid(0),
        gids: Vec::new(),
        superuser: true,
    };

    let mut number = 0;
    let mut refused = 0;
    let started = Instant::now();
    for entry in 0..ENTRIES {
        let actions = (0..PER_ENTRY)
            .map(|_| {
                number += 1;
                Action::Mutate {
                    session,
                    number: RequestNumber(number),
                    answered_below: RequestNumber(number.saturating_sub(PER_ENTRY)),
                    caller: caller.clone(),
                    op: Op::Create {
                        parent: InodeId::ROOT,
                        name: format!("file-{number:08}").into_bytes(),
                        mode: 0o644,
                        exclusive: true,
                    },
                }
            })
            .collect();
        refused += apply(1_000_000 + entry, actions)?
            .iter()
            .filter(|answer| answer.is_err())
            .count();
    }
    report("creates", ENTRIES * PER_ENTRY, started);
    println!("{refused} refused");

    let key = Key {
        number: KeyNumber(1),
        secret: [1; 32],
    };
    let capability =
        |pool, chunk| Capability::issue(&key, &[0; 32], Access::Read, pool, chunk..=chunk, 1);
    let view = kv.view();
    let hot = |at: u64| InodeId(16 + at % 10_000);
    for round in ["stats, first", "stats, hot"] {
        let started = Instant::now();
        for at in 0..200_000 {
            let what = Read::Stat {
                view: View::Live,
                inodes: vec![hot(at)],
            };
            read(&*view, &caller, &what, &capability)?;
        }
        report(round, 200_000, started);
    }
    let started = Instant::now();
    for at in 1..=100_000 {
        let path = format!("/file-{:08}", 1 + at % 10_000).into_bytes();
        let what = Read::Resolve {
            view: View::Live,
            base: InodeId::ROOT,
            path,
            follow: true,
        };
        read(&*view, &caller, &what, &capability)?;
    }
    report("resolves of one name", 100_000, started);
    let started = Instant::now();
    let mut after = None;
    let mut entries = 0;
    loop {
        let what = Read::List {
            view: View::Live,
            dir: InodeId::ROOT,
            after,
            limit: 4096,
            with_attrs: true,
        };
        let quarry_common::wire::meta::ReadReply::Page(page) =
            read(&*view, &caller, &what, &capability)?
        else {
            break;
        };
        entries += page.entries.len() as u64;
        after = page.entries.last().map(|entry| entry.name.clone());
        if !page.more {
            break;
        }
    }
    report("entries listed with attributes", entries, started);
    Ok(())
}

fn report(what: &str, count: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what}: {:.0}/s, {:.1} µs each",
        count as f64 / seconds,
        seconds * 1e6 / count as f64
    );
}
