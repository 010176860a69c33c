//! Requests whose answers are lost, that are refused or wait, and the sessions that they are of.

use super::*;
use bytes::Bytes;

#[tokio::test]
async fn a_mutation_whose_answer_was_lost_happens_once() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await.unwrap();
    fake.state().faults.answers_lost = 2;
    assert_eq!(file.append(Bytes::from_static(b"one")).await.unwrap(), 0);
    assert_eq!(file.append(Bytes::from_static(b"two")).await.unwrap(), 3);
    assert_eq!(fake.state().meta.appends, 2);
    assert_eq!(read(&client, b"/log").await.unwrap(), b"onetwo");
}

#[tokio::test]
async fn a_request_open_when_its_session_is_lost_is_unknown_and_later_ones_work() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    // The answer is lost, and with it goes the session.
    let lost = client.clone();
    fake.state().faults.answers_lost = 1;
    let request = tokio::spawn(async move { lost.mkdir(b"/unknown", 0o755).await });
    while fake.state().faults.answers_lost > 0 {
        tokio::task::yield_now().await;
    }
    fake.state().faults.sessions_lost = true;
    let error = request.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::UnknownOutcome, "{error}");
    assert!(error.text.contains("/unknown"), "{error}");
    client.mkdir(b"/after", 0o755).await.unwrap();
}

#[tokio::test]
async fn a_request_refused_by_a_lost_session_is_done_in_a_new_one() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    fake.state().faults.sessions_lost = true;
    client.mkdir(b"/after", 0o755).await.unwrap();
    publish(&client, b"/after/file", &content(MIB))
        .await
        .unwrap();
}

/// What the reader gave is gone: only who has the bytes can write them again.
#[tokio::test]
async fn an_upload_whose_session_was_lost_says_that_it_is_to_be_done_again() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    publish(&client, b"/before", &content(MIB)).await.unwrap();
    fake.state().faults.sessions_lost = true;
    let lost = publish(&client, b"/file", &content(MIB)).await.unwrap_err();
    assert_eq!(lost.code, Code::SessionLost, "{lost}");
    assert_eq!(
        read(&client, b"/file").await.unwrap_err().code,
        Code::NotFound
    );
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == content(MIB));
}

#[tokio::test]
async fn a_request_that_was_lost_before_its_session_was_is_done_in_a_new_one() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    let lost = client.clone();
    fake.state().faults.requests_lost = 1;
    let request = tokio::spawn(async move { lost.mkdir(b"/once", 0o755).await });
    while fake.state().faults.requests_lost > 0 {
        tokio::task::yield_now().await;
    }
    fake.state().faults.sessions_lost = true;
    request.await.unwrap().unwrap();
    client.stat(b"/once").await.unwrap();
}

#[tokio::test]
async fn a_mutation_that_was_refused_each_time_is_known_not_to_be_done() {
    let fake = Fake::new(3);
    let client = impatient(&fake).await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    fake.state().faults.overloaded = u32::MAX;
    let error = client.mkdir(b"/dir", 0o755).await.unwrap_err();
    assert_eq!(error.code, Code::Overloaded, "{error}");
    fake.state().faults.requests_lost = 1;
    let error = client.mkdir(b"/dir", 0o755).await.unwrap_err();
    assert_eq!(error.code, Code::UnknownOutcome, "{error}");
}

#[tokio::test]
async fn a_request_that_waits_for_others_goes_on_when_they_have_their_answers() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/opens-the-session", 0o755).await.unwrap();
    fake.state().faults.long_answers = true;
    fake.state().faults.answer_late = Duration::from_millis(300);
    let late = client.mkdir(b"/answered-late", 0o755);
    let next = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.mkdir(b"/next", 0o755).await
    };
    let both = async { tokio::join!(late, next) };
    let both = tokio::time::timeout(Duration::from_secs(5), both).await;
    let (late, next) = both.expect("the second is told that the first has its answer");
    late.unwrap();
    next.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_read_for_long_is_announced_as_open_and_a_short_read_needs_no_session() {
    let fake = Fake::new(3);
    publish(&fake.client().await, b"/file", &content(MIB))
        .await
        .unwrap();
    let sessions = fake.state().meta.sessions;
    let client = fake.client().await;
    let inode = client.stat(b"/file").await.unwrap().inode;
    assert!(read(&client, b"/file").await.unwrap() == content(MIB));
    let long = Duration::from_secs(25);
    tokio::time::sleep(long).await;
    assert_eq!(fake.state().meta.sessions, sessions);
    // Nobody takes what is read.
    let (mut writer, _reader) = tokio::io::duplex(1_000);
    let reading = client.clone();
    let slow =
        tokio::spawn(async move { reading.read_to(b"/file", &mut writer, None, None).await });
    tokio::time::sleep(long).await;
    assert_eq!(fake.state().meta.sessions, sessions + 1);
    assert_eq!(fake.state().meta.announced, [inode]);
    slow.abort();
    tokio::time::sleep(long).await;
    assert!(fake.state().meta.announced.is_empty());
    let _file = client.open(b"/file", OpenOptions::reading()).await.unwrap();
    tokio::time::sleep(long).await;
    assert_eq!(fake.state().meta.announced, [inode]);
}

#[tokio::test]
async fn closing_ends_the_session() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/dir", 0o755).await.unwrap();
    client.close().await.unwrap();
    assert_eq!(fake.state().meta.closed, 1);
}
