//! Links on which bytes come slowly, and those on which none come any more.

use super::*;

#[tokio::test(start_paused = true)]
async fn over_a_slow_link_no_byte_is_sent_twice_and_nobody_is_blamed() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    // A frame takes half a minute.
    fake.state().faults.stream_rate = Some(35_000);
    let bytes = content(3 * MIB + 5);
    publish(&client, b"/file", &bytes).await.unwrap();
    assert_eq!(fake.state().write_streams, 1);
    assert!(read(&client, b"/file").await.unwrap() == bytes);
    let reads: u32 = fake.state().reads.values().sum();
    assert_eq!(reads, 4, "one a unit");
    assert!(fake.state().meta.suspects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_is_awaited_while_bytes_flow_towards_it() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.acks_late = Duration::from_secs(50);
    fake.state().faults.link_rate = 100_000;
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    assert_eq!(fake.state().write_streams, 1);
    assert!(fake.state().meta.suspects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_acknowledges_nothing_is_given_up_however_busy_its_link_is() {
    for (link_rate, most) in [(0, 13), (100 << 20, 13), (100_000, 63)] {
        let fake = Fake::new(3);
        let client = fake.client().await;
        fake.state().faults.acks_late = Duration::from_secs(3_600);
        fake.state().faults.link_rate = link_rate;
        let begun = tokio::time::Instant::now();
        let uploading =
            tokio::spawn(async move { publish(&client, b"/file", &content(MIB)).await });
        while fake.state().write_streams < 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(most), "{took:?}");
        assert!(!fake.state().meta.suspects.is_empty());
        uploading.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_sends_no_more_is_left_for_another_one() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    fake.state().faults.stream_rate = Some(100_000);
    fake.state().faults.reads_hang_after = Some(30_000);
    let begun = tokio::time::Instant::now();
    let reading = tokio::spawn(async move { read(&client, b"/file").await });
    while fake.state().reads.values().sum::<u32>() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    reading.abort();
}
