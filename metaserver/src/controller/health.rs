//! Which dataservers the leader has heard of lately, what they said, and what follows for their disks: soft state.

use super::life::{Event, Life};
use quarry_common::ids::{DiskId, ServerId};
use quarry_common::limits::DOWN_AFTER;
use quarry_common::map::{ClusterMap, Disk, DiskState, Server};
use quarry_common::wire::meta::{DiskReport, DiskStatus, ServerStatus, Serves};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Who was reported is asked by the leader itself once it has been silent for this long: about one heartbeat is missing.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// A disk that came back waits so long the second time, and twice as long each time more, up to the most.
const FLAP_WAIT: Duration = Duration::from_secs(10);
const FLAP_WAIT_MAX: Duration = Duration::from_secs(300);

/// After so long without going down it is forgotten that a disk did.
const FLAPS_FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// How long a disk has been down is noted in the state so many times until it is out: what a change of leaders forgets.
const NOTES: u32 = 16;

/// A dataserver that was not let in, and does not ask again, is shown for this long.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// What each dataserver last said, and how its disks are.
#[derive(Debug)]
pub struct Health {
    /// When this leader began: silence counts from here at the earliest.
    began_at: Instant,
    /// A disk that was down for this long is out.
    out_after: Duration,
    heard: HashMap<ServerId, Heard>,
    lives: HashMap<DiskId, Lived>,
    /// How long disks were down under earlier leaders, until they are heard.
    down_before: HashMap<DiskId, Duration>,
    /// What stands about that in the state.
    noted: HashMap<DiskId, Duration>,
    /// Who was reported not to answer, and whether it is being asked.
    suspects: HashMap<ServerId, bool>,
    /// Who said goodbye, or was reported and did not answer, and was not heard since.
    gone: BTreeSet<ServerId>,
    /// Who was not let in lately, when, and why.
    refused: BTreeMap<ServerId, (Instant, String)>,
    /// Whether a life has changed since [`Health::advance`] last said so.
    changed: bool,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    disks: Vec<DiskReport>,
    /// Bytes a second that repair copies to each of them.
    copying: HashMap<DiskId, u64>,
}

impl Heard {
    fn now(before: Option<&Heard>, disks: Vec<DiskReport>, at: Instant) -> Heard {
        let rate = |report: &DiskReport| {
            let (disk, before) = (report.disk?, before?);
            let mut reports = before.disks.iter();
            let last = reports.find(|last| last.disk == Some(disk))?;
            let millis = at.saturating_duration_since(before.at).as_millis().max(1) as u64;
            // A server that was started again counts from nothing.
            let more = report.copied.saturating_sub(last.copied);
            let now = more.saturating_mul(1_000) / millis;
            let until_now = before.copying.get(&disk).copied().unwrap_or_default();
            // The mean of about the last four heartbeats, and soon nothing where nothing is copied any more.
            let mean = match until_now {
                0 => now,
                until_now => until_now.saturating_mul(3).saturating_add(now) / 4,
            };
            Some((disk, mean))
        };
        let copying = disks.iter().filter_map(rate).collect();
        Heard { at, disks, copying }
    }
}

#[derive(Debug)]
struct Lived {
    life: Life,
    /// Since when it is so.
    since: Instant,
    /// How often it went down lately, and when last.
    downs: u32,
    down_at: Option<Instant>,
}

impl Lived {
    fn new(since: Instant) -> Lived {
        Lived {
            life: Life::Unheard,
            since,
            downs: 0,
            down_at: None,
        }
    }

    /// How long it must be well before it counts as up.
    fn wait(&self) -> Duration {
        match self.downs.checked_sub(2) {
            None => Duration::ZERO,
            Some(more) => FLAP_WAIT
                .saturating_mul(1 << more.min(16))
                .min(FLAP_WAIT_MAX),
        }
    }

    /// Whether its life changed.
    fn handle(&mut self, event: Event, now: Instant) -> bool {
        let before = self.life;
        let after = before.after(event);
        if after == before {
            return false;
        }
        if after == Life::Down {
            let lately = |at: Instant| now.saturating_duration_since(at) < FLAPS_FORGOTTEN_AFTER;
            let again = self.down_at.is_some_and(lately);
            self.downs = if again {
                self.downs.saturating_add(1)
            } else {
                1
            };
            self.down_at = Some(now);
        }
        (self.life, self.since) = (after, now);
        if after == Life::Returning && self.wait().is_zero() {
            self.handle(Event::Steady, now);
        }
        true
    }
}

impl Health {
    /// That of a leader that begins now.
    pub fn new(out_after: Duration, now: Instant) -> Health {
        Health {
            began_at: now,
            out_after,
            heard: HashMap::new(),
            lives: HashMap::new(),
            down_before: HashMap::new(),
            noted: HashMap::new(),
            suspects: HashMap::new(),
            gone: BTreeSet::new(),
            refused: BTreeMap::new(),
            changed: true,
        }
    }

