//! Bulk streams.

use super::*;
use crate::error::Code;

async fn stream() -> (BulkWriter, BulkReader, Pair) {
    let pair = pair().await;
    let (send, _recv) = pair.ours.open(StreamType::WriteChunk).await.unwrap();
    let (kind, _, recv) = soon(pair.theirs.accept()).await.unwrap();
    assert_eq!(kind, StreamType::WriteChunk);
    (BulkWriter::new(send), BulkReader::new(recv), pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_data_come_out_as_they_went_in() {
    let (mut writer, mut reader, _pair) = stream().await;
    let data: Bytes = (0..3_000_000u32)
        .map(|i| ((i * 7) >> 5) as u8)
        .collect::<Vec<_>>()
        .into();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        for round in 0..5u32 {
            let head = Bytes::copy_from_slice(&round.to_le_bytes());
            let pieces = &mut [head, sent.slice(..1_000_001), sent.slice(1_000_001..)];
            writer.write_pieces(pieces).await.unwrap();
        }
        writer.finish().unwrap();
        writer.delivered().await.unwrap();
    });
    for round in 0..5u32 {
        let head = soon(reader.read_small(4)).await.unwrap();
        assert_eq!(head, round.to_le_bytes()[..]);
        let pieces = soon(reader.read_exact_pieces(data.len())).await.unwrap();
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        assert!(pieces.concat() == data);
    }
    assert_eq!(soon(reader.read_small_or_end(9)).await.unwrap(), None);
    soon(reader.read_end()).await.unwrap();
    soon(writing).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_ends_early_or_goes_on_is_malformed() {
    let (mut writer, mut reader, _pair) = stream().await;
    writer.write("abcdefgh".into()).await.unwrap();
    writer.finish().unwrap();
    assert_eq!(reader.read_small(2).await.unwrap(), "ab");
    assert_eq!(reader.read_end().await.unwrap_err().code, Code::Malformed);
    assert_eq!(
        reader.read_small_or_end(7).await.unwrap_err().code,
        Code::Malformed
    );
    let (mut writer, mut reader, _pair) = stream().await;
    writer.write("abc".into()).await.unwrap();
    writer.finish().unwrap();
    assert_eq!(
        reader.read_exact_pieces(4).await.unwrap_err().code,
        Code::Malformed
    );
    assert_eq!(
        reader.read_small(1 << 20).await.unwrap_err().code,
        Code::Bug
    );
}

#[tokio::test]
async fn a_message_has_golden_bytes() {
    let (mut writer, mut reader, _pair) = stream().await;
    let message = (7u8, vec![9u8; 255]);
    writer.write_message(&message).await.unwrap();
    writer.write_message(&message).await.unwrap();
    // Length, little-endian; the first number; the length of the list, in it.
    let head = soon(reader.read_small(6)).await.unwrap();
    assert_eq!(head[..], [3, 1, 7, 251, 255, 0]);
    assert_eq!(soon(reader.read_small(255)).await.unwrap(), [9; 255][..]);
    let read = soon(reader.read_message("it")).await.unwrap();
    assert_eq!(read, Some(message));
}

#[tokio::test]
async fn a_reset_is_no_end() {
    let (mut writer, mut reader, _pair) = stream().await;
    writer.write("abc".into()).await.unwrap();
    assert_eq!(soon(reader.read_small(3)).await.unwrap(), "abc");
    writer.reset(false);
    let error = soon(reader.read_small_or_end(1)).await.unwrap_err();
    assert_eq!(error.code, Code::Disconnected);
}
