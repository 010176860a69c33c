//! Trees that go up, come down, are compared, moved and removed.

use super::content::bytes;
use super::meter::{Kind, Outcome};
use super::worker::Worker;
use crate::compare::differences;
use anyhow::Result;
use quarry_client::{Client, Progress, Transfer, TreeOptions, TreeReport, get_tree, put_tree};
use quarry_common::error::{Code, Error, Result as QuarryResult};
use quarry_common::wire::meta::RenameMode;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Trees that a worker keeps.
const TREES_MAX: usize = 4;

/// The trees that are in the cluster, by their path, each with its original on this machine.
pub type Trees = BTreeMap<String, PathBuf>;

/// A tree of three folders with some files each, and one file of several frames.
fn make(root: &Path, random: &mut SmallRng) -> std::io::Result<()> {
    for folder in 0..3 {
        let folder = root.join(format!("folder {folder}"));
        fs::create_dir_all(&folder)?;
        for number in 0..random.random_range(2..10) {
            let len = 2f64.powf(random.random_range(4.0..17.0)) as usize;
            fs::write(
                folder.join(format!("{number}")),
                bytes(random.random(), len),
            )?;
        }
    }
    std::os::unix::fs::symlink("folder 1/0", root.join("link"))?;
    let len = random.random_range(1 << 20..6 << 20);
    fs::write(root.join("long"), bytes(random.random(), len))
}

fn transfer() -> Arc<Transfer> {
    let options = TreeOptions {
        jobs: 4,
        ..TreeOptions::default()
    };
    Arc::new(Transfer::new(options, Arc::new(Progress::default())))
}

/// Everything was copied, or what was not is the error.
fn whole(report: TreeReport) -> QuarryResult<()> {
    match report.failed.into_iter().next() {
        Some((path, error)) => Err(error.context(path.display())),
        None => Ok(()),
    }
}

async fn put(client: &Client, local: &Path, remote: &str) -> QuarryResult<()> {
    whole(put_tree(client, local, remote.as_bytes(), &transfer()).await?)
}

/// Gets a tree and compares it with its original.
async fn compare(client: &Client, remote: &str, local: &Path, back: &Path) -> QuarryResult<()> {
    if back.exists() {
        let removed = fs::remove_dir_all(back);
        removed.map_err(|error| Error::new(Code::Io, error.to_string()))?;
    }
    whole(get_tree(client, remote.as_bytes(), back, &transfer()).await?)?;
    let found = differences(local, back);
    let found = found.map_err(|error| Error::new(Code::Io, format!("{error:#}")))?;
    match found.first() {
        Some(first) => Err(Error::new(
            Code::Io,
            format!("{remote} came back different: {first}"),
        )),
        None => Ok(()),
    }
}

impl Worker {
    /// Works on trees until it is stopped; `scratch` is a folder of its own on this machine.
    pub async fn move_trees(mut self, scratch: PathBuf) -> Result<Trees> {
        let mut trees = Trees::new();
        let mut number = 0u64;
        while self.goes_on().await {
            number += 1;
            let (local, back) = (scratch.join(format!("{number}")), scratch.join("back"));
            make(&local, &mut self.random)?;
            let first = format!("{}/up-{number}", self.path);
            let up = || async { put(&self.client, &local, &first).await };
            // What is in doubt is not compared any more: a tree is not put in one step.
            let Outcome::Done(()) = self
                .meter
                .measure(Kind::Tree, &format!("putting {first}"), up)
                .await
            else {
                continue;
            };
            let down = || async { compare(&self.client, &first, &local, &back).await };
            self.meter
                .measure(Kind::Tree, &format!("getting {first}"), down)
                .await;
            let moved = format!("{}/tree-{number}", self.path);
            let rename = || async {
                let (from, to) = (first.as_bytes(), moved.as_bytes());
                self.client.rename(from, to, RenameMode::NoReplace).await
            };
            if let Outcome::Done(()) = self
                .meter
                .measure(Kind::Tree, &format!("moving {first}"), rename)
                .await
            {
                trees.insert(moved, local);
            }
            if trees.len() > TREES_MAX {
                let Some((old, original)) = trees.pop_first() else {
                    continue;
                };
                let remove = || async { self.client.remove_tree(old.as_bytes()).await };
                self.meter
                    .measure(Kind::Tree, &format!("removing {old}"), remove)
                    .await;
                fs::remove_dir_all(original)?;
            }
        }
        Ok(trees)
    }
}

/// What is wrong with the trees now.
pub async fn faults(client: &Client, trees: &Trees, scratch: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (remote, local) in trees {
        if let Err(error) = compare(client, remote, local, &scratch.join("back")).await {
            faults.push(format!("{error:#}"));
        }
    }
    Ok(faults)
}