    /// This metaserver begins to lead: nothing that was heard before counts but what was noted of the time for which
    /// disks were down.
    pub fn reset(&mut self, noted: impl IntoIterator<Item = (DiskId, Duration)>, now: Instant) {
        *self = Health::new(self.out_after, now);
        self.noted = noted.into_iter().collect();
        self.down_before.clone_from(&self.noted);
    }

    /// A dataserver that starts was let in, or was `refused` and why.
    pub fn handle_introduced(&mut self, server: ServerId, refused: Option<String>, now: Instant) {
        let Some(why) = refused else {
            self.refused.remove(&server);
            return;
        };
        let before = self.refused.insert(server, (now, why.clone()));
        // It asks again and again.
        if before.is_none_or(|(_, before)| before != why) {
            tracing::warn!("a dataserver is not let in: {why}");
        }
    }

    /// Why dataservers were not let in lately.
    pub fn refused(&self, now: Instant) -> Vec<String> {
        let lately = |at: Instant| now.saturating_duration_since(at) < REFUSED_FOR;
        let refused = self.refused.values().filter(|(at, _)| lately(*at));
        refused.map(|(_, why)| why.clone()).collect()
    }

    /// A dataserver gave a sign of life. It speaks for its own disks alone.
    pub fn handle_heartbeat(
        &mut self,
        map: &ClusterMap,
        server: ServerId,
        disks: Vec<DiskReport>,
        now: Instant,
    ) {
        self.suspects.remove(&server);
        self.gone.remove(&server);
        for report in &disks {
            let event = match report.failed {
                None => Event::Well,
                Some(_) => Event::Failed,
            };
            let known = |disk: &DiskId| map.topology.disks.get(disk);
            let own = |disk: &DiskId| known(disk).is_some_and(|disk| disk.server == server);
            if let Some(disk) = report.disk.filter(own) {
                self.handle(disk, event, now);
            }
        }
        let heard = Heard::now(self.heard.get(&server), disks, now);
        self.heard.insert(server, heard);
    }

    /// A dataserver stops: its disks are down at once.
    pub fn handle_goodbye(&mut self, map: &ClusterMap, server: ServerId, now: Instant) {
        self.handle_gone(map, server, now);
    }

    fn handle_gone(&mut self, map: &ClusterMap, server: ServerId, now: Instant) {
        self.gone.insert(server);
        for (disk, _) in map.disks_of(server) {
            self.handle(disk, Event::Gone, now);
        }
    }

    /// Somebody got no answer from a dataserver. It is asked by the leader before that is believed: see
    /// [`Health::due_pings`].
    pub fn handle_suspect(&mut self, map: &ClusterMap, server: ServerId) {
        if map.topology.servers.contains_key(&server) {
            self.suspects.entry(server).or_insert(false);
        }
    }

    /// The dataservers that the leader is to ask now; the answer goes to [`Health::handle_ping`].
    pub fn due_pings(&mut self, now: Instant) -> Vec<ServerId> {
        let due = |server: &ServerId| self.silence(*server, now) >= SUSPECT_AFTER;
        let waiting = self.suspects.iter().filter(|(_, asked)| !**asked);
        let due: Vec<ServerId> = waiting.map(|(server, _)| *server).filter(due).collect();
        for server in &due {
            self.suspects.insert(*server, true);
        }
        due
    }

    /// A dataserver that was reported has answered the leader, or has not.
    pub fn handle_ping(
        &mut self,
        map: &ClusterMap,
        server: ServerId,
        answered: bool,
        now: Instant,
    ) {
        // Else it was heard meanwhile.
        let asked = self.suspects.remove(&server) == Some(true);
        if asked && !answered && self.silence(server, now) >= SUSPECT_AFTER {
            tracing::warn!(%server, "a dataserver that was reported does not answer: it is down");
            self.handle_gone(map, server, now);
        }
    }

    /// What follows from time having passed. Whether any disk's life has changed since the last call.
    pub fn advance(&mut self, map: &ClusterMap, now: Instant) -> bool {
        self.lives
            .retain(|disk, _| map.topology.disks.contains_key(disk));
        for (disk, in_map) in &map.topology.disks {
            let named = self.heard.get(&in_map.server).map(|heard| {
                let reports = heard.disks.iter();
                reports
                    .filter_map(|report| report.disk)
                    .any(|id| id == *disk)
            });
            let lived = self.lives.get(disk);
            let waited = lived.is_some_and(|lived| {
                lived.life == Life::Returning
                    && now.saturating_duration_since(lived.since) >= lived.wait()
            });
            if self.silence(in_map.server, now) >= DOWN_AFTER {
                self.handle(*disk, Event::Silent, now);
            } else if named == Some(false) {
                self.handle(*disk, Event::Failed, now);
            } else if waited {
                self.handle(*disk, Event::Steady, now);
            }
        }
        std::mem::take(&mut self.changed)
    }

