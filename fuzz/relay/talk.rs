//! What two sincere peers say to each other: requests, and answers to those that have arrived.

use ebbtide::protocol::Direction;
use ebbtide::relay::Order;

use super::judge;
use super::peer::Peer;
use super::words::{self, Request};

/// Requests that a client sends before it waits.
const MOST_OUTSTANDING: usize = 20;

/// What floods make of a peer's words at most: more memory in one piece is the relay's mistake
/// (`-malloc_limit_mb=8`), and must not be the peers'.
const MOST_SAID_BYTES: usize = 2 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fresh,
    Tcp,
    Http1,
    WebSocket,
    Http2,
}

/// A conversation, as long as nobody strays from it.
pub struct Talk {
    setting: u8,
    kind: Kind,
    is_sincere: bool,
    /// What the client has asked, and where in its words that ends; the first so many are answered.
    asked: Vec<(usize, Request)>,
    answered: usize,
    /// Streams that the application has answered.
    streams: Vec<u32>,
    next_stream: u32,
    /// So much of what the application said has to arrive in a drain.
    owed: usize,
    switched: usize,
}

impl Talk {
    pub fn new(setting: u8, is_edited: bool) -> Talk {
        Talk {
            setting,
            kind: if setting == 0 { Kind::Tcp } else { Kind::Fresh },
            is_sincere: !is_edited,
            asked: Vec::new(),
            answered: 0,
            streams: Vec::new(),
            next_stream: 1,
            owed: 0,
            switched: 0,
        }
    }

    /// Somebody says something out of place.
    pub fn strays(&mut self) {
        self.is_sincere = self.kind == Kind::Tcp;
    }

    /// How much of what `from` said has to arrive, whatever edits there were.
    pub fn owed(&self, direction: Direction, order: Order, from: &Peer) -> usize {
        let all = from.says.len();
        match (direction, order, self.kind) {
            (_, Order::Serve, _) => all,
            (_, Order::Drain | Order::Retire, Kind::Tcp) => all,
            (Direction::FromClient, Order::Leave, Kind::Tcp) => all,
            (_, Order::Drain | Order::Retire, Kind::WebSocket) if self.is_sincere => all,
            (Direction::FromUpstream, Order::Drain | Order::Retire, _) if self.is_sincere => {
                self.owed
            }
            (Direction::FromUpstream, Order::Leave, Kind::Http2) if self.is_sincere => self.owed,
            _ => 0,
        }
    }

    /// The client asks for something.
    pub fn ask(&mut self, which: u8, client: &mut Peer, upstream: &mut Peer) {
        if self.kind == Kind::Fresh {
            let is_http2 = self.setting == 2 || (self.setting == 3 && which >= 128);
            self.kind = if is_http2 { Kind::Http2 } else { Kind::Http1 };
            if is_http2 {
                client.say(words::PREFACE);
                upstream.say(words::SETTINGS);
            }
        }
        match self.kind {
            Kind::Fresh => {}
            Kind::Tcp => client.say(&[b'?', which]),
            Kind::Http1 => {
                let waits =
                    matches!(self.asked.last(), Some((_, Request::Last | Request::Upgrade)))
                        && self.answered < self.asked.len();
                if !waits && !client.ends && self.asked.len() < self.answered + MOST_OUTSTANDING {
                    let (request, bytes) = words::request(which);
                    client.say(bytes);
                    self.asked.push((client.says.len(), request));
                }
            }
            Kind::WebSocket => {
                let direction = Direction::FromUpstream;
                let read = judge::arrived(direction, upstream, client);
                if read.is_some_and(|read| read >= self.switched) {
                    client.say(&words::message(which, true));
                }
            }
            Kind::Http2 => {
                let id = self.next_stream;
                self.next_stream += 2;
                if which.is_multiple_of(2) {
                    client.say(&words::frame(1, 5, id, b"\x82"));
                } else {
                    client.say(&words::frame(1, 4, id, b"\x82"));
                    client.say(&words::frame(0, 1, id, b"body"));
                }
            }
        }
    }

    /// The application answers something that has reached it.
    pub fn answer(&mut self, which: u8, client: &mut Peer, upstream: &mut Peer) {
        match self.kind {
            Kind::Fresh => return,
            Kind::Tcp => upstream.say(&[b'!', which]),
            Kind::Http1 => {
                let Some(request) = self.take_request(upstream) else { return };
                let (bytes, ends) = words::answer(request, which);
                upstream.say(bytes);
                if bytes == words::SWITCH {
                    self.kind = Kind::WebSocket;
                    self.switched = upstream.says.len();
                }
                upstream.ends |= ends || request == Request::Last;
            }
            Kind::WebSocket => upstream.say(&words::message(which, false)),
            Kind::Http2 => {
                if which == 8 {
                    // It waits for the client's answer to the relay's PING.
                    client.say(&words::frame(6, 1, 0, &words::PING));
                    return;
                }
                let Some(id) = self.take_stream(upstream) else { return };
                upstream.say(&words::frame(1, 4, id, b"\x88"));
                upstream.say(&words::frame(0, 1, id, &vec![which; usize::from(which)]));
            }
        }
        self.owed = upstream.says.len();
    }

    /// A peer says more than any buffer holds.
    pub fn flood(&mut self, direction: Direction, bytes: usize, peer: &mut Peer) {
        let bytes = bytes.min(128 * 1024).min(MOST_SAID_BYTES.saturating_sub(peer.says.len()));
        match (self.kind, direction) {
            (Kind::Http1, Direction::FromUpstream) => {
                if let Some(request) = self.take_request(peer) {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
                    peer.say(head.as_bytes());
                    if request != Request::Head {
                        peer.say(&vec![b'x'; bytes]);
                    }
                    peer.ends |= request == Request::Last;
                }
            }
            (Kind::WebSocket, Direction::FromUpstream) => {
                peer.say(&[&[0x82, 127][..], &(bytes as u64).to_be_bytes()].concat());
                peer.say(&vec![b'x'; bytes]);
            }
            _ => {
                self.strays();
                peer.say(&vec![b'x'; bytes]);
            }
        }
        if direction == Direction::FromUpstream {
            self.owed = peer.says.len();
        }
    }

    /// The oldest unanswered request, if all of it has arrived.
    fn take_request(&mut self, upstream: &Peer) -> Option<Request> {
        let &(end, request) = self.asked.get(self.answered)?;
        if end > upstream.got.len() || upstream.ends || !self.is_sincere {
            return None;
        }
        self.answered += 1;
        Some(request)
    }

    /// A stream that has arrived whole and is not answered.
    fn take_stream(&mut self, upstream: &Peer) -> Option<u32> {
        let frames = words::frames(upstream.got.get(24..)?);
        let ended = frames.filter(|frame| matches!(frame, [_, _, _, 0 | 1, 1 | 5, ..]));
        let mut ids = ended.filter(|frame| frame.len() > 9).filter_map(words::stream);
        let id = ids.find(|id| !self.streams.contains(id)).filter(|_| !upstream.ends)?;
        self.streams.push(id);
        Some(id)
    }
}
