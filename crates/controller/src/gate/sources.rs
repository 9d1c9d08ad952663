//! How many requests one source may send, whoever it says it is.
//!
//! Looked at before anything else of a request is, so that what a stranger can make us do has a bound. A source is
//! an IPv4 address, or the 64 bits of an IPv6 one that one host may vary at will.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::allowance::Allowance;

/// Sources that have an allowance of their own: more pods than one replica serves at once, in about a MiB.
const MAX_SOURCES: usize = 16_384;

/// How often sources that have been quiet are looked for at most, when there are too many.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is logged that somebody sends too much.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// What each source has left.
#[derive(Debug)]
pub(crate) struct Sources {
    per_second: u32,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    allowances: HashMap<IpAddr, Allowance>,
    /// What all share for whom there is no place.
    others: Allowance,
    swept_at: Instant,
    warned_at: Option<Instant>,
}

impl Sources {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let others = Allowance::new(f64::from(per_second), now);
        let known = Known { allowances: HashMap::new(), others, swept_at: now, warned_at: None };
        Sources { per_second, known: Mutex::new(known) }
    }

    /// Requests that one source may send in a second.
    pub(crate) fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Takes one request from what its source has left.
    pub(crate) fn take(&self, addr: IpAddr, now: Instant) -> bool {
        let rate = f64::from(self.per_second);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = known.allowance(source(addr), rate, now).take(rate, now);
        let is_news = known.warned_at.is_none_or(|at| now.duration_since(at) >= WARN_INTERVAL);
        if !is_left && is_news {
            known.warned_at = Some(now);
            tracing::warn!(source = %addr, max = self.per_second, "too many requests, refusing some");
        }
        is_left
    }
}

impl Known {
    fn allowance(&mut self, source: IpAddr, rate: f64, now: Instant) -> &mut Allowance {
        if self.allowances.len() >= MAX_SOURCES && now >= self.swept_at + SWEEP_INTERVAL {
            self.swept_at = now;
            // Who has been quiet for so long that all is left is like one who never came.
            self.allowances.retain(|_, allowance| !allowance.is_whole(rate, now));
        }
        if self.allowances.len() >= MAX_SOURCES && !self.allowances.contains_key(&source) {
            return &mut self.others;
        }
        self.allowances.entry(source).or_insert_with(|| Allowance::new(rate, now))
    }
}

fn source(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_source_has_its_own_and_one_host_has_one() {
        let now = Instant::now();
        let sources = Sources::new(1, now);
        let burst = |text| (0..10).filter(|_| sources.take(addr(text), now)).count();
        assert_eq!(burst("10.0.0.1"), 2);
        assert_eq!(burst("10.0.0.2"), 2);
        assert_eq!(burst("::ffff:10.0.0.1"), 0, "the same, to a dual-stack listener");
        assert_eq!(burst("2001:db8:0:1::1"), 2);
        assert_eq!(burst("2001:db8:0:1:ffff::2"), 0, "the same host may take this one too");
        assert_eq!(burst("2001:db8:0:2::1"), 2);
    }

    #[test]
    fn sources_beyond_the_bound_share_what_there_is_and_the_quiet_make_room() {
        let mut now = Instant::now();
        let sources = Sources::new(1, now);
        let count = u32::try_from(MAX_SOURCES).expect("a number");
        let from = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
        for number in 0..count {
            assert!(sources.take(from(number), now));
        }
        let strangers = (count..2 * count).filter(|number| sources.take(from(*number), now));
        assert_eq!(strangers.count(), 2);
        assert!(sources.take(from(0), now), "who is known keeps what is his");
        let known = || sources.known.lock().expect("whole").allowances.len();
        assert_eq!(known(), MAX_SOURCES);
        now += Duration::from_secs(3);
        assert!(sources.take(from(2 * count), now));
        assert_eq!(known(), 1);
    }
}