    fn handle(&mut self, disk: DiskId, event: Event, now: Instant) {
        let began_at = self.began_at;
        let lived = self.lives.entry(disk);
        let lived = lived.or_insert_with(|| Lived::new(began_at));
        let before = lived.life;
        if lived.handle(event, now) {
            tracing::info!("disk {disk} is {}, was {before}", lived.life);
            if lived.life != Life::Down {
                self.down_before.remove(&disk);
            }
            self.changed = true;
        }
    }

    /// How a disk is.
    pub fn life(&self, disk: DiskId) -> Life {
        self.lives
            .get(&disk)
            .map_or(Life::Unheard, |lived| lived.life)
    }

    /// The disks that are to go out or to come back in, all at once.
    pub fn states(&self, map: &ClusterMap, now: Instant) -> Vec<(DiskId, DiskState)> {
        let many = self.many_are_down(map);
        let state = |(id, disk): (&DiskId, &Disk)| {
            let lived = self.lives.get(id)?;
            let down_for = self.down_for(*id, now);
            let long = down_for.is_some_and(|down_for| down_for >= self.out_after);
            Some((*id, lived.life.state(disk.state, long && !many)?))
        };
        map.topology.disks.iter().filter_map(state).collect()
    }

    /// Whether a disk serves. Of one that this leader has not heard of yet, what the leaders before it knew counts: that it was
    /// down, or out.
    pub fn serves(&self, id: DiskId, disk: &Disk) -> Serves {
        match self.life(id) {
            Life::Up => Serves::Up,
            Life::Down | Life::Returning => Serves::Down,
            Life::Unheard if disk.state == DiskState::Out => Serves::Down,
            Life::Unheard if self.down_before.contains_key(&id) => Serves::Down,
            Life::Unheard => Serves::Unknown,
        }
    }

    /// Whether chunks are read from a disk, as far as anything is known: who is not heard yet serves, and so does who waits to
    /// take part again.
    pub fn is_read(&self, id: DiskId, disk: &Disk) -> bool {
        self.life(id) == Life::Returning || self.serves(id, disk) != Serves::Down
    }

    /// Whether a server answers.
    fn answers(&self, map: &ClusterMap, server: ServerId, now: Instant) -> Serves {
        let mut disks = map.disks_of(server).peekable();
        let is_gone = self.gone.contains(&server) || self.silence(server, now) >= DOWN_AFTER;
        let was_down = |(id, disk): (DiskId, &Disk)| self.serves(id, disk) == Serves::Down;
        match (is_gone, self.heard.contains_key(&server)) {
            (true, _) => Serves::Down,
            (false, true) => Serves::Up,
            (false, false) if disks.peek().is_some() && disks.all(was_down) => Serves::Down,
            (false, false) => Serves::Unknown,
        }
    }

