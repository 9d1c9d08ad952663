use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::net::Socket;

fn watched(stream: UnixStream) -> Socket {
    stream.set_nonblocking(true).expect("it does not block");
    Socket::watched(OwnedFd::from(stream), Assumed::Writable).expect("it is watched")
}

fn pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    (watched(ours), theirs)
}

async fn read(socket: &Socket, buffer: &mut [u8]) -> usize {
    std::future::poll_fn(|cx| socket.poll_read(cx, buffer)).await.expect("it reads")
}

async fn write(socket: &Socket, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = std::future::poll_fn(|cx| socket.poll_write(cx, bytes)).await;
        bytes = &bytes[written.expect("it writes")..];
    }
}

/// Lets everybody else have a turn.
async fn turn() {
    let mut is_over = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut is_over, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A waker that only notes.
struct Noted(AtomicBool);

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn another_thread_ends_the_wait_of_a_task() {
    let (tell, told) = oneshot::channel();
    let teller = std::thread::spawn(move || tell.send(7));
    assert_eq!(block_on(told).expect("a worker"), Ok(7));
    teller.join().expect("it ran").expect("somebody listened");
}

#[test]
fn a_thread_without_a_worker_is_told_so() {
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let error = Source::stream(ours.as_fd(), Assumed::Nothing).expect_err("no worker");
    assert_eq!(error.to_string(), "sockets live on a worker, which this thread is not");
    assert!(spawn(async {}).is_err());
}

#[test]
fn a_panic_ends_its_own_task_alone() {
    let done = Rc::new(Notify::new());
    let after = Rc::clone(&done);
    block_on(async {
        let (socket, theirs) = pair();
        spawn(async move {
            turn().await;
            let _held = socket;
            panic!("this task fails, as its test wants");
        })
        .expect("a worker");
        spawn(async move {
            // What the task held is closed.
            assert_eq!(read(&watched(theirs), &mut [0; 1]).await, 0);
            after.notify_one();
        })
        .expect("a worker");
        done.notified().await;
    })
    .expect("a worker");
}

#[test]
fn a_task_that_never_rests_lets_others_go_on() {
    block_on(async {
        let is_over = Rc::new(Cell::new(false));
        let over = Rc::clone(&is_over);
        spawn(async move {
            while !over.get() {
                turn().await;
            }
        })
        .expect("a worker");
        let (socket, mut theirs) = pair();
        let writer = std::thread::spawn(move || {
            theirs.write_all(b"x").expect("it writes");
            theirs
        });
        assert_eq!(read(&socket, &mut [0; 8]).await, 1);
        is_over.set(true);
        drop(writer.join());
    })
    .expect("a worker");
}

#[test]
fn a_task_takes_its_first_step_in_the_turn_in_which_it_begins() {
    block_on(async {
        let has_begun = Rc::new(Cell::new(false));
        let begins = Rc::clone(&has_begun);
        spawn(async move {
            spawn(async move { begins.set(true) }).expect("a worker");
        })
        .expect("a worker");
        turn().await;
        assert!(has_begun.get());
    })
    .expect("a worker");
}

#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen_after_them() {
    block_on(async {
        let (socket, mut theirs) = pair();
        theirs.write_all(b"last").expect("it writes");
        theirs.shutdown(Shutdown::Write).expect("it ends");
        let mut buffer = [0; 64];
        assert_eq!(read(&socket, &mut buffer).await, 4);
        // The short read has taken the readiness back; no edge comes any more.
        assert_eq!(read(&socket, &mut buffer).await, 0);
    })
    .expect("a worker");
}

#[test]
fn a_full_receiver_is_waited_for() {
    block_on(async {
        let (socket, mut theirs) = pair();
        let bytes = vec![7; 4 << 20];
        let length = bytes.len();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).map(|_| all)
        });
        write(&socket, &bytes).await;
        drop(socket);
        assert_eq!(reader.join().expect("it ran").expect("it reads"), vec![7; length]);
    })
    .expect("a worker");
}

#[test]
fn what_is_told_of_a_socket_that_is_gone_is_not_believed_of_the_next() {
    block_on(async {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        // As a child holds it between fork and exec: epoll goes on watching.
        let copy = ours.try_clone().expect("a copy");
        drop(watched(ours));
        let (next, _peer) = pair();
        theirs.write_all(b"for the one that is gone").expect("it writes");
        turn().await;
        turn().await;
        let noted = Arc::new(Noted(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&noted));
        assert!(next.poll_readable(&mut Context::from_waker(&waker)).is_pending());
        turn().await;
        assert!(!noted.0.load(Ordering::SeqCst));
        drop(copy);
    })
    .expect("a worker");
}

