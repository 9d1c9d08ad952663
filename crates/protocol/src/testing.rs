//! Scripts of bytes, played to a tracker by a relay without sockets, whole and cut everywhere.

use super::{Class, Direction, Events, Step, Tracker, http1, websocket};
use Direction::{FromClient, FromUpstream};

/// What a script asks of a tracker.
pub(super) trait Watch {
    fn step(&mut self, direction: Direction, bytes: &[u8]) -> Step;
    fn class(&self) -> Class;
    fn unseen_bytes(&self, _: Direction) -> u64 {
        0
    }
    fn skip(&mut self, _: Direction, _: u64) {}
    fn begin_drain(&mut self, _: &http1::DrainOptions) {}
    fn end_drain(&mut self) {}
    fn end(&mut self, _: Direction) {}
    fn is_safe_point(&self) -> bool {
        false
    }
    fn is_reusable(&self) -> bool {
        false
    }
    fn farewell_done(&self) -> bool {
        false
    }
    fn leave(&mut self, farewell: &websocket::Farewell);
    fn interject(&mut self, direction: Direction) -> Option<Vec<u8>>;
    fn leave_done(&self) -> bool;
    fn take_events(&mut self) -> Events {
        Events::default()
    }
}

macro_rules! watch_all {
    ($tracker:ty) => {
        impl Watch for $tracker {
            fn step(&mut self, direction: Direction, bytes: &[u8]) -> Step {
                self.step(direction, bytes)
            }
            fn class(&self) -> Class {
                self.class()
            }
            fn unseen_bytes(&self, direction: Direction) -> u64 {
                self.unseen_bytes(direction)
            }
            fn skip(&mut self, direction: Direction, bytes: u64) {
                self.skip(direction, bytes);
            }
            fn begin_drain(&mut self, options: &http1::DrainOptions) {
                self.begin_drain(options);
            }
            fn end_drain(&mut self) {
                self.end_drain();
            }
            fn end(&mut self, direction: Direction) {
                self.end(direction);
            }
            fn is_safe_point(&self) -> bool {
                self.is_safe_point()
            }
            fn is_reusable(&self) -> bool {
                self.is_reusable()
            }
            fn farewell_done(&self) -> bool {
                self.farewell_done()
            }
            fn leave(&mut self, farewell: &websocket::Farewell) {
                self.leave(farewell);
            }
            fn interject(&mut self, direction: Direction) -> Option<Vec<u8>> {
                self.interject(direction)
            }
            fn leave_done(&self) -> bool {
                self.leave_done()
            }
            fn take_events(&mut self) -> Events {
                self.take_events()
            }
        }
    };
}
watch_all!(http1::Tracker);
watch_all!(Tracker);

impl Watch for websocket::Tracker {
    fn step(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        self.step(direction, bytes)
    }
    fn class(&self) -> Class {
        self.class()
    }
    fn leave(&mut self, farewell: &websocket::Farewell) {
        self.leave(farewell);
    }
    fn interject(&mut self, direction: Direction) -> Option<Vec<u8>> {
        self.interject(direction)
    }
    fn leave_done(&self) -> bool {
        self.leave_done()
    }
}

#[derive(Clone, Debug)]
enum Act {
    Send(Direction, Vec<u8>),
    Drain(http1::DrainOptions),
    Undrain,
    End(Direction),
    Leave(websocket::Farewell),
}

/// What is said and done on one connection, in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Script(Vec<Act>);

/// What can be asked of a tracker between two acts; it may not depend on cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one question")]
pub(super) struct State {
    pub(super) class: Class,
    pub(super) is_safe_point: bool,
    pub(super) is_reusable: bool,
    pub(super) farewell_done: bool,
    pub(super) leave_done: bool,
    pub(super) events: Events,
}

/// What came of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) to_client: Vec<u8>,
    pub(super) to_upstream: Vec<u8>,
    /// After each act.
    pub(super) states: Vec<State>,
}

impl Script {
    pub(super) fn new() -> Script {
        Script::default()
    }

    pub(super) fn client(self, bytes: impl AsRef<[u8]>) -> Script {
        self.then(Act::Send(FromClient, bytes.as_ref().to_vec()))
    }

