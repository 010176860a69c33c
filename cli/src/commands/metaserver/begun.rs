//! A seed begins a cluster once.
//!
//! The directory of the state may be away, as a disk is that was not mounted. A metaserver that began anew in its place
//! would show an empty cluster, and take writes that are gone when the disk is back.

use anyhow::{Result, bail};
use quarry_common::ids::ServerId;
use quarry_metaserver::ClusterSeed;
use std::path::{Path, PathBuf};

/// What is known of the beginning of the metaserver that begins the cluster of a seed.
pub struct Begun {
    /// A file beside the seed: there once the cluster was begun.
    note: PathBuf,
    /// The directory of the metaserver's state.
    dir: PathBuf,
    begins: bool,
}

impl Begun {
    /// Of one metaserver, with its seed's file.
    pub fn of(server: ServerId, path: &Path, seed: &ClusterSeed, dir: &Path) -> Begun {
        let mut note = path.as_os_str().to_owned();
        note.push(format!(".begun-{server}"));
        Begun {
            note: note.into(),
            dir: dir.to_owned(),
            begins: seed.metaservers.iter().map(|(id, _)| *id).min() == Some(server),
        }
    }

    /// Checks that it does not begin its cluster once more.
    ///
    /// # Errors
    /// It has begun it, and its state is not there.
    pub fn check(&self) -> Result<()> {
        if self.begins && self.note.exists() && !quarry_metaserver::has_state(&self.dir) {
            bail!(
                "'{}' holds no metaserver's state, but this metaserver began its cluster before: mount the disk that has the \
                 state, or set 'dir' to where it is (only where the state is lost and an empty cluster is to take its place: \
                 remove {})",
                self.dir.display(),
                self.note.display()
            );
        }
        Ok(())
    }

    /// Notes that it has begun its cluster.
    pub fn note(&self) {
        if !self.begins || self.note.exists() {
            return;
        }
        let text = "The cluster of this seed was begun: without its state it is not begun again.\n";
        if let Err(error) = quarry_common::durable::replace(&self.note, text.as_bytes()) {
            tracing::warn!(
                "{} can not be written ({error}): if the state was lost, this metaserver would begin an empty cluster",
                self.note.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::ClusterId;

    #[test]
    fn a_cluster_is_begun_once_and_by_one_metaserver() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        let seed = ClusterSeed {
            cluster: ClusterId([1; 16]),
            replicas: 1,
            min_members: 1,
            pg_count: 4,
            dataservers: 1,
            metaservers: [1, 2].map(|id| (ServerId(id), "a:1".into())).to_vec(),
            users: Vec::new(),
        };
        let path = folder.path().join("seed.toml");
        let of = |server| Begun::of(ServerId(server), &path, &seed, &dir);
        let [first, second] = [1, 2].map(of);
        first.check().unwrap();
        first.note();
        second.note();
        let error = first.check().unwrap_err().to_string();
        for part in ["state'", "mount", "seed.toml.begun-1"] {
            assert!(error.contains(part), "{error}");
        }
        second.check().unwrap();
        std::fs::create_dir_all(dir.join("state/00000001")).unwrap();
        first.check().unwrap();
    }
}
