//! Targets that stand in for each other.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use ebbtide_api::report::Identity;

/// The namespace and the name of what a target is one of.
///
/// The proxy may say it (`EBBTIDE_SERVICE`). Otherwise it is what the pod's name is without what
/// Kubernetes appends: `cart-7d9f8c6b5-x2x4z` of a Deployment, `cart-0` of a StatefulSet and `cart-x2x4z`
/// of a ReplicaSet or a DaemonSet all belong to `cart`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceName {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ServiceName {
    pub(super) fn of(identity: &Identity) -> Self {
        let name = match identity.service.as_str() {
            "" => without_suffixes(&identity.pod_name),
            name => name,
        };
        ServiceName { namespace: identity.namespace.as_str().into(), name: name.into() }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The characters of which Kubernetes makes names: no vowels, nothing that looks like another.
///
/// # Source
/// `k8s.io/apimachinery/pkg/util/rand`.
fn is_generated(part: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    const ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";
    lengths.contains(&part.len()) && part.chars().all(|it| ALPHABET.contains(it))
}

fn without_suffixes(pod: &str) -> &str {
    let Some((owner, last)) = pod.rsplit_once('-') else {
        return pod;
    };
    let is_ordinal = !last.is_empty() && last.bytes().all(|it| it.is_ascii_digit());
    if owner.is_empty() || !(is_ordinal || is_generated(last, 5..=5)) {
        return pod;
    }
    match owner.rsplit_once('-') {
        // A template's hash is the same alphabet, of up to ten characters.
        Some((deployment, hash))
            if !is_ordinal && !deployment.is_empty() && is_generated(hash, 8..=10) =>
        {
            deployment
        }
        _ => owner,
    }
}

/// How many targets of a service are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Serving, and heard of lately.
    pub(super) serving: usize,
    /// Serving when they were last heard of, which is half the time ago after which they are lost.
    pub(super) silent: usize,
    /// On their way out.
    pub(super) draining: usize,
    /// At its end.
    pub(super) drained: usize,
}

impl Census {
    /// Each state by its name.
    pub(super) fn states(&self) -> [(&'static str, usize); 4] {
        [
            ("serving", self.serving),
            ("silent", self.silent),
            ("draining", self.draining),
            ("drained", self.drained),
        ]
    }

    /// Whether so many fell silent that we, rather than they, may be the cause: to deregister most of a
    /// service because reports do not come through would be the outage itself.
    pub(super) fn is_deaf(&self) -> bool {
        self.silent >= 2 && self.silent > self.serving
    }
}

/// A part of a service's targets: a number, or of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// That many.
    Count(NonZeroUsize),
    /// So many of a hundred, rounded down, but never less than one.
    Percent(u8),
}

impl Share {
    /// The share of `all`; at least one, so that a drain can come about at all.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Share::Count(count) => count.get(),
            Share::Percent(percent) => (all * usize::from(percent) / 100).max(1),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a number above 0 nor 1% to 100%");
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Share::Percent(percent)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Share::Count).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Count(count) => write!(f, "{count}"),
            Share::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_tells_its_service() {
        let cases = [
            ("cart-7d9f8c6b5-x2x4z", "cart"),
            ("cart-0", "cart"),
            ("cart-x2x4z", "cart"),
            ("cart-v2-7d9f8c6b5-x2x4z", "cart-v2"),
            ("cart-v2-12", "cart-v2"),
            ("cart", "cart"),
            ("my-cart", "my-cart"),
            ("-0", "-0"),
            ("", ""),
            ("web-front", "web-front"),
        ];
        for (pod, service) in cases {
            assert_eq!(without_suffixes(pod), service, "{pod}");
        }
        let named = Identity { pod_name: "x".into(), service: "y".into(), ..Identity::default() };
        assert_eq!(ServiceName::of(&named).name(), "y");
    }

    #[test]
    fn a_share_is_never_nothing() {
        let share = |text: &str| text.parse::<Share>();
        assert_eq!(share("3").map(|it| it.of(100)), Ok(3));
        assert_eq!(share("25%").map(|it| it.of(10)), Ok(2));
        assert_eq!(share("25%").map(|it| it.of(1)), Ok(1));
        for wrong in ["0", "0%", "101%", "", "%", "-1", "a"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_silent_target_is_lost_and_many_are_our_own_deafness() {
        let census = |serving, silent| Census { serving, silent, ..Census::default() };
        assert!(!census(0, 1).is_deaf());
        assert!(!census(3, 2).is_deaf());
        assert!(census(1, 2).is_deaf());
        assert!(census(0, 50).is_deaf());
    }
}
