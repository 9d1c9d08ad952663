//! One direction of a connection: read, write at once, and hold a buffer only while bytes wait.

use std::io;
use std::task::{Context, Poll, ready};

use super::buffers::{Buffer, Size};
use super::pipes::{PIPE_BYTES, Pipe};
use crate::net::{Socket, optional};
use crate::protocol::{Direction, Step, Tracker, Word};

/// Bytes that one direction moves before it lets other connections have their turn.
const TURN_BYTES: usize = 1024 * 1024;

/// What a direction need know of the rest when it has its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Whether the tracker is asked for words of its own.
    pub(super) may_speak: bool,
    /// Whether the sockets are closed when this direction has ended too: that sends the FIN.
    pub(super) is_last: bool,
}

/// What happened in one turn of a direction.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing more to do until a socket is ready; so many bytes were moved.
    Waiting(usize),
    /// The turn is over although there is more.
    TurnOver(usize),
    /// The source has ended, and its end was passed on behind the last byte.
    Ended(usize),
}

/// Which of the two sockets failed.
#[derive(Debug)]
pub(super) enum Failure {
    Reading(io::Error),
    Writing(io::Error),
}

/// What becomes of the bytes that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// They are sent on.
    Forward,
    /// They are sent on, but the end is not: whoever has this direction decides how the receiver ends.
    ForwardBytes,
    /// What is in flight is sent on, then a FIN; what comes later is thrown away.
    Closing,
    /// They are thrown away.
    Discard,
}

/// A read of so many bytes says that bulk is flowing, which a pipe carries for less.
const BULK_BYTES: usize = 64 * 1024;

/// A read of no more says that it is over.
const MESSAGE_BYTES: usize = 16 * 1024;

/// Bytes that were read and that the receiver has not taken yet.
#[derive(Debug)]
enum Pending {
    /// From `start` to `end` of what is here.
    Buffered { buffer: Buffer, start: u32, end: u32 },
    /// In the kernel.
    Piped(Pipe),
    /// All of it was taken; it may have to be sent again, on another connection.
    Kept { buffer: Buffer, end: u32 },
}

impl Pending {
    fn buffered(buffer: Buffer, end: usize) -> Self {
        Pending::Buffered { buffer, start: 0, end: place(end) }
    }
}

/// A place in a buffer, in half a word: every idle connection has room for four.
fn place(bytes: usize) -> u32 {
    u32::try_from(bytes)
        .expect("no buffer has 4 GiB: a read fills the large one, and a head is bounded")
}

/// How much the last read found, which is what the next one expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Messages,
    /// More than a message: the large buffer.
    Burst,
    /// A pipe, where the tracker need not see.
    Bulk,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    direction: Direction,
    pending: Option<Pending>,
    /// Bytes that the tracker wants to see again with what follows them; only while it edits.
    held: Box<[u8]>,
    sink: Sink,
    load: Load,
    source_ended: bool,
    ended: bool,
    /// The upstream connection may have been closed before it was given anything: what is sent is
    /// kept, and an end before the first byte is a failure.
    is_doubtful: bool,
    /// The farewell in what is pending, and one that the receiver's kernel has taken.
    pending_word: Option<Word>,
    written_word: Option<Word>,
}

impl Flow {
    pub(super) fn new(direction: Direction) -> Self {
        Flow {
            direction,
            pending: None,
            held: Box::default(),
            sink: Sink::Forward,
            load: Load::Messages,
            source_ended: false,
            ended: false,
            is_doubtful: false,
            pending_word: None,
            written_word: None,
        }
    }

    /// Whether the source has ended and that was passed on.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether bytes that were read wait for more, at the tracker's wish.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether bytes that were read wait for the receiver.
    pub(super) fn is_pending(&self) -> bool {
        !matches!(self.pending, None | Some(Pending::Kept { .. }))
    }

    /// The upstream connection is one that may have been closed meanwhile.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// Whether it still may have been.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// It was not, or there is nothing to be done about it: what was sent is not sent again.
    pub(super) fn trust(&mut self) {
        self.is_doubtful = false;
        self.pending.take_if(|pending| matches!(pending, Pending::Kept { .. }));
    }

