//! The relay and its tracker between two peers, with real sockets and a clock that the input moves.
//!
//! The input is a list of acts, two bytes each and what they carry: a peer says something, stops
//! reading, writes only so much, ends, or vanishes; time passes; an order is given. The relay is polled when it
//! was woken, and never else. What holds at every rest and at the end:
//!
//! - outside a drain the bytes out are the bytes in, none is held back, and a half-close is passed on;
//! - in one, what arrives is what was said but for the documented edits (`judge`), and what a
//!   sincere application has answered arrives whole (`talk`);
//! - when both peers have ended the relay ends; it does not spin; what it has taken and not given is bounded.

mod judge;
mod peer;
mod talk;
mod words;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ebbtide::net::Socket;
use ebbtide::protocol::http1::{DrainOptions, Forwarding, Options};
use ebbtide::protocol::{Class, Direction, Events, Surprise, Tracker, Word};
use ebbtide::reactor;
use ebbtide::relay::{
    ClientTimeouts, Control, End, IdleClose, IdleTimeouts, Lent, Observer, Order, Relay,
    RelaySettings,
};
use tokio::runtime::{Builder, Runtime};

use self::peer::Peer;
use self::talk::Talk;

/// What the relay may have read and not delivered: its largest buffer, a held head, and what the
/// kernel takes for a socket at most.
const IN_FLIGHT_BYTES: u64 = 1024 * 1024;

/// Rounds of the two peers and the relay within which all that can move has moved.
const ROUNDS: u32 = 20_000;

/// Time that a connection needs to end when both peers have, in steps: the longest farewell is
/// a PING's wait and a staged close.
const SETTLING: u32 = 60;

/// A send buffer in which hardly a word fits.
const SMALL_BYTES: usize = 1;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
}

/// Does what the input says.
pub fn run(data: &[u8]) {
    let Some((&[kind, manners], acts)) = data.split_first_chunk() else { return };
    RUNTIME.with(|runtime| runtime.block_on(connection(&Setting::new(kind, manners), acts)));
}

/// What the first two bytes choose.
struct Setting {
    kind: u8,
    buffer_bytes: Option<usize>,
    forwarding: Option<Forwarding>,
    drain_deadline: bool,
    manners: RelaySettings,
}

impl Setting {
    fn new(kind: u8, manners: u8) -> Setting {
        let seconds = Duration::from_secs;
        let idle_timeouts = match manners & 4 {
            0 => IdleTimeouts::default(),
            _ => IdleTimeouts { half_closed: seconds(10), open: seconds(30) },
        };
        Setting {
            kind: kind & 3,
            buffer_bytes: (kind & 4 == 0).then_some(SMALL_BYTES),
            forwarding: (kind & 0x18 == 0x18).then_some(Forwarding::Both),
            drain_deadline: manners & 8 != 0,
            manners: RelaySettings {
                idle_timeouts,
                idle_close: match manners & 3 {
                    0 => IdleClose::Immediate,
                    1 => IdleClose::OnResponse,
                    _ => IdleClose::After(seconds(2)),
                },
                client_timeouts: ClientTimeouts::default(),
                websocket_code: 1001,
                websocket_reason: words::REASON.to_owned(),
            },
        }
    }

    fn tracker(&self) -> Tracker {
        let options = Arc::new(Options { forwarding: self.forwarding, ..Options::default() });
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        match self.kind {
            0 => Tracker::Tcp,
            1 => Tracker::http1(options, client),
            2 => Tracker::http2(words::PING),
            _ => Tracker::auto(options, client, words::PING),
        }
    }
}

/// Remembers what the relay tells of its class.
struct Watcher {
    class: Mutex<Class>,
    drain_options: DrainOptions,
}

