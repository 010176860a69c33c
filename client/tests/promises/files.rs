//! Files of all shapes read back as they were written, and a handle says what became of its bytes.

use super::*;
use bytes::Bytes;
use quarry_client::Place;
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

#[tokio::test]
async fn files_of_all_lengths_read_back_as_they_were_written() {
    let client = Fake::new(5).client().await;
    for len in [
        0,
        1,
        256,
        257,
        65_536,
        65_537,
        3 * MIB + 1,
        64 * MIB + 9,
        66 * MIB,
    ] {
        let bytes = content(len);
        publish(&client, b"/file", &bytes).await.unwrap();
        assert_eq!(client.stat(b"/file").await.unwrap().size, len as u64);
        assert!(read(&client, b"/file").await.unwrap() == bytes, "{len}");
    }
}

#[tokio::test]
async fn a_range_of_a_file_is_read_without_the_rest() {
    let client = Fake::new(3).client().await;
    let bytes = content(5 * MIB);
    publish(&client, b"/file", &bytes).await.unwrap();
    for range in [
        0..1u64,
        70_000..70_001,
        1_000_000..4_000_000,
        5_242_879..9_999_999,
    ] {
        let mut part = Vec::new();
        let wanted = Some(range.clone());
        client
            .read_to(b"/file", &mut part, wanted, None)
            .await
            .unwrap();
        let end = (range.end as usize).min(bytes.len());
        assert!(part == bytes[range.start as usize..end], "{range:?}");
    }
}

#[tokio::test]
async fn runs_of_zeros_are_holes_and_read_as_zeros() {
    let client = Fake::new(3).client().await;
    let mut bytes = content(MIB);
    bytes.resize(10 * MIB, 0);
    bytes.extend(content(100));
    bytes.resize(15 * MIB, 0);
    publish(&client, b"/sparse", &bytes).await.unwrap();
    assert!(read(&client, b"/sparse").await.unwrap() == bytes);
    let located = client.locate(b"/sparse").await.unwrap();
    let holes = located
        .iter()
        .filter(|range| matches!(range.at, Place::Hole));
    assert!(holes.map(|hole| hole.len).sum::<u64>() >= 13 * MIB as u64);
    assert_eq!(
        located.iter().map(|range| range.len).sum::<u64>(),
        bytes.len() as u64
    );
}

#[tokio::test]
async fn a_file_of_more_extents_than_one_command_takes_appears_whole() {
    let client = Fake::new(3).client().await;
    let mut bytes = Vec::new();
    for _ in 0..600 {
        bytes.extend(content(65_536));
        bytes.resize(bytes.len() + 65_536, 0);
    }
    publish(&client, b"/many", &bytes).await.unwrap();
    assert!(read(&client, b"/many").await.unwrap() == bytes);
}

#[tokio::test]
async fn a_log_of_short_records_is_read_without_a_task_for_each() {
    let client = Fake::new(3).client().await;
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await.unwrap();
    for _ in 0..2_000 {
        file.append(Bytes::from_static(b"a record\n"))
            .await
            .unwrap();
    }
    let (mut all, mut polls) = (Vec::new(), 0);
    let mut reading = std::pin::pin!(client.read_to(b"/log", &mut all, None, None));
    let read = std::future::poll_fn(|context| {
        polls += 1;
        reading.as_mut().poll(context)
    });
    assert_eq!(read.await.unwrap(), 18_000);
    // Who waits for a task is polled again.
    assert!(polls < 5, "{polls}");
}

#[tokio::test]
async fn few_of_many_short_records_are_asked_for_at_a_time() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await.unwrap();
    for _ in 0..300 {
        file.append(content(1_000).into()).await.unwrap();
    }
    let long = Duration::from_secs(1);
    fake.state().faults.slow = (1..=3).map(|disk| (DiskId(disk), long)).collect();
    let mut all = Vec::new();
    let reading = client.read_to(b"/log", &mut all, None, None);
    let read = tokio::time::timeout(Duration::from_millis(200), reading);
    read.await.unwrap_err();
    let asked: u32 = fake.state().reads.values().sum();
    assert!((1..=130).contains(&asked), "{asked}");
}

#[tokio::test]
async fn nothing_is_visible_of_an_upload_that_was_dropped_in_the_middle() {
    let client = Fake::new(3).client().await;
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    writer.write_all(&content(70 * MIB)).await.unwrap();
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    let error = client.stat(b"/file").await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[tokio::test]
async fn a_handle_reads_what_it_wrote_and_others_see_it_after_sync() {
    let client = Fake::new(3).client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    let mut model = vec![0; 3 * MIB];
    // The fake keeps whole extents by their start: overlaps are the metaserver's business.
    for (at, len) in [(0, 100), (100, 2 * MIB), (2_500_000, 600_000)] {
        let bytes = content(len);
        model[at..at + len].copy_from_slice(&bytes);
        file.write_at(at as u64, bytes.into()).await.unwrap();
        let read = file.read_at(at as u64, len).await.unwrap();
        assert!(read[..] == model[at..at + len]);
    }
    file.sync().await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == model[..3_100_000]);
    file.set_len(10).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 10);
    file.close().await.unwrap();
}

#[tokio::test]
async fn a_file_is_a_stream_with_a_position() {
    let client = Fake::new(3).client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    let bytes = content(5 * MIB + 77);
    file.write_all(&bytes).await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(file.seek(SeekFrom::End(-77)).await.unwrap(), 5 * MIB as u64);
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).await.unwrap();
    assert!(tail == bytes[5 * MIB..]);
    file.seek(SeekFrom::Start(0)).await.unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).await.unwrap();
    assert!(all == bytes);
}

#[tokio::test]
async fn close_reports_a_write_that_failed() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    fake.state().faults.full = (1..=3).map(DiskId).collect();
    file.write_at(0, content(1_000).into()).await.unwrap();
    let error = file.close().await.unwrap_err();
    assert_eq!(error.code, Code::ClusterFull);
    assert!(error.text.contains("/file"), "{error}");
}

#[tokio::test]
async fn a_stream_takes_no_bytes_that_can_not_be_written() {
    let client = Fake::new(3).client().await;
    publish(&client, b"/file", b"there").await.unwrap();
    let mut file = client.open(b"/file", OpenOptions::reading()).await.unwrap();
    let error = file.write_all(b"lost").await.unwrap_err();
    assert!(
        error.to_string().contains("not opened for writing"),
        "{error}"
    );
    file.close().await.unwrap();
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    let end = quarry_common::limits::FILE_LEN_MAX;
    file.seek(SeekFrom::Start(end)).await.unwrap();
    let error = file.write_all(b"lost").await.unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    file.close().await.unwrap();
    assert_eq!(read(&client, b"/file").await.unwrap(), b"");
}

#[tokio::test]
async fn a_sync_that_nobody_waits_for_any_more_goes_on() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    file.write_at(0, content(1_000).into()).await.unwrap();
    tokio::select! {
        biased;
        _ = file.sync() => panic!("it was not to be done at the first look"),
        () = std::future::ready(()) => {}
    }
    file.write_at(1_000, content(10).into()).await.unwrap();
    file.close().await.unwrap();
    let mut expected = content(1_000);
    expected.extend(content(10));
    assert_eq!(read(&client, b"/file").await.unwrap(), expected);
}
