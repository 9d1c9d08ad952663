//! Whose an address is: a pod's goes to another pod when it is gone.
//!
//! Balancers know addresses, so nothing may be said any more of the target that had one before. The owner is the target
//! whose run arrived last, whatever the clocks of both say.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::{Entry, Table, member};
use crate::balancer::Member;
use crate::decide::Run;
use crate::runs::FORMER_PERIOD;
use crate::view::TargetId;

/// Former owners of an address that are remembered, as their last report may still arrive.
const MAX_FORMER: usize = 4;

/// The owner of each address.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    claims: BTreeMap<SocketAddr, Claim>,
}

#[derive(Debug)]
struct Claim {
    owner: TargetId,
    /// Oldest first.
    former: VecDeque<(TargetId, Run)>,
}

impl Addresses {
    /// Frees what a target had.
    pub(super) fn forget(&mut self, id: &TargetId) {
        self.claims.retain(|_, claim| claim.owner != *id);
    }
}

impl Table {
    /// Gives the addresses of a target to it, or forgets it if they have gone to a later one.
    pub(super) fn claim_addresses(&mut self, id: &TargetId, now: Instant) {
        let Some(entry) = self.targets.get(id) else {
            return;
        };
        let run = entry.target.run();
        let Member { ip, ports, .. } = member(&entry.report, &entry.service);
        for addr in ip.into_iter().flat_map(|ip| ports.iter().map(move |port| (ip, *port).into())) {
            let Some(claim) = self.addresses.claims.get_mut(&addr) else {
                let claim = Claim { owner: id.clone(), former: VecDeque::new() };
                self.addresses.claims.insert(addr, claim);
                continue;
            };
            if claim.owner == *id {
                continue;
            }
            let owner = self.targets.get(&claim.owner);
            let speaks = |owner: &Entry| now < owner.target.alive_at() + FORMER_PERIOD;
            if claim.former.contains(&(id.clone(), run)) && owner.is_some_and(speaks) {
                // It is a late report of one that has gone.
                self.supersede(id);
                return;
            }
            let former = std::mem::replace(&mut claim.owner, id.clone());
            if let Some(owner) = owner {
                if claim.former.len() == MAX_FORMER {
                    claim.former.pop_front();
                }
                claim.former.push_back((former.clone(), owner.target.run()));
            }
            self.supersede(&former);
            if let Some(entry) = self.targets.get_mut(id) {
                entry.predecessor = Some(former);
            }
        }
    }
}