impl Observer for &Watcher {
    fn first_byte(&mut self) {}
    fn class(&mut self, class: Class) {
        *self.class.lock().expect("no panic while it is held") = class;
    }
    fn events(&mut self, _: Events) {}
    fn told(&self, _: Word) {}
    fn lent(&self, _: Lent) {}
    fn drain_options(&self) -> DrainOptions {
        self.drain_options.clone()
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// One connection and all that is known of it.
struct Connection<'a> {
    setting: &'a Setting,
    control: &'a Control,
    watcher: &'a Watcher,
    relay: Pin<Box<Relay<'a, &'a Watcher>>>,
    woken: Arc<Woken>,
    end: Option<End>,
    client: Peer,
    upstream: Peer,
    talk: Talk,
    /// The furthest order that was ever given.
    order: Order,
}

async fn connection(setting: &Setting, mut acts: &[u8]) {
    // Jitter and masks are the same each time.
    fastrand::seed(7);
    let (client, to_client) = Peer::new(setting.buffer_bytes);
    let (upstream, to_upstream) = Peer::new(setting.buffer_bytes);
    reactor::turn().expect("a worker");
    let to_client = Socket::new(to_client).expect("it is watched");
    let to_upstream = Socket::new(to_upstream).expect("it is watched");
    let tracker = setting.tracker();
    let control = Control::new(tracker.class());
    let drain_options = DrainOptions::default();
    let watcher = Watcher {
        class: Mutex::new(tracker.class()),
        drain_options: if setting.drain_deadline {
            drain_options.with_drain_deadline("Thu, 01 Jan 1970 00:00:00 GMT")
        } else {
            drain_options
        },
    };
    let manners = &setting.manners;
    let mut told = &watcher;
    let relay = Relay::new(&to_client, Some(to_upstream), &control, tracker, manners, &mut told);
    let mut connection = Connection {
        setting,
        control: &control,
        watcher: &watcher,
        relay: Box::pin(relay),
        woken: Arc::new(Woken(AtomicBool::new(true))),
        end: None,
        client,
        upstream,
        talk: Talk::new(setting.kind, setting.forwarding.is_some()),
        order: Order::Serve,
    };
    connection.rest().await;
    while let Some((&[what, how], rest)) = acts.split_first_chunk() {
        acts = connection.act(what & 0x1f, how, rest).await;
        if what & 0x80 == 0 {
            connection.rest().await;
        }
    }
    connection.settle().await;
    let Connection { relay, end, client, upstream, talk, order, .. } = connection;
    drop(relay);
    drop(to_client);
    Outcome { setting, end, client, upstream, talk, order }.judge();
}

impl Connection<'_> {
    /// One act; what is left of the input behind it.
    async fn act<'i>(&mut self, what: u8, how: u8, input: &'i [u8]) -> &'i [u8] {
        let limit = match how {
            255 => usize::MAX,
            how => usize::from(how) * if self.setting.buffer_bytes.is_some() { 8 } else { 512 },
        };
        match what {
            0 | 1 => {
                let (bytes, rest) = input.split_at(usize::from(how).min(input.len()));
                self.talk.strays();
                if what == 0 { &mut self.client } else { &mut self.upstream }.say(bytes);
                return rest;
            }
            2 => self.talk.ask(how, &mut self.client, &mut self.upstream),
            3 => self.talk.answer(how, &mut self.client, &mut self.upstream),
            4 | 5 => {
                self.talk.strays();
                if what == 4 { &mut self.client } else { &mut self.upstream }
                    .say(&words::stray(how));
            }
            6 => self.client.may_write = limit,
            7 => self.upstream.may_write = limit,
            8 => self.client.may_read = limit,
            9 => self.upstream.may_read = limit,
            10 => self.client.ends = true,
            11 => self.upstream.ends = true,
            12 => self.give(if how < 128 { Order::Drain } else { Order::Retire }),
            13 => self.give(Order::Serve),
            14 => self.give(Order::Leave),
            15 => self.give(if how < 128 { Order::Close } else { Order::Reset }),
            16 => {
                let millis = [1, 5, 100, 1000, 2000, 3000, 5000, 30_000][usize::from(how % 8)];
                tokio::time::advance(Duration::from_millis(millis)).await;
            }
            17 => self.talk.flood(Direction::FromClient, limit, &mut self.client),
            18 => self.talk.flood(Direction::FromUpstream, limit, &mut self.upstream),
            19 => self.client.vanish(),
            20 => self.upstream.vanish(),
            _ => {}
        }
        input
    }

    fn give(&mut self, order: Order) {
        self.control.order(order);
        self.order = self.order.max(order);
    }

    /// Lets everything move that can.
    async fn rest(&mut self) {
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let mut has_moved = self.client.turn();
            has_moved |= self.upstream.turn();
            // The runtime looks at its timers and the worker at its sockets, and both wake whom they concern.
            tokio::task::yield_now().await;
            reactor::turn().expect("a worker");
            has_moved |= self.poll();
            quiet = if has_moved { 0 } else { quiet + 1 };
            if quiet == 2 {
                return self.check();
            }
        }
        panic!("the relay goes round in circles");
    }

    fn poll(&mut self) -> bool {
        if self.end.is_some() || !self.woken.0.swap(false, Ordering::AcqRel) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        if let Poll::Ready(end) = self.relay.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.end = Some(end);
        }
        true
    }

    /// What holds whenever nothing moves any more.
    fn check(&self) {
        let Connection { client, upstream, control, .. } = self;
        if self.end.is_some() || client.has_vanished() || upstream.has_vanished() {
            return;
        }
        let reads_all = client.reads_all() && upstream.reads_all();
        if self.order == Order::Serve {
            for (direction, peer) in
                [(Direction::FromClient, upstream), (Direction::FromUpstream, client)]
            {
                let in_flight = control.bytes(direction).saturating_sub(peer.got.len() as u64);
                assert!(in_flight < IN_FLIGHT_BYTES, "the relay holds {in_flight} bytes");
            }
            if reads_all {
                let is_plain = self.setting.forwarding.is_none();
                assert!(!is_plain || upstream.got == client.says[..client.written], "held back");
                assert!(client.got == upstream.says[..upstream.written], "held back");
                assert!(upstream.heard_end || !client.has_ended, "no FIN for the application");
                assert!(client.heard_end || !upstream.has_ended, "no FIN for the client");
            }
        }
        let class = *self.watcher.class.lock().expect("no panic while it is held");
        // Who has had the last answer, and our FIN, hears no more of an application that goes on unasked.
        let is_over = class == Class::Opaque(Surprise::UnaskedResponse) && client.heard_end;
        if self.order <= Order::Retire
            && reads_all
            && !is_over
            && matches!(class, Class::Opaque(_) | Class::Tcp | Class::Upgraded)
        {
            let arrived = self.arrived(Direction::FromUpstream);
            assert_eq!(arrived, Some(upstream.written), "held back of {class:?}");
        }
    }

    fn arrived(&self, direction: Direction) -> Option<usize> {
        let (from, to) = match direction {
            Direction::FromClient => (&self.client, &self.upstream),
            Direction::FromUpstream => (&self.upstream, &self.client),
        };
        judge::arrived(direction, from, to)
    }

    /// Both peers read all, say what they still have to say, and end; then the relay has to.
    async fn settle(&mut self) {
        for peer in [&mut self.client, &mut self.upstream] {
            (peer.may_write, peer.may_read, peer.ends) = (usize::MAX, usize::MAX, true);
        }
        for _ in 0..SETTLING {
            self.rest().await;
            if self.end.is_some() {
                return;
            }
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        panic!("both peers have ended, and the relay has not");
    }
}