#[test]
fn the_newest_waker_is_the_one_that_is_called() {
    block_on(async {
        let (socket, mut theirs) = pair();
        let wakers = [(); 2].map(|()| Arc::new(Noted(AtomicBool::new(false))));
        for noted in &wakers {
            let waker = Waker::from(Arc::clone(noted));
            assert!(socket.poll_readable(&mut Context::from_waker(&waker)).is_pending());
        }
        theirs.write_all(b"x").expect("it writes");
        turn().await;
        turn().await;
        assert_eq!(wakers.map(|noted| noted.0.load(Ordering::SeqCst)), [false, true]);
    })
    .expect("a worker");
}

#[tokio::test]
async fn tasks_begin_on_every_worker_in_turn_and_have_timers() {
    let workers = Workers::start(NonZeroUsize::new(3).expect("three")).expect("they start");
    let (tell, told) = mpsc::channel();
    for _ in 0..6 {
        let tell = tell.clone();
        workers.spawn(move || async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let name = std::thread::current().name().map(str::to_owned);
            tell.send(name.expect("a name")).expect("somebody listens");
        });
    }
    drop(tell);
    let mut names = tokio::task::spawn_blocking(move || told.iter().collect::<Vec<_>>())
        .await
        .expect("they end");
    names.sort();
    let twice = ["worker-0", "worker-0", "worker-1", "worker-1", "worker-2", "worker-2"];
    // Whoever was dropped with its channel would be missing.
    assert_eq!(names, twice);
}

#[tokio::test]
async fn a_worker_spawns_on_itself_and_on_others() {
    let workers = Arc::new(Workers::start(NonZeroUsize::new(2).expect("two")).expect("they start"));
    let (tell, told) = mpsc::channel();
    let inner = Arc::clone(&workers);
    workers.spawn(move || async move {
        for index in 0..4 {
            let tell = tell.clone();
            inner.spawn(move || async move { tell.send(index).expect("somebody listens") });
        }
    });
    let mut all = tokio::task::spawn_blocking(move || told.iter().collect::<Vec<_>>())
        .await
        .expect("they end");
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
}

/// Passes on what it reads until the end, in pieces as the script says.
async fn forward(from: Socket, to: Socket, pieces: Rc<Vec<usize>>, done: Rc<Cell<usize>>) {
    let mut buffer = vec![0; 64 * 1024];
    for piece in pieces.iter().cycle() {
        let count = read(&from, &mut buffer[..*piece]).await;
        if count == 0 {
            break;
        }
        write(&to, &buffer[..count]).await;
    }
    drop(to);
    done.set(done.get() + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever sizes are read and written, no wake-up is lost: every byte comes through a chain of
    /// tasks, and so does the end.
    #[test]
    fn no_wake_up_is_lost(
        writes in proptest::collection::vec(1..200_000_usize, 1..12),
        reads in proptest::collection::vec(1..65_536_usize, 1..12),
        chains in 1..6_usize,
        links in 1..4_usize,
    ) {
        let total: usize = writes.iter().sum();
        let received = Arc::new(Mutex::new(Vec::new()));
        let done = Rc::new(Cell::new(0));
        block_on(async {
            let pieces = Rc::new(reads);
            let mut threads = Vec::new();
            for _ in 0..chains {
                let (mut from, source) = pair();
                let mut sink = None;
                for _ in 0..links {
                    if let Some(former) = sink.take() {
                        from = watched(former);
                    }
                    let (to, next) = pair();
                    let first = std::mem::replace(&mut from, pair().0);
                    spawn(forward(first, to, Rc::clone(&pieces), Rc::clone(&done))).expect("a worker");
                    sink = Some(next);
                }
                let sink = sink.expect("at least one link");
                let (writes, received) = (writes.clone(), Arc::clone(&received));
                threads.push(std::thread::spawn(move || {
                    let (mut source, mut sink) = (source, sink);
                    let writer = std::thread::spawn(move || {
                        for size in writes {
                            source.write_all(&vec![1; size]).expect("it writes");
                        }
                    });
                    let mut all = Vec::new();
                    sink.read_to_end(&mut all).expect("it reads");
                    writer.join().expect("it wrote");
                    received.lock().expect("nobody panicked").push(all.len());
                }));
            }
            while done.get() < chains * links {
                turn().await;
            }
            for thread in threads {
                thread.join().expect("it ran");
            }
        }).expect("a worker");
        prop_assert_eq!(&*received.lock().expect("nobody panicked"), &vec![total; chains]);
    }
}

#[test]
fn a_worker_that_has_nothing_to_do_waits_in_the_kernel() {
    let polls = Cell::new(0);
    let (tell, told) = oneshot::channel();
    let teller = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(50));
        tell.send(())
    });
    let mut told = std::pin::pin!(told);
    let asked = std::future::poll_fn(|cx| {
        polls.set(polls.get() + 1);
        told.as_mut().poll(cx)
    });
    assert_eq!(block_on(asked).expect("a worker"), Ok(()));
    teller.join().expect("it ran").expect("somebody listened");
    // Once to begin and once when it is told; a worker that spins asks thousands of times.
    assert!(polls.get() <= 3, "asked {} times", polls.get());
}