    /// Whether no byte has been sent in the doubt.
    pub(super) fn has_sent_nothing(&self) -> bool {
        self.is_doubtful && matches!(self.pending, Some(Pending::Buffered { start: 0, .. }))
    }

    /// Whether all that was sent in the doubt is still here.
    pub(super) fn can_rewind(&self) -> bool {
        self.is_doubtful
            && matches!(self.pending, Some(Pending::Buffered { .. } | Pending::Kept { .. }))
    }

    /// Sends what was sent in the doubt again, to another receiver, and its end with it.
    pub(super) fn rewind(&mut self) {
        self.is_doubtful = false;
        self.pending = match self.pending.take() {
            Some(Pending::Buffered { buffer, end, .. } | Pending::Kept { buffer, end }) => {
                Some(Pending::Buffered { buffer, start: 0, end })
            }
            other => other,
        };
        if self.source_ended {
            self.ended = false;
            self.sink = Sink::Forward;
        }
    }

    /// The farewell that was written to its last byte since this was last asked.
    pub(super) fn take_word(&mut self) -> Option<Word> {
        self.written_word.take()
    }

    /// Sends a FIN behind what is in flight, and throws away what comes later.
    pub(super) fn close(&mut self) {
        if self.sink == Sink::Forward && !self.ended {
            self.sink = Sink::Closing;
        }
    }

    /// Throws away what waits for the receiver, and what comes later: the receiver has broken.
    pub(super) fn discard(&mut self) {
        self.pending = None;
        self.held = Box::default();
        self.sink = Sink::Discard;
    }

    /// Moves what there is, but not the end.
    pub(super) fn withhold_end(&mut self) {
        if self.sink == Sink::Forward {
            self.sink = Sink::ForwardBytes;
        }
    }

    /// The source has broken after everything that it had to say: its end is passed on as a FIN.
    pub(super) fn end_of_source(&mut self) {
        self.source_ended = true;
    }

    /// The source has broken: nothing more can be read from it, and its end is not passed on as a FIN.
    pub(super) fn abort(&mut self) {
        self.discard();
        self.source_ended = true;
        self.ended = true;
    }