    pub(super) fn upstream(self, bytes: impl AsRef<[u8]>) -> Script {
        self.then(Act::Send(FromUpstream, bytes.as_ref().to_vec()))
    }

    pub(super) fn drain(self) -> Script {
        self.drain_with(http1::DrainOptions::default())
    }

    pub(super) fn drain_with(self, options: http1::DrainOptions) -> Script {
        self.then(Act::Drain(options))
    }

    pub(super) fn undrain(self) -> Script {
        self.then(Act::Undrain)
    }

    pub(super) fn end(self, direction: Direction) -> Script {
        self.then(Act::End(direction))
    }

    pub(super) fn leave(self, farewell: websocket::Farewell) -> Script {
        self.then(Act::Leave(farewell))
    }

    fn then(mut self, act: Act) -> Script {
        self.0.push(act);
        self
    }

    /// Whether the tracker may do anything but pass all bytes.
    fn may_edit(&self) -> bool {
        self.0.iter().any(|act| matches!(act, Act::Drain(_) | Act::Leave(_)))
    }

    fn sent(&self, from: Direction) -> Vec<u8> {
        let mut sent = Vec::new();
        for act in &self.0 {
            if let Act::Send(direction, bytes) = act
                && *direction == from
            {
                sent.extend_from_slice(bytes);
            }
        }
        sent
    }

    /// Plays the script whole, with every send cut at every offset, as single bytes, and without
    /// showing what need not be seen; checks that nothing depends on that, and that an unedited
    /// connection is passed untouched.
    pub(super) fn play<T: Watch>(&self, tracker: impl Fn() -> T) -> Outcome {
        let whole = self.play_cut(tracker(), |_, _| Vec::new());
        let mut relay = Relay::new(tracker(), self.may_edit());
        relay.skips = true;
        let skipped = self.play_on(relay, |_, _| Vec::new());
        assert_eq!(show(&skipped), show(&whole), "with bodies unseen: {self:?}");
        let single = self.play_cut(tracker(), |_, length| (1..length).collect());
        assert_eq!(show(&single), show(&whole), "as single bytes: {self:?}");
        for (number, act) in self.0.iter().enumerate() {
            let Act::Send(_, bytes) = act else { continue };
            // The middle of a very long send tells nothing that its ends do not.
            let near = bytes.len().min(if bytes.len() > 1024 { 24 } else { 1024 });
            for offset in (1..near).chain((bytes.len() - near).max(1)..bytes.len()) {
                let cut = self
                    .play_cut(tracker(), |at, _| if at == number { vec![offset] } else { vec![] });
                assert_eq!(cut, whole, "act {number} cut at {offset}: {self:?}");
            }
        }
        if !self.may_edit() {
            assert_eq!(whole.to_client, self.sent(FromUpstream));
            assert_eq!(whole.to_upstream, self.sent(FromClient));
        }
        whole
    }

    /// Plays the script with the cuts that are named for each act and its length.
    pub(super) fn play_cut<T: Watch>(
        &self,
        tracker: T,
        cuts: impl Fn(usize, usize) -> Vec<usize>,
    ) -> Outcome {
        self.play_on(Relay::new(tracker, self.may_edit()), cuts)
    }

    fn play_on<T: Watch>(
        &self,
        mut relay: Relay<T>,
        cuts: impl Fn(usize, usize) -> Vec<usize>,
    ) -> Outcome {
        let mut states = Vec::new();
        for (number, act) in self.0.iter().enumerate() {
            match act {
                Act::Send(direction, bytes) => {
                    let mut start = 0;
                    for cut in cuts(number, bytes.len()).into_iter().chain([bytes.len()]) {
                        relay.read(*direction, &bytes[start..cut]);
                        start = cut;
                    }
                    relay.interject();
                }
                Act::Drain(options) => {
                    relay.tracker.begin_drain(options);
                    relay.interject();
                }
                Act::Undrain => relay.tracker.end_drain(),
                Act::End(direction) => relay.end(*direction),
                Act::Leave(farewell) => {
                    relay.tracker.leave(farewell);
                    relay.interject();
                }
            }
            states.push(relay.state());
        }
        Outcome { to_client: relay.to_client, to_upstream: relay.to_upstream, states }
    }
}

