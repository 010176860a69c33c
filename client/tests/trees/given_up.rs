//! When the rest of a tree is given up, and when not.

use super::*;
use quarry_client::{Options, Told};
use quarry_common::ids::DiskId;
use quarry_common::wire::meta::Op;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A client that asks the metaservers for a tenth of a second only, and what was told of a transfer of it.
async fn impatient(fake: &Fake, jobs: usize) -> (Client, Arc<Transfer>, Arc<Mutex<Vec<Code>>>) {
    let client = fake.client_with(Options {
        meta_deadline: Duration::from_millis(100),
        ..Options::default()
    });
    let heard = Arc::new(Mutex::new(Vec::new()));
    let options = TreeOptions {
        jobs,
        ..TreeOptions::default()
    };
    let ears = heard.clone();
    let transfer = Transfer::new(options, Arc::default()).telling(move |told| match told {
        Told::Failed(_, error) => ears.lock().unwrap().push(error.code),
        other => panic!("{other:?}"),
    });
    (client.await, Arc::new(transfer), heard)
}

#[tokio::test]
async fn a_tree_is_given_up_when_nobody_answers_any_more() {
    let fake = Fake::new(3);
    let (client, transfer, heard) = impatient(&fake, 4).await;
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for number in 0..100 {
        let dir = from.join(format!("{}", number / 5));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{number}")), [1; 100]).unwrap();
    }
    let report = put_tree(&client, &from, b"/tree", &transfer).await.unwrap();
    assert_eq!((failed(&report), report.files), (vec![], 100));
    assert!(transfer.given_up().is_none());

    fake.state().faults.overloaded = u32::MAX;
    let begun = Instant::now();
    let report = put_tree(&client, &from, b"/tree", &transfer).await.unwrap();
    assert_eq!(report.files, 0);
    // Those of the directories that are asked for together, and that the rest was not tried.
    let count = report.failed.len();
    assert!((5..=20 + 6).contains(&count), "{report:?}");
    assert_eq!(heard.lock().unwrap().len(), count, "each was told");
    let (path, last) = report.failed.last().unwrap();
    assert_eq!((path, last.code), (&from, Code::Unreachable));
    assert!(last.text.contains("the rest was not tried"), "{last}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(transfer.given_up().is_some());

    fake.state().faults.overloaded = 0;
    let (client, transfer, heard) = impatient(&fake, 4).await;
    let to = folder.path().join("to");
    let (fetching, going) = (to.clone(), transfer.clone());
    let cut = fake.clone();
    let fetching = tokio::spawn(async move {
        let report = get_tree(&client, b"/tree", &fetching, &going);
        report.await.unwrap()
    });
    while transfer.progress().files.load(Ordering::Relaxed) < 10 {
        tokio::task::yield_now().await;
    }
    cut.state().faults.meta_cut = true;
    let report = fetching.await.unwrap();
    assert!((10..100).contains(&report.files), "{report:?}");
    let last = &report.failed.last().unwrap().1;
    assert!(last.text.contains("the rest was not tried"), "{last}");
    assert_eq!(heard.lock().unwrap().len(), report.failed.len());
    // What was made has its mode nevertheless.
    assert_eq!(
        to.metadata().unwrap().mode(),
        from.metadata().unwrap().mode()
    );
}

#[tokio::test]
async fn files_that_nobody_would_answer_for_are_not_begun_with() {
    let fake = Fake::new(3);
    let (client, transfer, heard) = impatient(&fake, 4).await;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..50 {
        std::fs::write(folder.path().join(format!("{number}")), "x").unwrap();
    }
    let is_silent = |op: &Op| matches!(op, Op::Publish(_)).then_some(Code::Unreachable);
    fake.state().faults.refuses = Some(Box::new(is_silent));
    let report = put_tree(&client, folder.path(), b"/tree", &transfer).await;
    let report = report.unwrap();
    // As many as there are jobs, those under way by then, and that the rest was not tried.
    assert!((5..=5 + 8).contains(&report.failed.len()), "{report:?}");
    assert_eq!(heard.lock().unwrap().len(), report.failed.len());
    let last = &report.failed.last().unwrap().1;
    assert!(last.text.contains("the rest was not tried"), "{last}");
}

#[tokio::test]
async fn who_is_silent_now_and_then_is_not_given_up() {
    let fake = Fake::new(3);
    let (client, transfer, _) = impatient(&fake, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, "x").unwrap();
    for is_silent in [true, false, true, false] {
        fake.state().faults.meta_cut = is_silent;
        let put = put_file(&client, &local, b"/file", &transfer).await;
        assert_eq!(put.is_err(), is_silent);
        assert_eq!(transfer.given_up(), None);
    }
}

#[tokio::test]
async fn a_tree_is_given_up_when_the_cluster_is_full_and_what_is_there_gets_its_mode() {
    let fake = Fake::new(3);
    let (client, transfer, heard) = impatient(&fake, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for number in 0..50 {
        std::fs::write(from.join(format!("{number}")), [1; 1_000]).unwrap();
    }
    std::fs::set_permissions(&from, Permissions::from_mode(0o555)).unwrap();
    fake.state().faults.full = (1..=3).map(DiskId).collect();
    let report = put_tree(&client, &from, b"/tree", &transfer).await.unwrap();
    assert!(report.failed.len() < 10, "{report:?}");
    assert_eq!(heard.lock().unwrap().len(), report.failed.len());
    let (path, last) = report.failed.last().unwrap();
    assert_eq!((path, last.code), (&from, Code::ClusterFull));
    assert!(last.text.contains("the rest was not tried"), "{last}");
    assert_eq!(client.stat(b"/tree").await.unwrap().mode, 0o555);
}

/// Each question to nobody takes its time.
#[tokio::test]
async fn nobody_is_asked_once_for_each_directory_or_name_who_does_not_answer() {
    const COUNT: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let [directories, deep, names] = ["dirs", "deep", "names"].map(|at| folder.path().join(at));
    for number in 0..COUNT {
        std::fs::create_dir_all(directories.join(format!("{number}"))).unwrap();
        std::fs::create_dir_all(deep.join(format!("{number}/below"))).unwrap();
    }
    std::fs::create_dir(&names).unwrap();
    std::fs::write(names.join("0"), "x").unwrap();
    for number in 1..COUNT {
        std::fs::hard_link(names.join("0"), names.join(format!("{number}"))).unwrap();
    }
    type Silence = fn(&Op) -> bool;
    let silences: [(&Path, Silence); 4] = [
        (&directories, |op| matches!(op, Op::Mkdir { .. })),
        (
            &deep,
            |op| matches!(op, Op::Mkdir { name, .. } if name == b"below"),
        ),
        (&directories, |op| matches!(op, Op::SetAttr { .. })),
        (&names, |op| matches!(op, Op::Link { .. })),
    ];
    for (from, is_silent) in silences {
        let fake = Fake::new(3);
        let (client, transfer, heard) = impatient(&fake, 4).await;
        client.mkdir(b"/tree", 0o755).await.unwrap();
        fake.state().faults.refuses = Some(Box::new(move |op| {
            let any = match op {
                Op::List { ops, .. } => ops.iter().any(is_silent),
                op => is_silent(op),
            };
            any.then_some(Code::Overloaded)
        }));
        let begun = Instant::now();
        let report = put_tree(&client, from, b"/tree", &transfer).await.unwrap();
        let took = begun.elapsed();
        assert!(!report.failed.is_empty());
        assert_eq!(heard.lock().unwrap().len(), report.failed.len());
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}
