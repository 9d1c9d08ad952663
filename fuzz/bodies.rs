//! What the fuzz targets do with their input; a test of the crate does it with a small corpus.
//!
//! The input is a list of acts. The first byte of each says what is done, the second how many
//! of the following bytes are read from that side. A relay without sockets does as the tracker
//! says, and checks the contract: answers lead on, what is held is bounded, and while nothing
//! was begun the bytes out are the bytes in.

#![allow(dead_code, reason = "each target uses one of them")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ebbtide::protocol::http1::{DrainOptions, Forwarding, HEAD_LIMIT_BYTES, Options};
use ebbtide::protocol::websocket::{self, Extensions, Farewell};
use ebbtide::protocol::{Direction, Step, Tracker};

enum Act<'a> {
    Read(Direction, &'a [u8]),
    Control(u8),
}

/// Takes the next act off the input.
fn next_act<'a>(input: &mut &'a [u8]) -> Option<Act<'a>> {
    let (&[what, length], rest) = input.split_first_chunk()?;
    if what & 7 == 7 {
        *input = rest;
        return Some(Act::Control(what >> 3));
    }
    let direction = if what & 1 == 0 { Direction::FromClient } else { Direction::FromUpstream };
    let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
    *input = rest;
    Some(Act::Read(direction, bytes))
}

#[derive(Default)]
struct Lane {
    pending: Vec<u8>,
    read: Vec<u8>,
    sent: Vec<u8>,
}

impl Lane {
    fn read(&mut self, bytes: &[u8], may_edit: bool, mut step: impl FnMut(&[u8]) -> Step) {
        self.read.extend_from_slice(bytes);
        self.pending.extend_from_slice(bytes);
        let mut rounds = 0;
        while !self.pending.is_empty() {
            rounds += 1;
            assert!(rounds <= 4 * self.pending.len() + 100_000, "no answer leads on");
            let step = step(&self.pending);
            if !may_edit {
                assert_eq!(step, Step::Pass(self.pending.len()));
            }
            match step {
                Step::Pass(count) => {
                    assert!(count > 0);
                    self.sent.extend(self.pending.drain(..count));
                }
                Step::Drop(count) => {
                    assert!(count > 0);
                    self.pending.drain(..count);
                }
                Step::Insert(bytes) => self.sent.extend(bytes),
                Step::Hold => {
                    assert!(self.pending.len() <= HEAD_LIMIT_BYTES);
                    return;
                }
            }
        }
        assert!(may_edit || self.sent == self.read, "bytes out are not bytes in");
    }
}

/// Fuzzes the tracker of HTTP/1 and what it may become.
pub fn http1(mut input: &[u8]) {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let forwarding = input.first().filter(|byte| **byte > 250).map(|_| Forwarding::Both);
    let mut may_edit = forwarding.is_some();
    let options = Options { forwarding, ..Options::default() };
    let mut tracker = Tracker::http1(Arc::new(options), client);
    let (mut from_client, mut from_upstream) = (Lane::default(), Lane::default());
    while let Some(act) = next_act(&mut input) {
        match act {
            Act::Read(direction @ Direction::FromClient, bytes) => {
                from_client.read(bytes, may_edit, |bytes| tracker.step(direction, bytes));
            }
            Act::Read(direction @ Direction::FromUpstream, bytes) => {
                from_upstream.read(bytes, may_edit, |bytes| tracker.step(direction, bytes));
            }
            Act::Control(0..4) => {
                may_edit = true;
                tracker.begin_drain(&DrainOptions::default());
            }
            Act::Control(4..8) => tracker.end_drain(),
            Act::Control(8..10) => tracker.end(Direction::FromClient),
            Act::Control(10..12) => tracker.end(Direction::FromUpstream),
            Act::Control(_) => {
                may_edit = true;
                tracker.leave(&Farewell::new(1001, "draining", [1, 2, 3, 4]));
                let _ = tracker.interject(Direction::FromUpstream);
            }
        }
        let _ = (tracker.class(), tracker.is_safe_point(), tracker.farewell_done());
        assert!(tracker.unfinished().is_none() || !tracker.is_safe_point());
        let _ = tracker.take_events();
    }
}

/// Fuzzes the tracker of a WebSocket.
pub fn websocket(mut input: &[u8]) {
    let mut may_edit = false;
    let mut tracker = websocket::Tracker::new(Extensions::Negotiated);
    let (mut from_client, mut from_upstream) = (Lane::default(), Lane::default());
    while let Some(act) = next_act(&mut input) {
        match act {
            Act::Read(direction @ Direction::FromClient, bytes) => {
                from_client.read(bytes, may_edit, |bytes| tracker.step(direction, bytes));
            }
            Act::Read(direction @ Direction::FromUpstream, bytes) => {
                from_upstream.read(bytes, may_edit, |bytes| tracker.step(direction, bytes));
            }
            Act::Control(_) => {
                may_edit = true;
                tracker.leave(&Farewell::new(1001, "draining", [1, 2, 3, 4]));
            }
        }
        let _ = (tracker.class(), tracker.leave_done());
    }
}
