//! One worker: the tasks that can go on, what other threads send it, and its turns.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use async_task::Runnable;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::source::Sources;

/// What one look at epoll may bring; more comes with the next.
const EVENTS: usize = 1024;

/// How epoll speaks of the alarm. No source has this number.
const ALARM: u64 = u64::MAX;

thread_local! {
    static CURRENT: OnceCell<Rc<Worker>> = const { OnceCell::new() };
}

/// What other threads hold of a worker.
#[derive(Debug)]
pub(super) struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    has_mail: AtomicBool,
    /// Whether the task of [`block_on`] can go on.
    is_called: AtomicBool,
    /// Ends the worker's wait.
    alarm: OwnedFd,
}

/// What another thread wants done.
pub(super) enum Mail {
    /// A task can go on.
    Run(Runnable),
    /// A task is to begin.
    Begin(Box<dyn FnOnce() + Send>),
}

/// A thread's own worker.
pub(super) struct Worker {
    sources: Sources,
    queue: RefCell<VecDeque<Runnable>>,
    /// Tasks that have begun in this turn.
    begun: Cell<usize>,
    mailbox: Arc<Mailbox>,
    /// Room for the mail that is being read.
    letters: Cell<Vec<Mail>>,
    /// When somebody last asked in this turn.
    now: Cell<Option<Instant>>,
    /// Room for what epoll tells.
    events: Cell<Vec<Event>>,
}

/// Runs the calling thread's tasks until this one has come to its end, which it returns.
///
/// # Errors
/// When the kernel gives no epoll.
pub fn block_on<F: Future>(task: F) -> io::Result<F::Output> {
    let worker = Worker::begin()?;
    let call = &worker.mailbox.is_called;
    let waker = Waker::from(worker.mailbox());
    let mut task = pin!(task);
    call.store(true, Ordering::Release);
    loop {
        if call.swap(false, Ordering::AcqRel)
            && let Poll::Ready(output) = task.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return Ok(output);
        }
        worker.turn(!call.load(Ordering::Acquire))?;
    }
}

/// Makes one turn of the calling thread's worker, which it becomes if it is none, and waits for
/// nothing: for a thread that waits elsewhere.
///
/// # Errors
/// As [`block_on`].
pub fn turn() -> io::Result<()> {
    Worker::begin()?.turn(false)
}

/// The time of the calling worker's turn: as it was when the first task of the turn asked. A clock
/// is not read for each of many events, and none of them is told of later than a turn takes.
#[must_use]
pub fn now() -> Instant {
    let of_turn = |current: &OnceCell<Rc<Worker>>| {
        let now = &current.get()?.now;
        now.set(now.get().or_else(|| Some(Instant::now())));
        now.get()
    };
    CURRENT.try_with(of_turn).ok().flatten().unwrap_or_else(Instant::now)
}

/// Begins a task on the calling worker. A panic ends this task alone.
///
/// # Errors
/// When the calling thread is no worker.
pub fn spawn(task: impl Future<Output = ()> + 'static) -> io::Result<()> {
    let worker = Worker::current()?;
    let mailbox = worker.mailbox();
    let schedule = move |runnable| Worker::schedule(&mailbox, runnable);
    let (runnable, task) = async_task::spawn_local(task, schedule);
    task.detach();
    runnable.schedule();
    worker.begun.set(worker.begun.get() + 1);
    Ok(())
}

impl Worker {
    /// The calling thread's.
    pub(super) fn current() -> io::Result<Rc<Worker>> {
        let current = CURRENT.try_with(|current| current.get().cloned()).ok().flatten();
        current
            .ok_or_else(|| io::Error::other("sockets live on a worker, which this thread is not"))
    }

    /// Makes the calling thread a worker, if it is none yet.
    pub(super) fn begin() -> io::Result<Rc<Worker>> {
        if let Ok(worker) = Worker::current() {
            return Ok(worker);
        }
        let sources = Sources::new()?;
        let alarm = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Each write is an edge, whether or not anybody reads.
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(sources.epoll(), &alarm, EventData::new_u64(ALARM), flags)?;
        let worker = Rc::new(Worker {
            sources,
            queue: RefCell::default(),
            begun: Cell::default(),
            mailbox: Arc::new(Mailbox {
                mail: Mutex::default(),
                has_mail: AtomicBool::new(false),
                is_called: AtomicBool::new(false),
                alarm,
            }),
            letters: Cell::default(),
            now: Cell::new(None),
            events: Cell::new(Vec::with_capacity(EVENTS)),
        });
        CURRENT.with(|current| Rc::clone(current.get_or_init(|| worker)));
        Worker::current()
    }

    pub(super) fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.mailbox)
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Whose waker was called decides where the task goes on: always on its own worker.
    fn schedule(mailbox: &Arc<Mailbox>, runnable: Runnable) {
        let mut runnable = Some(runnable);
        let _ = CURRENT.try_with(|current| {
            if let Some(worker) = current.get().filter(|own| Arc::ptr_eq(&own.mailbox, mailbox)) {
                worker.queue.borrow_mut().extend(runnable.take());
            }
        });
        if let Some(runnable) = runnable {
            mailbox.post(Mail::Run(runnable));
        }
    }

    /// One look at what has happened, and one step of every task that can go on.
    fn turn(&self, may_wait: bool) -> io::Result<()> {
        let is_idle = may_wait && self.queue.borrow().is_empty();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = self.events.take();
        let wait = epoll::wait(
            self.sources.epoll(),
            spare_capacity(&mut events),
            (!is_idle).then_some(&at_once),
        );
        self.now.set(None);
        match wait {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            // ALARM is nobody's number.
            self.sources.tell(event.data.u64(), event.flags);
        }
        self.events.set(events);
        self.read_mail();
        // Those that become ready meanwhile wait for the next turn, after who is ready by then. Those
        // that begin meanwhile do not: their first step most often is all that there is to do.
        self.begun.set(0);
        let mut steps = self.queue.borrow().len();
        while steps > 0 {
            let Some(runnable) = self.queue.borrow_mut().pop_front() else { break };
            // The hook has told of the panic, and the task is gone with what it held.
            let _ = catch_unwind(AssertUnwindSafe(|| runnable.run()));
            steps = steps - 1 + self.begun.take();
        }
        Ok(())
    }

    fn read_mail(&self) {
        if !self.mailbox.has_mail.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut letters = self.letters.take();
        std::mem::swap(&mut letters, &mut *self.mailbox.lock());
        for mail in letters.drain(..) {
            match mail {
                Mail::Run(runnable) => self.queue.borrow_mut().push_back(runnable),
                Mail::Begin(begin) => begin(),
            }
        }
        // What a drain of thousands has sent need not be kept room for.
        letters.shrink_to(EVENTS);
        self.letters.set(letters);
    }
}

impl Mailbox {
    /// Sends the worker something to do.
    pub(super) fn post(&self, mail: Mail) {
        self.lock().push(mail);
        self.ring();
    }

    fn ring(&self) {
        if !self.has_mail.swap(true, Ordering::AcqRel) {
            // It can't fail before it has been rung 2⁶⁴ times.
            let _ = rustix::io::write(&self.alarm, &1_u64.to_ne_bytes());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls the task of [`block_on`].
impl Wake for Mailbox {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_called.store(true, Ordering::Release);
        self.ring();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("mailbox", &self.mailbox).finish_non_exhaustive()
    }
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mail::Run(_) => "Run",
            Mail::Begin(_) => "Begin",
        })
    }
}
