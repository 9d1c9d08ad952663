//! An event loop's system calls, and nothing else: epoll, level-triggered.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

pub(super) use rustix::event::epoll::EventFlags as On;

/// How many events one call may bring.
const EVENTS: usize = 256;

pub(super) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(super) fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        Poll { epoll, events: Vec::with_capacity(EVENTS) }
    }

    /// Wakes for a socket from now on, under a name.
    pub(super) fn add(&self, socket: impl AsFd, name: usize, on: On) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(name as u64), on)?)
    }

    /// Wakes for something else of it.
    pub(super) fn change(&self, socket: impl AsFd, name: usize, on: On) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(name as u64), on)?)
    }

    /// Wakes at an interval too, whose events are to be read from what this gives. A waiting's own end is
    /// a matter of whole milliseconds.
    pub(super) fn every(&self, interval: Duration, name: usize) -> io::Result<File> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let interval = Timespec::try_from(interval).expect("seconds, not ages");
        let times = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        self.add(&timer, name, On::IN)?;
        Ok(timer.into())
    }

    /// Waits for the next events; none, when the time is over.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<(usize, On)>> {
        let timeout =
            timeout.map(|timeout| Timespec::try_from(timeout).expect("seconds, not ages"));
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let name =
            |event: &epoll::Event| usize::try_from(event.data.u64()).expect("a name of ours");
        Ok(self.events.iter().map(|event| (name(event), event.flags)).collect())
    }
}

/// What reading and writing a socket that isn't waited for comes to.
pub(super) fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
