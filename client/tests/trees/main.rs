//! What is promised of files and trees that are fetched and stored, on a cluster in memory with faults.

#[allow(dead_code)]
#[path = "../fake/mod.rs"]
mod fake;

mod attributes;
mod fetched;
mod given_up;
mod stored;
mod unanswered;

use fake::Fake;
use quarry_client::{
    Client, Progress, PublishOptions, Transfer, TreeOptions, TreeReport, get_file, get_tree,
    put_file, put_tree,
};
use quarry_common::Code;
use quarry_common::wire::meta::FileKind;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn transfer(options: TreeOptions) -> Arc<Transfer> {
    Arc::new(Transfer::new(options, Arc::new(Progress::default())))
}

async fn publish(client: &Client, path: &[u8], bytes: &[u8]) {
    let options = PublishOptions::default();
    client.publish(path, bytes, options).await.unwrap();
}

async fn fetch(client: &Client, remote: &[u8], local: &Path) -> quarry_common::Result<u64> {
    let transfer = transfer(TreeOptions::default());
    get_file(client, remote, local, &transfer).await
}

async fn fetch_tree(client: &Client, remote: &[u8], local: &Path) -> TreeReport {
    let transfer = transfer(TreeOptions::default());
    let report = get_tree(client, remote, local, &transfer).await;
    report.unwrap()
}

fn no_clobber() -> TreeOptions {
    TreeOptions {
        replace: false,
        ..TreeOptions::default()
    }
}

/// The names of what failed, and why.
fn failed(report: &TreeReport) -> Vec<(PathBuf, Code)> {
    let failed = report.failed.iter();
    let mut failed: Vec<_> = failed
        .map(|(path, error)| (path.clone(), error.code))
        .collect();
    failed.sort_by(|(a, _), (b, _)| a.cmp(b));
    failed
}
