//! What the parts of a running dataserver share.

use crate::collect::doomed::Doomed;
use crate::dial::Dial;
use crate::disks::Disks;
use crate::membership::Membership;
use crate::read::files::Files;
use crate::repair::confirm::CONFIRMS_MAX;
use crate::repair::pace::Pace;
use crate::repair::suspects::Suspects;
use crate::repair::tally::Tally;
use crate::turns::Turns;
use quarry_common::identity::PeerName;
use quarry_common::ids::{ClusterId, ServerId};
use quarry_common::limits::BULK_STREAMS_MAX;
use quarry_common::net::Peer;
use quarry_common::wire::data::{DataReply, DataRequest};
use quarry_common::wire::meta::DiskReport;
use quarry_common::{Error, Result, codec};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// Chunks written at once: each has a thread, and a few MiB of memory.
const WRITE_STREAMS_MAX: usize = 512;

/// Chunks read at once: each has two frames in memory.
const READ_STREAMS_MAX: usize = 2 * BULK_STREAMS_MAX as usize;

/// Chunks read at once by other dataservers.
const REPAIR_STREAMS_MAX: usize = 64;

/// How long the next member may take for a small write: longer than a slow sync, shorter than a client waits.
const SMALL_WRITE_WAIT: Duration = Duration::from_secs(10);

/// What the parts of a running dataserver share.
pub struct Node {
    /// The cluster.
    pub cluster: ClusterId,
    /// What is known of the cluster.
    pub membership: Membership,
    /// The disks.
    pub disks: Disks,
    /// Connections to other dataservers.
    pub dial: Dial,
    /// Files for clients on this host, if the system lets us hand them out.
    pub files: Option<Files>,
    /// One permit for each chunk that is being written.
    pub write_streams: Semaphore,
    /// One permit for each chunk that is being read.
    pub read_streams: Semaphore,
    /// One permit for each chunk that another dataserver copies.
    pub repair_streams: Semaphore,
    /// One permit for each copy that the metaservers wait for.
    pub confirms: Semaphore,
    /// How fast repair may go.
    pub pace: Pace,
    /// What repair did and found.
    pub tally: Tally,
    /// What is not to be copied any more.
    pub doomed: Doomed,
    /// Chunks that are to be looked at.
    pub suspects: Suspects,
    /// Who works on a disk on behalf of others.
    pub turns: Turns,
}

impl Node {
    /// Knows nothing of the cluster yet.
    pub fn new(
        cluster: ClusterId,
        membership: Membership,
        disks: Disks,
        dial: Dial,
        files: Option<Files>,
    ) -> Node {
        let turns = Turns::of(disks.all().map(|disk| disk.identity().disk));
        Node {
            cluster,
            membership,
            disks,
            dial,
            files,
            write_streams: Semaphore::new(WRITE_STREAMS_MAX),
            read_streams: Semaphore::new(READ_STREAMS_MAX),
            repair_streams: Semaphore::new(REPAIR_STREAMS_MAX),
            confirms: Semaphore::new(CONFIRMS_MAX),
            pace: Pace::default(),
            tally: Tally::default(),
            doomed: Doomed::default(),
            suspects: Suspects::default(),
            turns,
        }
    }

    /// What the metaserver is told of each disk. Blocks: asks the file systems.
    pub fn reports(&self) -> Vec<DiskReport> {
        self.complete(self.disks.reports())
    }

    /// Adds what is known without a look at the disks.
    pub fn complete(&self, mut reports: Vec<DiskReport>) -> Vec<DiskReport> {
        for report in &mut reports {
            self.tally.complete(report);
        }
        reports
    }

    /// Another dataserver.
    ///
    /// # Errors
    /// Those of [`Dial::get`].
    pub async fn dataserver(&self, server: ServerId, address: &str) -> Result<Peer> {
        let name = PeerName::dataserver(self.cluster, server);
        self.dial.get(&name, address).await
    }

    /// Asks another dataserver.
    ///
    /// # Errors
    /// Its own, or that it can not be reached or does not answer in time.
    pub async fn call(
        &self,
        server: ServerId,
        address: &str,
        request: &DataRequest,
    ) -> Result<DataReply> {
        let peer = self.dataserver(server, address).await?;
        let request = codec::encode(request).into();
        let asked = peer.requests.call(request, SMALL_WRITE_WAIT);
        let answer = peer.while_alive(DataRequest::ping(), asked).await?;
        let answer: Result<DataReply, Error> = codec::decode("a dataserver's answer", &answer)?;
        answer
    }
}

/// Seconds since 1970, by which capabilities expire.
pub fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
