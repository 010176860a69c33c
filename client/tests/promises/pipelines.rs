//! Writes while dataservers are refused, fail, give up or are full.

use super::*;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_dataserver_that_is_refused_is_a_failure_of_its_disks_only() {
    let fake = Fake::new(6);
    let client = fake.client().await;
    fake.state().faults.refused = [ServerId(1), ServerId(2)].into();
    for len in [1_000, MIB] {
        for _ in 0..8 {
            publish(&client, b"/file", &content(len)).await.unwrap();
            assert!(read(&client, b"/file").await.unwrap() == content(len));
        }
    }
    // Where all are, something is wrong with us.
    fake.state().faults.refused = (1..=6).map(ServerId).collect();
    let error = publish(&client, b"/file", &content(MIB)).await.unwrap_err();
    assert_eq!(error.code, Code::Configuration, "{error}");
}

#[tokio::test]
async fn a_failing_member_costs_a_new_chunk_and_no_byte() {
    let fake = Fake::new(6);
    let client = fake.client().await;
    fake.state().faults.fails_after.insert(DiskId(1), 20 << 20);
    fake.state().faults.fails_after.insert(DiskId(2), 100_000);
    let bytes = content(70 * MIB);
    publish(&client, b"/file", &bytes).await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
    for len in [1_000, 60_000, 200_000] {
        publish(&client, b"/small", &content(len)).await.unwrap();
        assert!(read(&client, b"/small").await.unwrap() == content(len));
    }
    // The metaserver hears of it.
    let suspects = fake.state().meta.suspects.clone();
    let killed = |server: &ServerId| [1, 2].contains(&server.0);
    assert!(
        !suspects.is_empty() && suspects.iter().all(killed),
        "{suspects:?}"
    );
}

#[tokio::test]
async fn a_head_that_is_gone_is_reported_also_after_it_acknowledged_something() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.breaks_after = (1..=3).map(|disk| (DiskId(disk), 20 << 20)).collect();
    let bytes = content(30 * MIB);
    publish(&client, b"/file", &bytes).await.unwrap();
    assert_eq!(fake.state().write_streams, 2, "a prefix was kept");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.state().meta.suspects.len(), 1);
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test]
async fn where_every_stream_breaks_soon_the_bytes_get_through_in_small_steps() {
    let fake = Fake::new(3);
    let deadline = Duration::from_secs(3);
    let client = fake.client_with(Options {
        data_deadline: deadline,
        ..Options::default()
    });
    let client = client.await;
    fake.state().faults.breaks_after = (1..=3).map(|disk| (DiskId(disk), 200_000)).collect();
    let bytes = content(MIB);
    publish(&client, b"/file", &bytes).await.unwrap();
    // The first one breaks with nothing acknowledged, the second one too, and then each brings 128 KiB.
    assert!(fake.state().write_streams > 8);
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test]
async fn an_outage_in_the_middle_of_a_transfer_is_ridden_out() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.cut = true;
    let healed = fake.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        healed.state().faults.cut = false;
    });
    publish(&client, b"/file", &content(3 * MIB)).await.unwrap();
    fake.state().faults.cut = true;
    let healed = fake.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        healed.state().faults.cut = false;
    });
    assert!(read(&client, b"/file").await.unwrap() == content(3 * MIB));
}