fn show(outcome: &Outcome) -> (String, String, &[State]) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&outcome.to_client), text(&outcome.to_upstream), &outcome.states)
}

impl Outcome {
    pub(super) fn last(&self) -> State {
        *self.states.last().expect("a script has acts")
    }

    pub(super) fn classes(&self) -> Vec<&'static str> {
        self.states.iter().map(|state| state.class.name()).collect()
    }

    pub(super) fn client_read(&self) -> String {
        String::from_utf8_lossy(&self.to_client).into_owned()
    }

    pub(super) fn upstream_read(&self) -> String {
        String::from_utf8_lossy(&self.to_upstream).into_owned()
    }
}

/// The relay's loop, without sockets; it also checks the contract of `step`.
pub(super) struct Relay<T> {
    pub(super) tracker: T,
    may_edit: bool,
    /// Whether it shows the tracker only what has to be seen.
    skips: bool,
    from_client: Vec<u8>,
    from_upstream: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    pub(super) to_upstream: Vec<u8>,
    events: Events,
}

impl<T: Watch> Relay<T> {
    pub(super) fn new(tracker: T, may_edit: bool) -> Relay<T> {
        Relay {
            tracker,
            may_edit,
            skips: false,
            from_client: Vec::new(),
            from_upstream: Vec::new(),
            to_client: Vec::new(),
            to_upstream: Vec::new(),
            events: Events::default(),
        }
    }

    pub(super) fn read(&mut self, direction: Direction, bytes: &[u8]) {
        let (pending, sent) = match direction {
            FromClient => (&mut self.from_client, &mut self.to_upstream),
            FromUpstream => (&mut self.from_upstream, &mut self.to_client),
        };
        pending.extend_from_slice(bytes);
        let mut rounds = 0;
        while !pending.is_empty() {
            rounds += 1;
            assert!(rounds < 100_000, "a step that leads nowhere");
            let unseen = self.tracker.unseen_bytes(direction).min(pending.len() as u64);
            if self.skips && unseen > 0 {
                self.tracker.skip(direction, unseen);
                sent.extend(pending.drain(..unseen as usize));
                continue;
            }
            let step = self.tracker.step(direction, pending);
            if !self.may_edit {
                assert_eq!(step, Step::Pass(pending.len()), "nothing is to be edited");
            }
            match step {
                Step::Pass(count) => {
                    assert!(count > 0, "Pass(0)");
                    sent.extend(pending.drain(..count));
                }
                Step::Drop(count) => {
                    assert!(count > 0, "Drop(0)");
                    pending.drain(..count);
                }
                Step::Insert(inserted) => sent.extend(inserted),
                Step::Hold => {
                    assert!(pending.len() <= http1::HEAD_LIMIT_BYTES, "held too much");
                    break;
                }
            }
        }
        add(&mut self.events, self.tracker.take_events());
    }

    pub(super) fn interject(&mut self) {
        if self.from_client.is_empty() {
            let close = self.tracker.interject(FromClient);
            self.to_upstream.extend(close.unwrap_or_default());
        }
        if self.from_upstream.is_empty() {
            let close = self.tracker.interject(FromUpstream);
            self.to_client.extend(close.unwrap_or_default());
        }
    }

    pub(super) fn events(&self) -> Events {
        self.events
    }

    pub(super) fn end(&mut self, direction: Direction) {
        self.tracker.end(direction);
        self.read(direction, b"");
    }

    fn state(&self) -> State {
        State {
            class: self.tracker.class(),
            is_safe_point: self.tracker.is_safe_point(),
            is_reusable: self.tracker.is_reusable(),
            farewell_done: self.tracker.farewell_done(),
            leave_done: self.tracker.leave_done(),
            events: self.events,
        }
    }
}

fn add(total: &mut Events, more: Events) {
    total.requests_begun += more.requests_begun;
    total.refused += more.refused;
    for (total, more) in total.responses_ended.iter_mut().zip(more.responses_ended) {
        *total += more;
    }
}
