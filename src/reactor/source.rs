//! What a worker knows of one descriptor: whether it is ready, and who waits for it.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::event::epoll::{self, EventData, EventFlags};
use slab::Slab;

use super::worker::Worker;

/// What epoll tells of every stream. That a write may be taken is news for few of them, while epoll
/// would tell it of each.
const STREAM: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::PRI);

/// What a descriptor may be ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ready(u8);

impl Ready {
    const NOTHING: Ready = Ready(0);
    const READ: Ready = Ready(1);
    const WRITE: Ready = Ready(1 << 1);
    /// The peer sends no more, or the socket has failed: a read finds that out for ever.
    const READ_CLOSED: Ready = Ready(1 << 2);
    /// The socket has failed: so does a write.
    const WRITE_CLOSED: Ready = Ready(1 << 3);
    /// The peer has sent urgent data at some time.
    const URGENT: Ready = Ready(1 << 4);

    const READABLE: Ready = Ready::READ.with(Ready::READ_CLOSED);
    const WRITABLE: Ready = Ready::WRITE.with(Ready::WRITE_CLOSED);

    /// What epoll has told.
    ///
    /// # Source
    /// `epoll_ctl(2)`; Linux `tcp_poll`: a FIN is IN and RDHUP, a reset adds HUP and ERR.
    fn of(flags: EventFlags) -> Ready {
        let mut ready = Ready::NOTHING;
        if flags.intersects(EventFlags::IN) {
            ready = ready.with(Ready::READ);
        }
        if flags.intersects(EventFlags::PRI) {
            ready = ready.with(Ready::URGENT);
        }
        if flags.intersects(EventFlags::OUT) {
            ready = ready.with(Ready::WRITE);
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            ready = ready.with(Ready::READ_CLOSED);
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            ready = ready.with(Ready::WRITE_CLOSED);
        }
        ready
    }

    const fn with(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }

    const fn without(self, other: Ready) -> Ready {
        Ready(self.0 & !other.0)
    }

    const fn has_any(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }
}

#[derive(Debug)]
struct State {
    /// Tells this use of the place from those before: epoll may still speak of an earlier socket of
    /// which a child that has not yet called exec holds a copy.
    serial: u32,
    ready: Ready,
    /// What its task waits for.
    awaited: Ready,
    /// Whether epoll tells when a write may be taken.
    tells_writable: bool,
    /// The one task that has it.
    waker: Option<Waker>,
}

/// Every descriptor of a worker.
#[derive(Debug)]
pub(super) struct Sources {
    epoll: OwnedFd,
    states: RefCell<Slab<State>>,
    serials: Cell<u32>,
}

/// What a stream is taken to be ready for before epoll has told anything of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assumed {
    /// Its connect is under way: the end of that is when a write may be taken.
    Nothing,
    /// It has just been connected: the peer has hardly sent anything.
    Writable,
    /// It has just been accepted: the peer has often sent something.
    Everything,
}

/// A descriptor that a worker watches, until this is dropped.
///
/// It stays on its thread, and belongs to one task at a time. It must be dropped before the descriptor
/// is closed, which is what ends the watch in the kernel.
#[derive(Debug)]
pub struct Source {
    worker: Rc<Worker>,
    key: u32,
}

impl Sources {
    pub(super) fn new() -> io::Result<Sources> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Sources { epoll, states: RefCell::default(), serials: Cell::new(0) })
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Notes what epoll has told of a source, and wakes its task if that is what it waits for.
    pub(super) fn tell(&self, data: u64, flags: EventFlags) {
        let mut states = self.states.borrow_mut();
        let (key, serial) = unpack(data);
        let Some(state) = states.get_mut(key as usize).filter(|state| state.serial == serial)
        else {
            return;
        };
        let news = Ready::of(flags);
        state.ready = state.ready.with(news);
        if !news.has_any(state.awaited) {
            return;
        }
        state.awaited = Ready::NOTHING;
        if let Some(waker) = &state.waker {
            // Puts the task into the queue: no task runs within this call.
            waker.wake_by_ref();
        }
    }

    fn insert(&self, fd: BorrowedFd<'_>, flags: EventFlags, ready: Ready) -> io::Result<u32> {
        let tells_writable = flags.contains(EventFlags::OUT);
        let serial = self.serials.get().wrapping_add(1);
        self.serials.set(serial);
        let mut states = self.states.borrow_mut();
        let place = states.vacant_entry();
        // More sockets than descriptors can be numbered there are not.
        let key = u32::try_from(place.key()).map_err(io::Error::other)?;
        let flags = flags | EventFlags::ET;
        epoll::add(&self.epoll, fd, EventData::new_u64(pack(key, serial)), flags)?;
        place.insert(State { serial, ready, awaited: Ready::NOTHING, tells_writable, waker: None });
        Ok(key)
    }

    /// Has epoll tell when a write may be taken, now or later, if it does not already.
    fn tell_writable(&self, key: u32, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut states = self.states.borrow_mut();
        let Some(state) = states.get_mut(key as usize) else { return Ok(()) };
        if !std::mem::replace(&mut state.tells_writable, true) {
            let data = EventData::new_u64(pack(key, state.serial));
            epoll::modify(&self.epoll, fd, data, STREAM | EventFlags::OUT | EventFlags::ET)?;
        }
        Ok(())
    }

    fn remove(&self, key: u32) {
        let gone = self.states.borrow_mut().try_remove(key as usize);
        // A waker may be the last to hold a task, so it goes when nothing is borrowed any more.
        drop(gone);
    }
}