#[tokio::test]
async fn the_time_for_trouble_runs_from_the_first_failure_and_not_from_the_start_of_a_slow_upload()
{
    let fake = Fake::new(6);
    let deadline = Duration::from_secs(1);
    let client = fake.client_with(Options {
        data_deadline: deadline,
        ..Options::default()
    });
    let client = client.await;
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    let bytes = content(4 * MIB);
    writer.write_all(&bytes[..2 * MIB]).await.unwrap();
    tokio::time::sleep(deadline * 3 / 2).await;
    fake.state().faults.fails_after = (1..=6).map(|disk| (DiskId(disk), 0)).collect();
    writer.write_all(&bytes[2 * MIB..]).await.unwrap();
    drop(writer);
    let streams = fake.state().write_streams;
    while fake.state().write_streams == streams && !upload.is_finished() {
        tokio::task::yield_now().await;
    }
    fake.state().faults.fails_after.clear();
    upload.await.unwrap().unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_gives_a_silent_writer_up_is_not_reported() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.given_up_after = [Duration::from_secs(300)].into();
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    let bytes = content(4 * MIB);
    writer.write_all(&bytes[..3 * MIB]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(310)).await;
    writer.write_all(&bytes[3 * MIB..]).await.unwrap();
    drop(writer);
    upload.await.unwrap().unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
    assert_eq!(fake.state().write_streams, 2, "it was given up once");
    assert!(fake.state().meta.suspects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_did_all_it_was_asked_for_ends_a_row_of_failures() {
    let fake = Fake::new(6);
    let deadline = Duration::from_millis(300);
    let client = fake.client_with(Options {
        data_deadline: deadline,
        ..Options::default()
    });
    let client = client.await;
    fake.state().faults.given_up_after = [Duration::from_secs(30); 2].into();
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    let bytes = content(4 * MIB);
    writer.write_all(&bytes[..3 * MIB]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(fake.state().write_streams, 2);
    // Deadlines are of the real clock.
    std::thread::sleep(deadline);
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(fake.state().write_streams, 3);
    writer.write_all(&bytes[3 * MIB..]).await.unwrap();
    drop(writer);
    upload.await.unwrap().unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test]
async fn full_disks_are_avoided_and_a_full_cluster_says_so() {
    let fake = Fake::new(6);
    let client = fake.client().await;
    fake.state().faults.full.insert(DiskId(3));
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    let streams = fake.state().write_streams;
    for _ in 0..5 {
        publish(&client, b"/file", &content(MIB)).await.unwrap();
    }
    assert_eq!(
        fake.state().write_streams,
        streams + 5,
        "asked once, then avoided"
    );
    let small = fake.state().small_writes;
    fake.state().faults.full = [DiskId(5)].into();
    for _ in 0..20 {
        publish(&client, b"/small", &content(1000)).await.unwrap();
    }
    assert_eq!(
        fake.state().small_writes,
        small + 21,
        "asked once, then avoided"
    );
    let all = (1..=6).map(DiskId).collect();
    fake.state().faults.full = all;
    for len in [1000, MIB] {
        let error = publish(&client, b"/file", &content(len)).await.unwrap_err();
        assert_eq!(error.code, Code::ClusterFull, "{error}");
        assert!(error.text.contains("add disks"), "{error}");
    }
}

#[tokio::test]
async fn a_full_disk_that_can_be_read_is_still_avoided_by_writers() {
    let fake = Fake::new(4);
    let client = fake.client().await;
    publish(&client, b"/old", &content(MIB)).await.unwrap();
    let readers_disk = first_choice(&fake, &client, b"/old").await;
    fake.state().faults.full = [readers_disk].into();
    while fake.state().write_streams < 3 {
        publish(&client, b"/new", &content(MIB)).await.unwrap();
    }
    let streams = fake.state().write_streams;
    for _ in 0..8 {
        assert!(read(&client, b"/old").await.unwrap() == content(MIB));
        publish(&client, b"/new", &content(MIB)).await.unwrap();
    }
    assert_eq!(fake.state().write_streams, streams + 8);
}

#[tokio::test]
async fn a_refusal_counts_more_than_the_stream_that_broke_with_it() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.refusals_late = Duration::from_millis(500);
    fake.state().faults.full = (1..=3).map(DiskId).collect();
    let error = publish(&client, b"/file", &content(MIB)).await.unwrap_err();
    assert_eq!(error.code, Code::ClusterFull, "{error}");
    assert_eq!(fake.state().write_streams, 1);
}
