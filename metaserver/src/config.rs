//! How a metaserver is set up: what stands in its TOML file, and what a new cluster begins with.

use quarry_common::config::values;
use quarry_common::ids::{ClusterId, PoolId, ServerId};
use quarry_common::limits::{CHUNK_LEN_MAX, DOOM_GRACE, PG_COUNT_MAX, REPLICAS_MAX};
use quarry_common::map::{FailureDomain, Pool, Redundancy};
use quarry_common::wire::meta::User;
use quarry_common::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The settings of a metaserver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaserverConfig {
    /// Where it listens, UDP.
    #[serde(deserialize_with = "values::listen")]
    pub listen: SocketAddr,
    /// `host:port` at which others reach it; the address it listens on if left out, which must then be one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Its directory: state, log, snapshots.
    pub dir: PathBuf,
    /// The cluster's metaservers when this one was made by 'quarry metaserver add': whom it hears until it
    /// has the state from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metaservers: Vec<(ServerId, String)>,
    /// Memory for the state's block cache, in MiB.
    #[serde(default = "default_cache_mib")]
    pub cache_mib: u64,
    /// Data that nothing refers to any more is deleted after so many seconds: readers that found it before have
    /// as long to finish.
    #[serde(default = "default_doom_grace_seconds")]
    pub doom_grace_seconds: u64,
    /// A disk that was down for so many seconds is out: its data is rebuilt on others (DESIGN §4.1).
    #[serde(default = "default_out_after_seconds")]
    pub out_after_seconds: u64,
}

impl MetaserverConfig {
    /// Finds what can not work before anything is touched.
    ///
    /// # Errors
    /// `Configuration`, with what to change; begins with the key.
    pub fn check(&self) -> Result<()> {
        match &self.advertise {
            Some(address) => values::check_address("advertise", address)?,
            None if self.listen.ip().is_unspecified() => {
                return refuse(format!(
                    "listen = '{}' is no address that others can dial: set 'advertise'",
                    self.listen
                ));
            }
            None => {}
        }
        values::check_metaservers(self.metaservers.iter().map(|(id, at)| (*id, at.as_str())))?;
        for (key, value, why) in [
            (
                "cache_mib",
                self.cache_mib,
                "would read every record from the disk each time: 1 or more, 256 is usual",
            ),
            (
                "doom_grace_seconds",
                self.doom_grace_seconds,
                "would delete data under its readers: 1 or more, 300 is usual",
            ),
            (
                "out_after_seconds",
                self.out_after_seconds,
                "would rebuild what a disk holds as soon as it is late once: 1 or more, 600 is usual",
            ),
        ] {
            if value == 0 {
                return refuse(format!("{key} = 0 {why}"));
            }
        }
        Ok(())
    }
}

fn refuse(text: String) -> Result<()> {
    Err(Error::new(Code::Configuration, text))
}

fn default_doom_grace_seconds() -> u64 {
    DOOM_GRACE.as_secs()
}

fn default_cache_mib() -> u64 {
    256
}

fn default_out_after_seconds() -> u64 {
    600
}

/// What a new cluster begins with; used when the state is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSeed {
    /// The cluster.
    pub cluster: ClusterId,
    /// Whole copies of every chunk.
    pub replicas: u8,
    /// A placement group takes writes with at least so many members.
    pub min_members: u8,
    /// Placement groups of the first pool, a power of two.
    pub pg_count: u32,
    /// Chunks are given out only after so many dataservers have registered once, so that the
    /// first placement is made over all of them.
    pub dataservers: u32,
    /// The metaservers and their addresses.
    pub metaservers: Vec<(ServerId, String)>,
    /// The first users.
    pub users: Vec<User>,
}

