//! What the library promises of reads past the network, on a cluster in memory with faults.

#[allow(dead_code)]
mod fake;

use fake::Fake;
use quarry_client::{Client, Options, PublishOptions};
use quarry_common::ids::DiskId;

const MIB: usize = 1 << 20;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 7) >> 5) as u8 | 1).collect()
}

/// A client on the host of server 1, in a cluster of three where each disk has every chunk.
async fn cluster() -> (Fake, Client) {
    let fake = Fake::new(3);
    let client = fake.client_with(on_host("host-1")).await;
    (fake, client)
}

fn on_host(host: &str) -> Options {
    Options {
        host: Some(host.into()),
        ..Options::default()
    }
}

async fn publish(client: &Client, len: usize) {
    let (bytes, options) = (content(len), PublishOptions::default());
    client.publish(b"/file", &bytes[..], options).await.unwrap();
}

async fn read(client: &Client) -> quarry_common::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    client.read_to(b"/file", &mut bytes, None, None).await?;
    Ok(bytes)
}

/// Reads over the network from all disks.
fn network_reads(fake: &Fake) -> u32 {
    fake.state().reads.values().sum()
}

#[tokio::test]
async fn a_large_file_on_this_host_is_read_from_its_chunk_files_with_a_ticket_a_chunk() {
    let (fake, client) = cluster().await;
    for len in [300_000, 3 * MIB + 1, 64 * MIB + 70_000, 66 * MIB + 9] {
        publish(&client, len).await;
        fake.state().tickets.clear();
        let before = client.same_host_len();
        for _ in 0..2 {
            assert!(read(&client).await.unwrap() == content(len), "{len}");
        }
        // A tail that is shorter than a small read is not worth a ticket.
        let tail = len % (64 * MIB);
        let by_file = if tail == 70_000 { len - tail } else { len };
        assert_eq!(client.same_host_len() - before, 2 * by_file as u64, "{len}");
        let tickets = fake.state().tickets.clone();
        assert_eq!(tickets.len(), by_file.div_ceil(64 * MIB), "{tickets:?}");
        assert!(tickets.iter().all(|(disk, _)| *disk == DiskId(1)));
    }
}

#[tokio::test]
async fn any_range_of_a_file_is_read_right() {
    let (fake, client) = cluster().await;
    let bytes = content(5 * MIB + 7);
    publish(&client, bytes.len()).await;
    for range in [
        0..5 * MIB + 7,
        0..1,
        65_535..65_537,
        70_000..70_002,
        65_536..131_072,
        1_000_000..4_000_001,
        MIB - 1..3 * MIB + 1,
        5 * MIB + 6..5 * MIB + 7,
    ] {
        let mut part = Vec::new();
        let wanted = Some(range.start as u64..range.end as u64);
        let done = client.read_to(b"/file", &mut part, wanted, None).await;
        done.unwrap();
        assert!(part == bytes[range.clone()], "{range:?}");
    }
    // The file was open by then, so that small reads took it as well.
    assert_eq!(network_reads(&fake), 0);
}

#[tokio::test]
async fn a_small_read_and_a_small_chunk_cost_no_ticket() {
    let (fake, client) = cluster().await;
    publish(&client, 5 * MIB).await;
    let mut part = Vec::new();
    let range = Some(1_000..5_000);
    let done = client.read_to(b"/file", &mut part, range, None).await;
    done.unwrap();
    assert!(part == content(5_000)[1_000..]);
    publish(&client, 65_536).await;
    assert!(read(&client).await.unwrap() == content(65_536));
    assert_eq!(fake.state().tickets.len(), 0);
    assert_eq!(client.same_host_len(), 0);
}

#[tokio::test]
async fn who_is_on_no_host_of_the_cluster_or_does_not_want_it_reads_over_the_network() {
    let off = Options {
        same_host_reads: false,
        ..on_host("host-1")
    };
    for options in [on_host("elsewhere"), off] {
        let fake = Fake::new(3);
        let client = fake.client_with(options).await;
        publish(&client, 3 * MIB).await;
        assert!(read(&client).await.unwrap() == content(3 * MIB));
        assert_eq!(fake.state().tickets.len(), 0);
        assert_eq!(client.same_host_len(), 0);
    }
}

#[tokio::test]
async fn without_a_socket_all_is_read_over_the_network_and_not_asked_for_again_at_once() {
    let (fake, client) = cluster().await;
    publish(&client, 40 * MIB).await;
    fake.state().faults.no_files = true;
    for _ in 0..2 {
        assert!(read(&client).await.unwrap() == content(40 * MIB));
    }
    assert_eq!(client.same_host_len(), 0);
    assert_eq!(fake.state().tickets.len(), 1);
}

#[tokio::test]
async fn a_flipped_bit_or_a_short_file_makes_the_reader_take_another_replica() {
    for short in [false, true] {
        let (fake, client) = cluster().await;
        publish(&client, 3 * MIB + 5).await;
        let disk = [DiskId(1)].into();
        match short {
            true => fake.state().faults.short_files = disk,
            false => fake.state().faults.bad_files = disk,
        }
        assert!(read(&client).await.unwrap() == content(3 * MIB + 5));
        assert!(client.same_host_len() > 0, "it was not tried");
        let state = fake.state();
        assert!(!state.reads.contains_key(&DiskId(1)), "it was asked again");
    }
}

#[tokio::test]
async fn a_bad_file_of_the_only_replica_does_not_fail_what_the_network_can_read() {
    let (fake, client) = cluster().await;
    publish(&client, 3 * MIB).await;
    fake.state().faults.bad_files = [DiskId(1)].into();
    fake.state()
        .chunks
        .retain(|(disk, _), _| *disk == DiskId(1));
    assert!(read(&client).await.unwrap() == content(3 * MIB));
    assert!(fake.state().reads[&DiskId(1)] > 0);
}

#[tokio::test]
async fn a_file_that_is_whole_in_itself_and_is_not_the_chunk_is_not_read() {
    let (fake, client) = cluster().await;
    publish(&client, 3 * MIB).await;
    for ((disk, _), bytes) in &mut fake.state().chunks {
        // Its checksums will be right all the same.
        bytes[2 * MIB] ^= u8::from(*disk == DiskId(1));
    }
    assert!(read(&client).await.unwrap() == content(3 * MIB));
    assert_eq!(client.same_host_len(), 0);
}

#[tokio::test]
async fn a_file_that_is_open_is_read_on_after_its_chunk_was_deleted() {
    let (fake, client) = cluster().await;
    publish(&client, 3 * MIB).await;
    assert!(read(&client).await.unwrap() == content(3 * MIB));
    fake.state().chunks.clear();
    assert!(read(&client).await.unwrap() == content(3 * MIB));
}
