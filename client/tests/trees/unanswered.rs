//! Files that are stored, and whose session is lost meanwhile.

use super::*;
use quarry_common::ids::{FileOffset, InodeId, RequestNumber, SessionId, ShardId, Version};
use quarry_common::limits::BLOCK_LEN;
use quarry_common::wire::meta::{
    Attr, Contents, MetaBody, MetaReply, MetaRequest, NewExtent, Op, Publish, Read, ReadReply,
    Source, View,
};
use std::os::unix::fs::FileExt;

/// Puts a file whose session is lost with the answer to its publishing; then `meanwhile` happens.
async fn put_without_answer(
    fake: &Fake,
    bytes: &[u8],
    meanwhile: impl FnOnce(&mut fake::State),
) -> quarry_common::Result<Attr> {
    let client = fake.client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, bytes).unwrap();
    fake.state().faults.ends_session = Some(|op| matches!(op, Op::Publish(_)));
    let putting = tokio::spawn(async move {
        let transfer = transfer(TreeOptions::default());
        put_file(&client, &local, b"/file", &transfer).await
    });
    while fake.state().faults.ends_session.is_some() {
        tokio::task::yield_now().await;
    }
    meanwhile(&mut fake.state());
    putting.await.unwrap()
}

/// A file of more extents than one command takes: a block of data, a hole, and so on.
fn many_extents(path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    for at in 0..300 {
        let bytes = vec![at as u8 | 1; BLOCK_LEN];
        let offset = at * 2 * BLOCK_LEN as u64;
        file.write_all_at(&bytes, offset).unwrap();
    }
}

#[tokio::test]
async fn a_long_file_that_nobody_sees_yet_is_put_again_when_its_session_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    many_extents(&at("file"));
    let moments: [fn(&Op) -> bool; 3] = [
        |op| matches!(op, Op::CreateUnnamed { .. }),
        |op| matches!(op, Op::CommitExtents { size: None, .. }),
        |op| matches!(op, Op::CommitExtents { size: Some(_), .. }),
    ];
    for moment in moments {
        let fake = Fake::new(3);
        let client = fake.client().await;
        fake.state().faults.ends_session = Some(moment);
        let transfer = transfer(TreeOptions::default());
        put_file(&client, &at("file"), b"/file", &transfer)
            .await
            .unwrap();
        assert!(fake.state().faults.ends_session.is_none());
        fetch(&client, b"/file", &at("back")).await.unwrap();
        let read = |name| std::fs::read(at(name)).unwrap();
        assert!(read("back") == read("file"));
    }
}

/// What has a name in the root.
fn look_up(state: &mut fake::State, name: &[u8]) -> Attr {
    let read = Read::Lookup {
        view: View::Live,
        parent: InodeId::ROOT,
        name: name.to_vec(),
    };
    let request = MetaRequest {
        shard: ShardId::FIRST,
        seen: Version(0),
        act_as: None,
        body: MetaBody::Read(read),
    };
    match state.answer(request).unwrap().result.unwrap() {
        MetaReply::Read(ReadReply::Attr(attr)) => attr,
        other => panic!("{other:?}"),
    }
}

/// What another client does.
fn change(state: &mut fake::State, op: Op) {
    let request = MetaRequest {
        shard: ShardId::FIRST,
        seen: Version(0),
        act_as: None,
        body: MetaBody::Mutate {
            session: SessionId(1_000),
            number: RequestNumber(1),
            answered_below: RequestNumber(1),
            op,
        },
    };
    state.answer(request).unwrap().result.unwrap();
}

#[tokio::test]
async fn a_put_that_lost_its_answer_is_done_if_its_file_is_there() {
    for len in [0, 100, 10_000, 3 << 20] {
        let fake = Fake::new(3);
        let bytes = vec![7; len];
        let streams = |fake: &Fake| {
            let state = fake.state();
            state.write_streams + state.small_writes
        };
        let attr = put_without_answer(&fake, &bytes, |_| {}).await.unwrap();
        assert_eq!(attr.size, len as u64);
        let written = u32::from(len > 256);
        assert_eq!(streams(&fake), written, "nothing was uploaded twice");
    }
}

#[tokio::test]
async fn a_put_that_lost_its_answer_replaces_nothing_that_came_after_it() {
    for len in [100, 10_000] {
        let bytes = vec![7; len];
        let theirs = || {
            Op::Publish(Publish {
                parent: InodeId::ROOT,
                name: b"file".to_vec(),
                mode: 0o644,
                mtime: None,
                replace: true,
                xattrs: Vec::new(),
                contents: Contents::Extents {
                    size: 6,
                    extents: vec![NewExtent {
                        offset: FileOffset(0),
                        len: 6,
                        source: Source::Inline(b"theirs".to_vec()),
                    }],
                    receipts: Vec::new(),
                },
            })
        };
        let fake = Fake::new(3);
        let put = put_without_answer(&fake, &bytes, |state| change(state, theirs()));
        let error = put.await.unwrap_err();
        assert_eq!(error.code, Code::UnknownOutcome, "{error}");
        assert!(
            error.text.contains("/file") && error.text.contains("look at it"),
            "{error}"
        );
        let client = fake.client().await;
        let mut found = Vec::new();
        client
            .read_to(b"/file", &mut found, None, None)
            .await
            .unwrap();
        assert_eq!(found, b"theirs");

        let removed = Op::Unlink {
            parent: InodeId::ROOT,
            name: b"file".to_vec(),
        };
        let fake = Fake::new(3);
        let put = put_without_answer(&fake, &bytes, |state| change(state, removed));
        let error = put.await.unwrap_err();
        assert_eq!(error.code, Code::UnknownOutcome, "{error}");
        assert!(error.text.contains("store it again"), "{error}");
        let gone = fake.client().await.stat(b"/file").await.unwrap_err();
        assert_eq!(gone.code, Code::NotFound);
    }
}

/// No chunk says of a short file whose it is.
#[tokio::test]
async fn a_short_file_is_what_was_put_only_if_all_of_it_is_the_same() {
    let bytes = [7; 100];
    for (other_bytes, other_mode) in [(true, false), (false, true)] {
        let fake = Fake::new(3);
        let replace = |state: &mut fake::State| {
            let found = look_up(state, b"file");
            let mut content = bytes.to_vec();
            content[99] ^= u8::from(other_bytes);
            let theirs = Publish {
                parent: InodeId::ROOT,
                name: b"file".to_vec(),
                mode: found.mode ^ u16::from(other_mode),
                mtime: Some(found.mtime),
                replace: true,
                xattrs: Vec::new(),
                contents: Contents::Extents {
                    size: 100,
                    extents: vec![NewExtent {
                        offset: FileOffset(0),
                        len: 100,
                        source: Source::Inline(content),
                    }],
                    receipts: Vec::new(),
                },
            };
            change(state, Op::Publish(theirs));
        };
        let put = put_without_answer(&fake, &bytes, replace);
        let error = put.await.unwrap_err();
        assert_eq!(error.code, Code::UnknownOutcome, "{error}");
        assert!(error.text.contains("another file"), "{error}");
    }
}
