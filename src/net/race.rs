//! Several addresses of one name: one after the other, but not each to its end.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::connect_error::Failure;

/// How long an address is alone before the next one is tried beside it.
///
/// # Source
/// RFC 8305 §8, Connection Attempt Delay.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of the two families in turn, beginning with the first; within a family they stay as the
/// resolver has sorted them.
///
/// # Source
/// RFC 8305 §4.
pub(super) fn interleaved(addrs: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut families: [Vec<SocketAddr>; 2] = Default::default();
    let mut is_first_v6 = None;
    for addr in addrs {
        let is_other = *is_first_v6.get_or_insert(addr.is_ipv6()) != addr.is_ipv6();
        let [first, other] = &mut families;
        let family = if is_other { other } else { first };
        if !family.contains(&addr) {
            family.push(addr);
        }
    }
    let [first, other] = families;
    let mut rest = other.into_iter();
    let mut sorted = Vec::new();
    for addr in first {
        sorted.push(addr);
        sorted.extend(rest.next());
    }
    sorted.extend(rest);
    sorted
}

/// The first success of all attempts. Each begins when the one before has failed, or has had
/// [`ATTEMPT_DELAY`]; those that come too late are dropped.
///
/// # Errors
/// The failure that tells most, when all have failed.
///
/// # Cancel safety
/// Dropping it drops every attempt.
pub(super) async fn race<T, F>(
    addrs: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addrs.iter();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut worst: Option<io::Error> = None;
    let mut delay = pin!(sleep_until(Instant::now()));
    poll_fn(|cx| {
        loop {
            let mut at = 0;
            let mut has_failed = false;
            while let Some(one) = running.get_mut(at) {
                match one.as_mut().poll(cx) {
                    Poll::Ready(Ok(success)) => return Poll::Ready(Ok(success)),
                    Poll::Ready(Err(error)) => {
                        drop(running.swap_remove(at));
                        has_failed = true;
                        let is_worse = |worst| Failure::weight(&error) > Failure::weight(worst);
                        if worst.as_ref().is_none_or(is_worse) {
                            worst = Some(error);
                        }
                    }
                    Poll::Pending => at += 1,
                }
            }
            let is_due = has_failed || running.is_empty() || delay.as_mut().poll(cx).is_ready();
            let next = if is_due { waiting.next() } else { None };
            match next {
                Some(addr) => {
                    running.push(Box::pin(attempt(*addr)));
                    delay.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
                }
                None if running.is_empty() => {
                    let none = || io::Error::from(io::ErrorKind::NotFound);
                    return Poll::Ready(Err(worst.take().unwrap_or_else(none)));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rustix::io::Errno;
    use tokio::time::sleep;

    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn the_families_take_turns() {
        let sorted = interleaved(addrs(&["[::1]:1", "[::2]:1", "[::1]:1", "1.1.1.1:1"]));
        assert_eq!(sorted, addrs(&["[::1]:1", "1.1.1.1:1", "[::2]:1"]));
        let sorted = interleaved(addrs(&["1.1.1.1:1", "[::1]:1", "[::2]:1"]));
        assert_eq!(sorted, addrs(&["1.1.1.1:1", "[::1]:1", "[::2]:1"]));
        assert!(interleaved([]).is_empty());
    }

    /// Plays a race in which each address takes so long, and then fails or not; the result, the time,
    /// and when each address was tried.
    async fn play(plan: &[(u64, Result<(), Errno>)]) -> (io::Result<usize>, u128, Vec<u128>) {
        let begun = Instant::now();
        let tries = RefCell::new(Vec::new());
        let numbered = |(_, port)| SocketAddr::from(([127, 0, 0, 1], port));
        let addrs: Vec<_> = plan.iter().zip(0..).map(numbered).collect();
        let result = race(&addrs, |addr| {
            let number = usize::from(addr.port());
            tries.borrow_mut().push(begun.elapsed().as_millis());
            let (milliseconds, result) = plan[number];
            async move {
                sleep(Duration::from_millis(milliseconds)).await;
                result.map(|()| number).map_err(io::Error::from)
            }
        })
        .await;
        (result, begun.elapsed().as_millis(), tries.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_address_does_not_wait_for_the_end_of_the_first() {
        let (winner, took, tries) = play(&[(5000, Err(Errno::TIMEDOUT)), (10, Ok(()))]).await;
        assert_eq!((winner.ok(), took), (Some(1), 260));
        assert_eq!(tries, [0, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_followed_at_once() {
        let (winner, took, tries) = play(&[(1, Err(Errno::CONNREFUSED)), (10, Ok(()))]).await;
        assert_eq!((winner.ok(), took), (Some(1), 11));
        assert_eq!(tries, [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_may_still_win() {
        let (winner, took, _) = play(&[(300, Ok(())), (900, Ok(())), (900, Ok(()))]).await;
        assert_eq!((winner.ok(), took), (Some(0), 300));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_error_that_tells_most_is_told() {
        for (first, second, told) in [
            (Errno::ADDRNOTAVAIL, Errno::CONNREFUSED, Errno::CONNREFUSED),
            (Errno::TIMEDOUT, Errno::CONNREFUSED, Errno::TIMEDOUT),
            (Errno::CONNREFUSED, Errno::MFILE, Errno::MFILE),
        ] {
            let (result, ..) = play(&[(1, Err(first)), (1, Err(second))]).await;
            let error = result.expect_err("nobody");
            assert_eq!(Errno::from_io_error(&error), Some(told));
        }
        assert!(play(&[]).await.0.is_err());
    }
}
