//! Which targets are to be looked at, and what was found.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Entry, Table, member};
use crate::balancer::Member;
use crate::decide::Finding;
use crate::view::TargetId;
use ebbtide_api::report::Identity;

/// Until a pod that could not be asked is tried again while it reports.
const GREETING_INTERVAL: Duration = Duration::from_secs(60);

/// Whether a target can be asked itself.
///
/// That one does not answer proves something only where it could be reached before: a network policy may keep us away
/// from all of them.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// The address where it has answered.
    answered_at: Option<SocketAddr>,
    /// When it was last asked whether it can be.
    greeted_at: Option<Instant>,
    is_under_way: bool,
}

/// A look to be taken at a target.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) id: TargetId,
    pub(crate) identity: Identity,
    /// Where its `/status` answers.
    pub(crate) addr: Option<SocketAddr>,
    /// What its balancer knows it by, if that is to be asked too: the target is silent.
    pub(crate) member: Option<Member>,
    pub(crate) asked_at: Instant,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It answers.
    Answers,
    /// Another pod answers at its address.
    Another,
    /// Something takes connections there, and is too busy to answer.
    Busy,
    /// Nobody takes connections there.
    Nobody,
    /// It can't be asked, or the answer says nothing.
    Nothing,
    /// The balancer's own check of it succeeds.
    CheckedUp,
    /// The balancer's own check of it fails.
    CheckedDown,
}

impl Table {
    /// The looks to be taken now, those at silent targets first; at most `max`, which count as under way.
    pub(crate) fn take_looks(&mut self, max: usize, now: Instant) -> Vec<Look> {
        let wanted = |entry: &Entry| {
            let is_silent = entry.target.wants_look(self.fleet(&entry.service), now);
            let is_free = !entry.asking.is_under_way && !entry.superseded;
            (is_free && (is_silent || entry.wants_greeting(now))).then_some(is_silent)
        };
        let all = self.targets.iter().filter_map(|(id, entry)| Some((!wanted(entry)?, id.clone())));
        let mut all: Vec<(bool, TargetId)> = all.collect();
        if all.len() > max {
            all.select_nth_unstable(max);
            all.truncate(max);
        }
        all.into_iter().filter_map(|(greets, id)| self.take_look(id, greets, now)).collect()
    }

    fn take_look(&mut self, id: TargetId, greets: bool, now: Instant) -> Option<Look> {
        let entry = self.targets.get_mut(&id)?;
        entry.asking.is_under_way = true;
        entry.asking.greeted_at = Some(now);
        Some(Look {
            id,
            identity: entry.report.identity.clone(),
            addr: entry.admin_addr(),
            member: (!greets).then(|| member(&entry.report, &entry.service)),
            asked_at: now,
        })
    }

    /// Takes what was found. Returns whether it is news that nobody can tell whether a silent target is there.
    pub(crate) fn seen(&mut self, look: &Look, seen: Seen, now: Instant) -> bool {
        let Some(entry) = self.targets.get_mut(&look.id) else {
            return false;
        };
        entry.asking.is_under_way = false;
        match seen {
            Seen::Answers => entry.asking.answered_at = look.addr,
            // Its next report, if there is one, brings it back; until then its address is somebody else's.
            Seen::Another if look.member.is_some() => {
                self.supersede(&look.id);
                return false;
            }
            _ => {}
        }
        if look.member.is_none() {
            return false;
        }
        let could_be_asked = look.addr.is_some() && entry.asking.answered_at == look.addr;
        let finding = match seen {
            Seen::Answers | Seen::CheckedUp => Finding::There,
            Seen::Busy if could_be_asked => Finding::There,
            Seen::Nobody if could_be_asked => Finding::Gone,
            Seen::CheckedDown => Finding::Gone,
            Seen::Busy | Seen::Nobody | Seen::Nothing | Seen::Another => Finding::Unknown,
        };
        let was_explained = !entry.target.is_unexplained();
        entry.target.look(finding, look.asked_at, now);
        let is_news = was_explained && entry.target.is_unexplained();
        self.touch(&look.id);
        self.queue(&look.id, now);
        is_news
    }
}

impl Entry {
    /// Whether it is not known yet that it can be asked.
    fn wants_greeting(&self, now: Instant) -> bool {
        let addr = self.admin_addr();
        let is_due = self.asking.greeted_at.is_none_or(|at| now >= at + GREETING_INTERVAL);
        addr.is_some() && addr != self.asking.answered_at && is_due
    }

    fn admin_addr(&self) -> Option<SocketAddr> {
        let ip = self.report.identity.pod_ip.parse().ok().filter(is_a_pods)?;
        let port = self.report.admin_port.filter(|port| *port != 0)?;
        Some(SocketAddr::new(ip, port))
    }
}

/// Whether a pod may have this address. A cloud's metadata is at a link-local one.
fn is_a_pods(ip: &IpAddr) -> bool {
    let is_odd = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !is_odd && !ip.is_unspecified() && !ip.is_multicast()
}