/// How it ended.
struct Outcome<'a> {
    setting: &'a Setting,
    end: Option<End>,
    client: Peer,
    upstream: Peer,
    talk: Talk,
    order: Order,
}

impl Outcome<'_> {
    fn judge(mut self) {
        // What the relay has left in the kernels.
        self.client.turn();
        self.upstream.turn();
        let Outcome { setting, end, client, upstream, talk, order } = self;
        let is_cut = client.has_vanished()
            || upstream.has_vanished()
            || matches!(end, Some(End::IdleTimeout | End::HalfClosedTimeout));
        let both = [
            (Direction::FromClient, &client, &upstream),
            (Direction::FromUpstream, &upstream, &client),
        ];
        for (direction, from, to) in both {
            let is_edited = order >= Order::Drain || setting.forwarding.is_some();
            if !is_edited || setting.kind == 0 {
                assert!(
                    from.says.starts_with(&to.got),
                    "{direction:?}: bytes out are not bytes in"
                );
            }
            let arrived = judge::arrived(direction, from, to);
            let Some(arrived) = arrived else {
                panic!(
                    "{direction:?}: said {:?}, arrived {:?}",
                    from.says.escape_ascii().to_string(),
                    to.got.escape_ascii().to_string()
                )
            };
            let owed = talk.owed(direction, order, from);
            assert!(
                is_cut || arrived >= owed,
                "{direction:?}: {arrived} of {owed} arrived: {end:?}"
            );
        }
        assert!(is_cut || order > Order::Serve || matches!(end, Some(End::Finished)), "{end:?}");
    }
}