impl Source {
    /// Watches a stream with the current worker. It is taken to be ready for what is `assumed`, until
    /// a call says otherwise.
    ///
    /// # Errors
    /// When the kernel watches no more descriptors, or the calling thread is no worker.
    pub fn stream(fd: BorrowedFd<'_>, assumed: Assumed) -> io::Result<Source> {
        let (flags, ready) = match assumed {
            Assumed::Nothing => (STREAM | EventFlags::OUT, Ready::NOTHING),
            Assumed::Writable => (STREAM, Ready::WRITE),
            Assumed::Everything => (STREAM, Ready::READ.with(Ready::WRITE)),
        };
        Source::new(fd, flags, ready)
    }

    /// Watches a listener with the current worker.
    ///
    /// # Errors
    /// As [`Source::stream`].
    pub fn listener(fd: BorrowedFd<'_>) -> io::Result<Source> {
        Source::new(fd, EventFlags::IN, Ready::READ)
    }

    fn new(fd: BorrowedFd<'_>, flags: EventFlags, ready: Ready) -> io::Result<Source> {
        let worker = Worker::current()?;
        let key = worker.sources().insert(fd, flags, ready)?;
        Ok(Source { worker, key })
    }

    /// Whether a read may find something. Costs no system call.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(cx, Ready::READABLE)
    }

    /// Whether a write may be taken by `fd`, the stream that is watched. Costs no system call, but for
    /// the first time that it may not.
    ///
    /// # Errors
    /// When epoll can't be asked to tell.
    pub fn poll_writable(&self, cx: &mut Context<'_>, fd: BorrowedFd<'_>) -> Poll<io::Result<()>> {
        if self.poll(cx, Ready::WRITABLE).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match self.worker.sources().tell_writable(self.key, fd) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// A read has found less than it had room for: all that there was, but where urgent data came. A read
    /// ends before the urgent byte, and nothing tells of what is behind it.
    ///
    /// # Source
    /// tcp(7), `SO_OOBINLINE`; Linux `tcp_recvmsg_locked`.
    pub fn short_read(&self) {
        let mut states = self.worker.sources().states.borrow_mut();
        if let Some(state) = states.get_mut(self.key as usize)
            && !state.ready.has_any(Ready::URGENT)
        {
            state.ready = state.ready.without(Ready::READ);
        }
    }

    /// Whether the peer has sent urgent data at some time, which splice(2) stops at.
    #[must_use]
    pub fn has_urgent(&self) -> bool {
        let states = self.worker.sources().states.borrow();
        states.get(self.key as usize).is_some_and(|state| state.ready.has_any(Ready::URGENT))
    }

    /// A read has found nothing.
    pub fn clear_readable(&self) {
        self.clear(Ready::READ);
    }

    /// A write was not taken as a whole.
    pub fn clear_writable(&self) {
        self.clear(Ready::WRITE);
    }

    fn poll(&self, cx: &mut Context<'_>, wanted: Ready) -> Poll<()> {
        let mut states = self.worker.sources().states.borrow_mut();
        // It is there for as long as we are.
        let Some(state) = states.get_mut(self.key as usize) else { return Poll::Pending };
        if state.ready.has_any(wanted) {
            return Poll::Ready(());
        }
        state.awaited = state.awaited.with(wanted);
        if state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let former = state.waker.replace(cx.waker().clone());
        drop(states);
        drop(former);
        Poll::Pending
    }

    fn clear(&self, gone: Ready) {
        let mut states = self.worker.sources().states.borrow_mut();
        if let Some(state) = states.get_mut(self.key as usize) {
            state.ready = state.ready.without(gone);
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.worker.sources().remove(self.key);
    }
}

fn pack(key: u32, serial: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(key)
}

#[expect(clippy::cast_possible_truncation, reason = "each half of the word is what it keeps")]
fn unpack(data: u64) -> (u32, u32) {
    (data as u32, (data >> 32) as u32)
}