impl ClusterSeed {
    /// Finds what can not work.
    ///
    /// # Errors
    /// `Configuration`, with what to change.
    pub fn check(&self) -> Result<()> {
        if self.metaservers.is_empty() {
            return refuse(
                "metaservers: none is named: add metaservers = [[1, \"host:7410\"]]".into(),
            );
        }
        values::check_metaservers(self.metaservers.iter().map(|(id, at)| (*id, at.as_str())))?;
        let (replicas, min_members) = (self.replicas, self.min_members);
        if !(1..=REPLICAS_MAX).contains(&usize::from(replicas)) {
            return refuse(format!(
                "replicas = {replicas}: a chunk has 1 to {REPLICAS_MAX} copies"
            ));
        }
        if u32::from(replicas) > self.dataservers {
            let there_are = match self.dataservers {
                1 => "is 1 dataserver".to_owned(),
                count => format!("are {count} dataservers"),
            };
            return refuse(format!(
                "replicas = {replicas}: there {there_are}, and no two copies of a chunk are in one: fewer copies or more dataservers"
            ));
        }
        if !(1..=replicas).contains(&min_members) {
            return refuse(format!(
                "min_members = {min_members}: writes go on with 1 to {replicas} copies, no more than 'replicas'"
            ));
        }
        if !self.pg_count.is_power_of_two() || self.pg_count > PG_COUNT_MAX {
            return refuse(format!(
                "pg_count = {}: a power of two up to {PG_COUNT_MAX} is wanted, so that each disk is in 50 to 100 groups",
                self.pg_count
            ));
        }
        Ok(())
    }

    /// The first pool.
    pub fn pool(&self) -> (PoolId, Pool) {
        let pool = Pool {
            name: "main".into(),
            redundancy: Redundancy::Replicated {
                replicas: self.replicas,
                min_members: self.min_members,
            },
            failure_domain: FailureDomain::Host,
            pg_count: self.pg_count,
            chunk_len_max: CHUNK_LEN_MAX,
            in_use: false,
            exceptions: BTreeMap::new(),
        };
        (PoolId(1), pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MetaserverConfig {
        MetaserverConfig {
            listen: "127.0.0.1:7410".parse().unwrap(),
            advertise: None,
            dir: "state".into(),
            metaservers: vec![],
            cache_mib: default_cache_mib(),
            doom_grace_seconds: default_doom_grace_seconds(),
            out_after_seconds: default_out_after_seconds(),
        }
    }

    #[test]
    fn what_can_not_work_is_refused_with_the_remedy() {
        assert_eq!(config().check(), Ok(()));
        let mut bad = [(); 7].map(|()| config());
        bad[0].listen = "[::]:7410".parse().unwrap();
        bad[1].advertise = Some("junk".into());
        bad[2].metaservers.push((ServerId(1), "junk".into()));
        bad[3].metaservers.push((ServerId(0), "m:1".into()));
        bad[4].out_after_seconds = 0;
        bad[5].doom_grace_seconds = 0;
        bad[6].cache_mib = 0;
        let said = [
            "set 'advertise'",
            "advertise 'junk'",
            "metaserver 1 'junk'",
            "no metaserver 0",
            "out_after_seconds = 0",
            "doom_grace_seconds = 0",
            "cache_mib = 0",
        ];
        for (config, said) in bad.iter().zip(said) {
            let text = config.check().unwrap_err().text;
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn a_seed_that_can_not_work_is_refused_with_the_remedy() {
        let good = ClusterSeed {
            cluster: ClusterId([1; 16]),
            replicas: 3,
            min_members: 2,
            pg_count: 128,
            dataservers: 3,
            metaservers: vec![(ServerId(1), "m:1".into())],
            users: vec![],
        };
        assert_eq!(good.check(), Ok(()));
        let mut bad = [(); 9].map(|()| good.clone());
        bad[0].metaservers.push((ServerId(1), "n:1".into()));
        bad[1].metaservers.clear();
        bad[2].replicas = 0;
        (bad[3].replicas, bad[3].dataservers) = (9, 9);
        bad[4].dataservers = 2;
        bad[5].min_members = 0;
        bad[6].min_members = 4;
        bad[7].pg_count = 100;
        bad[8].pg_count = 1 << 21;
        let said = [
            "metaservers: metaserver 1 is named twice",
            "metaservers: none is named",
            "replicas = 0: a chunk has 1 to 8 copies",
            "replicas = 9: a chunk has 1 to 8 copies",
            "replicas = 3: there are 2 dataservers",
            "min_members = 0: writes go on with 1 to 3",
            "min_members = 4: writes go on with 1 to 3",
            "pg_count = 100: a power of two",
            "pg_count = 2097152: a power of two up to 1048576",
        ];
        for (seed, said) in bad.iter().zip(said) {
            let text = seed.check().unwrap_err().text;
            assert!(text.starts_with(said), "{text}");
        }
    }
}