    /// For how long this leader has listened.
    pub fn listens_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began_at)
    }

    /// How long a disk has been down while somebody led; `None` if it is not.
    fn down_for(&self, disk: DiskId, now: Instant) -> Option<Duration> {
        let lived = self.lives.get(&disk)?;
        let before = self.down_before.get(&disk).copied().unwrap_or_default();
        (lived.life == Life::Down)
            .then(|| before.saturating_add(now.saturating_duration_since(lived.since)))
    }

    /// What is to be noted in the state for the next leader: how long disks have been down, or that one is not any more.
    /// To be told to [`Health::handle_noted`] when that is done.
    pub fn notes(&self, map: &ClusterMap, now: Instant) -> Vec<(DiskId, Option<Duration>)> {
        let note = |(id, disk): (&DiskId, &Disk)| {
            let noted = self.noted.get(id);
            let is_heard = matches!(self.life(*id), Life::Up | Life::Returning);
            match (self.down_for(*id, now), noted) {
                (Some(down_for), noted) if disk.state == DiskState::In => {
                    let next = noted.map(|noted| noted.saturating_add(self.out_after / NOTES));
                    next.is_none_or(|next| down_for >= next)
                        .then_some((*id, Some(down_for)))
                }
                (None, Some(_)) if is_heard => Some((*id, None)),
                (Some(_) | None, _) => None,
            }
        };
        map.topology.disks.iter().filter_map(note).collect()
    }

    /// This stands in the state now.
    pub fn handle_noted(&mut self, notes: &[(DiskId, Option<Duration>)]) {
        for (disk, down_for) in notes {
            match down_for {
                Some(down_for) => self.noted.insert(*disk, *down_for),
                None => self.noted.remove(disk),
            };
        }
    }

    /// Whether this looks like one failure of many: more than a fifth of the disks, in more than one host, or a whole
    /// rack of several hosts where there are several racks. Rebuilding all that elsewhere would take longer than mending
    /// it, and may not even fit (DESIGN §4.1).
    pub fn many_are_down(&self, map: &ClusterMap) -> bool {
        let (mut all, mut down) = (0u32, 0u32);
        let mut hosts_down: BTreeSet<&str> = BTreeSet::new();
        // Of each rack its hosts, and whether any disk in it is not down.
        let mut racks: BTreeMap<&str, (BTreeSet<&str>, bool)> = BTreeMap::new();
        for (id, disk) in &map.topology.disks {
            let server = map.topology.servers.get(&disk.server);
            let (Some(server), DiskState::In) = (server, disk.state) else {
                continue;
            };
            let (hosts, serves) = racks.entry(&server.rack).or_default();
            hosts.insert(&server.host);
            all += 1;
            if self.life(*id) == Life::Down {
                down += 1;
                hosts_down.insert(&server.host);
            } else {
                *serves = true;
            }
        }
        let rack_down = racks
            .values()
            .any(|(hosts, serves)| !serves && hosts.len() > 1);
        hosts_down.len() > 1 && down * 5 > all || racks.len() > 1 && rack_down
    }

    /// How long a dataserver has been silent while this leader listened.
    fn silence(&self, server: ServerId, now: Instant) -> Duration {
        let heard = self.heard.get(&server).map(|heard| heard.at);
        now.saturating_duration_since(heard.unwrap_or(self.began_at))
    }

    fn report(&self, server: ServerId, disk: DiskId) -> Option<&DiskReport> {
        let mut reports = self.heard.get(&server)?.disks.iter();
        reports.find(|report| report.disk == Some(disk))
    }

    /// All servers of the map and their disks, for status pages.
    pub fn servers(&self, map: &ClusterMap, now: Instant) -> Vec<ServerStatus> {
        let mut groups: HashMap<DiskId, u32> = HashMap::new();
        for row in map.rows.values().flatten() {
            row.chain()
                .for_each(|disk| *groups.entry(disk).or_default() += 1);
        }
        let disk_status = |server: ServerId, disk: DiskId, known: &Disk| DiskStatus {
            disk,
            serves: self.serves(disk, known),
            groups: groups.get(&disk).copied().unwrap_or_default(),
            report: self.report(server, disk).cloned().unwrap_or(DiskReport {
                disk: Some(disk),
                path: known.path.clone(),
                replaces_lost: false,
                previous_open: known.open_number,
                open_number: known.open_number,
                total: 0,
                free: 0,
                chunks: 0,
                failed: None,
                trash: 0,
                lost: 0,
                copied: 0,
            }),
            state: known.state,
            returns_in_ms: self.returns_in(disk, now),
            out_in_ms: self.out_in(disk, known, now),
            copies_per_second: self.copies_per_second(server, disk),
        };
        let status = |(id, server): (&ServerId, &Server)| ServerStatus {
            server: *id,
            address: server.address.clone(),
            host: server.host.clone(),
            serves: self.answers(map, *id, now),
            heard_ms_ago: self
                .heard
                .get(id)
                .map(|heard| now.saturating_duration_since(heard.at).as_millis() as u64),
            disks: map
                .disks_of(*id)
                .map(|(disk, known)| disk_status(*id, disk, known))
                .collect(),
        };
        map.topology.servers.iter().map(status).collect()
    }

    fn copies_per_second(&self, server: ServerId, disk: DiskId) -> u64 {
        let heard = self.heard.get(&server);
        let rate = heard.and_then(|heard| heard.copying.get(&disk));
        rate.copied().unwrap_or_default()
    }

    fn out_in(&self, id: DiskId, disk: &Disk, now: Instant) -> Option<u64> {
        let down_for = match self.life(id) {
            Life::Down => self.down_for(id, now)?,
            // It counts on once this leader finds it silent too.
            Life::Unheard => *self.down_before.get(&id)?,
            Life::Up | Life::Returning => return None,
        };
        let left = self.out_after.saturating_sub(down_for).as_millis() as u64;
        (disk.state == DiskState::In).then_some(left)
    }

    fn returns_in(&self, disk: DiskId, now: Instant) -> Option<u64> {
        let lived = self.lives.get(&disk)?;
        let waited = now.saturating_duration_since(lived.since);
        (lived.life == Life::Returning)
            .then(|| lived.wait().saturating_sub(waited).as_millis() as u64)
    }
}

#[cfg(test)]
mod tests;