    /// Moves bytes until a socket is not ready, the source ends, or the turn is over.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tracker: &mut Tracker,
        turn: Turn,
        source: Option<&Socket>,
        sink: Option<&Socket>,
    ) -> Result<Progress, Failure> {
        let mut moved = 0;
        while !self.ended {
            if moved >= TURN_BYTES {
                return Ok(Progress::TurnOver(moved));
            }
            match self.poll_step(cx, tracker, turn, source, sink) {
                Poll::Ready(step) => moved += step?,
                Poll::Pending => return Ok(Progress::Waiting(moved)),
            }
        }
        Ok(Progress::Ended(moved))
    }

    /// One read or one write. What has no socket yet, waits.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        tracker: &mut Tracker,
        turn: Turn,
        source: Option<&Socket>,
        sink: Option<&Socket>,
    ) -> Poll<Result<usize, Failure>> {
        if self.is_pending() {
            let Some(sink) = sink else { return Poll::Pending };
            return self.poll_flush(cx, sink);
        }
        // Before a FIN too: a client that is told which request was the last can send the others again.
        if turn.may_speak
            && self.sink != Sink::Discard
            && !self.source_ended
            && self.held.is_empty()
            && let Some(farewell) = tracker.interject(self.direction)
        {
            self.pending_word = tracker.take_word();
            self.put(Buffer::owned(farewell));
            return Poll::Ready(Ok(0));
        }
        if self.release(tracker) {
            return Poll::Ready(Ok(0));
        }
        if self.source_ended || self.sink == Sink::Closing {
            return Poll::Ready(self.finish(tracker, sink, turn).map(|()| 0));
        }
        let Some(source) = source else { return Poll::Pending };
        self.poll_fill(cx, tracker, source)
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        tracker: &mut Tracker,
        source: &Socket,
    ) -> Poll<Result<usize, Failure>> {
        // Asked first, because a buffer is lent only to somebody who has something to put in it.
        ready!(source.poll_readable(cx));
        if self.load == Load::Bulk
            && source.may_splice()
            && let Some(bytes) = self.pipeable_bytes(tracker)
            && let Some(pipe) = Pipe::borrow()
        {
            return self.poll_fill_pipe(cx, tracker, source, pipe, bytes);
        }
        let mut buffer = Buffer::borrow(match self.load {
            Load::Messages => Size::Small,
            Load::Burst | Load::Bulk => Size::Large,
        });
        let room = buffer.bytes().len();
        let read = ready!(source.poll_read(cx, buffer.bytes_mut())).map_err(Failure::Reading)?;
        if read == 0 {
            if self.is_doubtful && self.direction == Direction::FromUpstream {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Poll::Ready(Err(Failure::Reading(error)));
            }
            self.source_ended = true;
            self.end(tracker);
            return Poll::Ready(Ok(0));
        }
        if self.is_doubtful {
            self.trust();
        }
        self.load = match self.load {
            Load::Messages if read == room => Load::Burst,
            Load::Messages => Load::Messages,
            _ => Load::after(read),
        };
        if matches!(self.sink, Sink::Forward | Sink::ForwardBytes) {
            self.show(tracker, buffer, read);
        }
        Poll::Ready(Ok(read))
    }

    /// How many of the next bytes may go through a pipe, if it is worth one.
    fn pipeable_bytes(&self, tracker: &Tracker) -> Option<usize> {
        let forwards = matches!(self.sink, Sink::Forward | Sink::ForwardBytes);
        if !forwards || !self.held.is_empty() {
            return None;
        }
        let unseen = usize::try_from(tracker.unseen_bytes(self.direction)).unwrap_or(usize::MAX);
        (unseen >= BULK_BYTES).then_some(unseen.min(PIPE_BYTES))
    }

    fn poll_fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        tracker: &mut Tracker,
        source: &Socket,
        mut pipe: Pipe,
        bytes: usize,
    ) -> Poll<Result<usize, Failure>> {
        let read = match ready!(pipe.poll_fill(cx, source, bytes)) {
            Ok(read) => read,
            Err(error) if optional::SPLICE.does_without(&error) => 0,
            Err(error) => return Poll::Ready(Err(Failure::Reading(error))),
        };
        if read == 0 {
            // The end, or a kernel that does not splice: a read tells.
            self.load = Load::Burst;
            return Poll::Ready(Ok(0));
        }
        self.trust();
        tracker.skip(self.direction, read as u64);
        self.load = Load::after(read);
        self.pending = Some(Pending::Piped(pipe));
        Poll::Ready(Ok(read))
    }

    /// Shows what was read to the tracker, and makes what it lets through pending.
    fn show(&mut self, tracker: &mut Tracker, buffer: Buffer, read: usize) {
        let bytes = buffer.bytes().get(..read).unwrap_or_default();
        if tracker.is_blind() && self.held.is_empty() {
            self.pending = Some(Pending::buffered(buffer, read));
            return;
        }
        if self.held.is_empty() {
            match tracker.step(self.direction, bytes) {
                // The way of every byte outside a drain: nothing is copied.
                Step::Pass(passed) if passed >= read => {
                    self.pending = Some(Pending::buffered(buffer, read));
                }
                step => {
                    let output = self.edited(tracker, bytes, step);
                    self.put(Buffer::owned(output));
                }
            }
        } else {
            let mut input = std::mem::take(&mut self.held).into_vec();
            input.extend_from_slice(bytes);
            let step = tracker.step(self.direction, &input);
            let output = self.edited(tracker, &input, step);
            self.put(Buffer::owned(output));
        }
    }

    /// Makes what is held pending when the tracker does not want it held any more: what the other
    /// direction said, or an undrain, may have changed its mind.
    fn release(&mut self, tracker: &mut Tracker) -> bool {
        if self.held.is_empty() || self.sink == Sink::Discard {
            return false;
        }
        let held = std::mem::take(&mut self.held);
        match tracker.step(self.direction, &held) {
            Step::Hold => {
                self.held = held;
                false
            }
            step => {
                let output = self.edited(tracker, &held, step);
                self.put(Buffer::owned(output));
                true
            }
        }
    }

    /// The source has ended: what was held for an edit that never came is passed on.
    fn end(&mut self, tracker: &mut Tracker) {
        tracker.end(self.direction);
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return;
        }
        let step = tracker.step(self.direction, &held);
        let mut output = self.edited(tracker, &held, step);
        output.append(&mut std::mem::take(&mut self.held).into_vec());
        self.put(Buffer::owned(output));
    }

    /// What the tracker makes of bytes that do not all pass as they are.
    fn edited(&mut self, tracker: &mut Tracker, input: &[u8], first: Step) -> Vec<u8> {
        let mut output = Vec::with_capacity(input.len());
        let mut rest = input;
        let mut step = first;
        loop {
            match step {
                Step::Pass(count) => {
                    let (passed, left) = rest.split_at(count.min(rest.len()));
                    output.extend_from_slice(passed);
                    rest = left;
                }
                Step::Drop(count) => rest = rest.get(count..).unwrap_or_default(),
                Step::Insert(bytes) => {
                    output.extend_from_slice(&bytes);
                    self.pending_word = tracker.take_word().or(self.pending_word);
                }
                Step::Hold => {
                    self.held = rest.into();
                    return output;
                }
            }
            if rest.is_empty() {
                return output;
            }
            step = tracker.step(self.direction, rest);
        }
    }

    fn put(&mut self, buffer: Buffer) {
        let end = buffer.bytes().len();
        self.pending = (end > 0).then(|| Pending::buffered(buffer, end));
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, sink: &Socket) -> Poll<Result<usize, Failure>> {
        let is_done = match &mut self.pending {
            None | Some(Pending::Kept { .. }) => return Poll::Ready(Ok(0)),
            Some(Pending::Buffered { buffer, start, end }) => {
                let bytes = buffer.bytes().get(*start as usize..*end as usize).unwrap_or_default();
                let written = ready!(sink.poll_write(cx, bytes)).map_err(Failure::Writing)?;
                *start += place(written);
                *start >= *end
            }
            Some(Pending::Piped(pipe)) => match ready!(pipe.poll_drain(cx, sink)) {
                Ok(()) => pipe.is_empty(),
                Err(error) if optional::SPLICE.does_without(&error) => {
                    let bytes = pipe.take_out().map_err(Failure::Writing)?;
                    self.put(Buffer::owned(bytes));
                    return Poll::Ready(Ok(0));
                }
                Err(error) => return Poll::Ready(Err(Failure::Writing(error))),
            },
        };
        if is_done {
            self.pending = match self.pending.take() {
                Some(Pending::Buffered { buffer, end, .. }) if self.is_doubtful => {
                    Some(Pending::Kept { buffer, end })
                }
                _ => None,
            };
            self.written_word = self.pending_word.take().or(self.written_word);
        }
        Poll::Ready(Ok(0))
    }

    /// Passes the end on; but not a client's to an upstream connection that goes on without it.
    fn finish(
        &mut self,
        tracker: &Tracker,
        sink: Option<&Socket>,
        turn: Turn,
    ) -> Result<(), Failure> {
        let closing = std::mem::replace(&mut self.sink, Sink::Discard);
        let is_closed_next = turn.is_last && self.source_ended;
        let is_kept = self.direction == Direction::FromClient && tracker.is_reusable();
        if !matches!(closing, Sink::Discard | Sink::ForwardBytes)
            && !is_closed_next
            && !is_kept
            && let Some(sink) = sink
        {
            sink.shutdown_write().map_err(Failure::Writing)?;
        }
        self.ended = self.source_ended;
        Ok(())
    }
}

impl Load {
    fn after(read: usize) -> Self {
        match read {
            ..=MESSAGE_BYTES => Load::Messages,
            BULK_BYTES.. => Load::Bulk,
            _ => Load::Burst,
        }
    }
}
