//! Finding dead clients soon while a drain waits for them.
//!
//! Two options of a socket cancel each other: once `TCP_USER_TIMEOUT` is set, Linux ends keep-alive
//! probing when that time-out is over, and the number of unanswered probes counts no more. While
//! bytes are unacknowledged, on the other hand, no probe is sent and the time-out alone decides. So in
//! a drain the time-out is taken away while nothing is unacknowledged, and is there while something is.
//!
//! # Source
//! tcp(7), `TCP_USER_TIMEOUT`: "this option will override keepalive"; Linux `tcp_keepalive_timer`.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::Sleep;

use super::acknowledgement::Acknowledgement;
use super::control::Order;
use crate::net::{Socket, options};

/// Between two looks at whether something is unacknowledged: as long as between two probes.
const LOOK_INTERVAL: Duration = options::DRAINING.interval;

/// What finds out that the client of one connection is dead. Nothing is kept outside a drain.
#[derive(Debug, Default)]
pub(super) struct Liveness(Option<Box<Draining>>);

#[derive(Debug, Default)]
struct Draining {
    /// The time-out that the listener has set, if it has.
    user_timeout: Option<Duration>,
    /// The time-out in force; `None` leaves the decision to the probes.
    in_force: Option<Duration>,
    /// Whether bytes have moved since nothing was unacknowledged.
    has_moved: bool,
    /// Present while something may be unacknowledged.
    timer: Option<Pin<Box<Sleep>>>,
    /// Present while the client has not acknowledged its last answer.
    delivery: Option<Acknowledgement>,
}

impl Liveness {
    /// Sets the client's socket for a drain, or for its end.
    pub(super) fn obey(&mut self, order: Order, client: &Socket) {
        let socket = client.options();
        // A connection that broke meanwhile tells so by itself at the next read: no call's failure
        // matters here.
        if order == Order::Serve {
            let _ = options::set_keep_alive(&socket, options::SERVING);
            let user_timeout = self.0.take().and_then(|draining| draining.user_timeout);
            if user_timeout.is_some() {
                let _ = socket.set_tcp_user_timeout(user_timeout);
            }
        } else if self.0.is_none() {
            let _ = options::set_keep_alive(&socket, options::DRAINING);
            // Without a time-out the probes decide as it is.
            let user_timeout = socket.tcp_user_timeout().ok().flatten();
            let mut draining =
                Draining { user_timeout, in_force: user_timeout, ..Draining::default() };
            if user_timeout.is_some() {
                // What is unacknowledged by now is owed to the client.
                draining.has_moved = true;
                draining.look(client);
                // What the drain says to the client follows behind this look.
                draining.look_again();
            }
            self.0 = Some(Box::new(draining));
        }
    }

    /// The client has acknowledged its last answer, or owes no acknowledgement that anybody waits for.
    pub(super) fn delivered(&mut self) {
        if let Some(draining) = &mut self.0 {
            draining.delivery = None;
        }
    }

    /// Has the relay look again whether the last answer is acknowledged: no kernel tells when it is.
    pub(super) fn poll_delivery(&mut self, cx: &mut Context<'_>) {
        let Some(draining) = &mut self.0 else { return };
        draining.delivery.get_or_insert_default().poll_look(cx);
    }

    /// Looks again when it is time. `progressed`: bytes have moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, client: &Socket, progressed: bool) {
        let Some(draining) = &mut self.0 else { return };
        if progressed && draining.user_timeout.is_some() {
            draining.has_moved = true;
            if draining.timer.is_none() {
                draining.look_again();
            }
        }
        while draining.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            draining.timer = None;
            if draining.look(client) {
                draining.look_again();
            }
        }
    }
}

impl Draining {
    /// Sets the time-out that fits. `true` when something is unacknowledged.
    fn look(&mut self, client: &Socket) -> bool {
        let is_owed = options::unacknowledged_bytes(client).unwrap_or_default() > 0;
        self.has_moved &= is_owed;
        let wanted = match (is_owed, self.has_moved) {
            (false, _) => None,
            // Perhaps the client reads nothing for now: it has the time that the listener grants.
            (true, true) => self.user_timeout,
            // The client had acknowledged everything: this is our farewell alone, which takes the place
            // of the probes.
            (true, false) => self.user_timeout.min(Some(options::DRAINING.dead_after())),
        };
        if wanted != self.in_force && client.options().set_tcp_user_timeout(wanted).is_ok() {
            self.in_force = wanted;
        }
        is_owed
    }

    /// The looks of many connections are spread over the interval.
    fn look_again(&mut self) {
        let delay = LOOK_INTERVAL.mul_f64(0.5 + fastrand::f64());
        self.timer = Some(Box::pin(tokio::time::sleep(delay)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::reactor;

    const FIVE_MINUTES: Duration = Duration::from_secs(300);

    /// A client that reads nothing, and the proxy's socket of it.
    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let socket = Socket::new(OwnedFd::from(accepted)).unwrap();
        socket.options().set_tcp_user_timeout(Some(FIVE_MINUTES)).unwrap();
        options::set_keep_alive(&socket.options(), options::SERVING).unwrap();
        (client, socket)
    }

    /// Runs a test as a worker that has timers.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _timers = runtime.enter();
        reactor::block_on(test).unwrap();
    }

    fn in_force(socket: &Socket) -> (Option<Duration>, u32) {
        let options = socket.options();
        (options.tcp_user_timeout().unwrap(), options.tcp_keepalive_retries().unwrap())
    }

    fn fill(socket: &Socket) {
        let mut writer = TcpStream::from(rustix::io::dup(socket).unwrap());
        while writer.write(&[0; 16384]).is_ok() {}
        assert_eq!(writer.write(&[0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn in_a_drain_the_probes_decide_about_a_client_that_has_acknowledged_everything() {
        run(async {
            let (_client, socket) = pair();
            let mut liveness = Liveness::default();
            for order in [Order::Drain, Order::Retire] {
                liveness.obey(order, &socket);
                assert_eq!(in_force(&socket), (None, options::DRAINING.probes));
            }
            liveness.obey(Order::Serve, &socket);
            assert_eq!(in_force(&socket), (Some(FIVE_MINUTES), options::SERVING.probes));
        });
    }

    #[test]
    fn a_client_that_reads_nothing_for_now_keeps_the_listeners_time() {
        run(async {
            let (_client, socket) = pair();
            fill(&socket);
            let mut liveness = Liveness::default();
            liveness.obey(Order::Drain, &socket);
            assert_eq!(in_force(&socket).0, Some(FIVE_MINUTES));
        });
    }

    #[test]
    fn bytes_that_follow_in_the_drain_bring_the_time_out_back() {
        run(async {
            for (has_moved, expected) in
                [(true, FIVE_MINUTES), (false, options::DRAINING.dead_after())]
            {
                let (_client, socket) = pair();
                let mut liveness = Liveness::default();
                liveness.obey(Order::Drain, &socket);
                fill(&socket);
                let draining = liveness.0.as_mut().unwrap();
                draining.has_moved = has_moved;
                assert!(draining.look(&socket), "unacknowledged bytes");
                assert_eq!(in_force(&socket).0, Some(expected));
            }
        });
    }
}
