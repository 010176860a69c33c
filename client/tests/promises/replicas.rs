//! Reads while replicas are bad, slow or dead.

use super::*;
use quarry_common::ids::Epoch;
use quarry_common::map::{EpochRange, Holder};

#[tokio::test]
async fn a_wrong_checksum_makes_the_reader_take_another_replica() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    for len in [5_000, 6 * MIB] {
        publish(&client, b"/file", &content(len)).await.unwrap();
        fake.state().faults.corrupt = [DiskId(1), DiskId(3)].into();
        assert!(read(&client, b"/file").await.unwrap() == content(len));
    }
    // Each disk that gave wrong bytes hears of it, and no other.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let told = fake.state().reported.clone();
    let told: Vec<DiskId> = told.into_iter().map(|(disk, _)| disk).collect();
    assert!(!told.is_empty() && !told.contains(&DiskId(2)), "{told:?}");
}

#[tokio::test]
async fn when_all_replicas_are_bad_the_error_names_the_file_and_each_disk() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/dir", 0o755).await.unwrap();
    for len in [5_000, 6 * MIB] {
        publish(&client, b"/dir/file", &content(len)).await.unwrap();
        fake.state().faults.corrupt = [DiskId(1), DiskId(3)].into();
        fake.state()
            .chunks
            .retain(|(disk, _), _| *disk != DiskId(2));
        let outcome = read(&client, b"/dir/file").await;
        let error = outcome.map(|bytes| bytes.len()).unwrap_err();
        assert_eq!(error.code, Code::Io);
        for word in [
            "/dir/file",
            "chunk c",
            "disk 1",
            "disk 2",
            "disk 3",
            "not here",
        ] {
            assert!(error.text.contains(word), "{word}: {error}");
        }
        fake.state().faults.corrupt.clear();
    }
}

#[tokio::test]
async fn a_slow_replica_does_not_hold_up_a_reader() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    publish(&client, b"/file", &content(10_000)).await.unwrap();
    let slow = (1..=2).map(|disk| (DiskId(disk), Duration::from_secs(3)));
    fake.state().faults.slow = slow.collect();
    let begun = Instant::now();
    assert!(read(&client, b"/file").await.unwrap() == content(10_000));
    assert!(
        begun.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_slow_replica_is_not_waited_for_at_each_read() {
    for len in [10_000, MIB] {
        let fake = Fake::new(3);
        let client = fake.client().await;
        publish(&client, b"/file", &content(len)).await.unwrap();
        let slow = first_choice(&fake, &client, b"/file").await;
        fake.state().faults.slow = [(slow, Duration::from_secs(3))].into();
        for _ in 0..20 {
            assert!(read(&client, b"/file").await.unwrap() == content(len));
        }
        let waited_for = fake.state().reads.get(&slow).copied().unwrap_or(0);
        assert!(waited_for < 10, "{waited_for} times");
        assert!(fake.state().meta.suspects.is_empty(), "it lives");
    }
}

#[tokio::test]
async fn a_dead_replica_is_remembered_and_reported_while_another_one_delivers() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    fake.state().faults.dead = [DiskId(1), DiskId(2)].into();
    for _ in 0..20 {
        assert!(read(&client, b"/file").await.unwrap() == content(MIB));
    }
    // They may be tried again after half a second.
    let tried: u32 = fake.state().reads.values().sum();
    assert!(tried < 20 + 12, "{tried}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let suspects = fake.state().meta.suspects.clone();
    let dead = |server: &ServerId| [1, 2].contains(&server.0);
    assert!(
        !suspects.is_empty() && suspects.iter().all(dead),
        "{suspects:?}"
    );
}

#[tokio::test]
async fn a_holder_that_never_had_a_chunk_is_asked_last_and_is_not_called_bad() {
    let fake = Fake::new(3);
    publish(&fake.client().await, b"/file", &content(5_000))
        .await
        .unwrap();
    // The first disk was away when the file was written.
    {
        let mut state = fake.state();
        state.map.epoch = Epoch(2);
        for row in state.map.rows.values_mut().flatten() {
            (row.epoch, row.changed_at) = (Epoch(2), Epoch(2));
            for member in &mut row.members {
                if member.is_some_and(|member| member.disk == DiskId(1)) {
                    *member = None;
                }
            }
            let (first, last) = (Epoch(0), Epoch(1));
            row.holders.push(Holder {
                disk: DiskId(1),
                covers: vec![EpochRange { first, last }],
            });
        }
        state.chunks.retain(|(disk, _), _| *disk != DiskId(1));
    }
    let client = fake.client().await;
    for _ in 0..5 {
        assert!(read(&client, b"/file").await.unwrap() == content(5_000));
    }
    assert_eq!(fake.state().reads.get(&DiskId(1)), None);
    // It is asked when the others are dead and late, and fails.
    fake.state().faults.dead = [DiskId(2)].into();
    fake.state().faults.slow = [(DiskId(3), Duration::from_secs(1))].into();
    for _ in 0..3 {
        assert!(read(&client, b"/file").await.unwrap() == content(5_000));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let state = fake.state();
    assert!(state.reads.contains_key(&DiskId(1)), "{:?}", state.reads);
    assert!(state.reported.is_empty(), "{:?}", state.reported);
}
