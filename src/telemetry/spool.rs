//! Log lines between those who say them and the thread that writes them.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What waits while nobody reads; a line that finds no room is dropped. 5,000 connections that are
/// force-closed at once say 2 MiB.
const WAITING_BYTES: usize = 4 * 1024 * 1024;

/// How long the end of the process waits for somebody to read the last lines.
const LAST_LINES_PERIOD: Duration = Duration::from_secs(1);

/// Takes lines without waiting for anybody. Clones are the same spool.
#[derive(Clone, Debug, Default)]
pub(super) struct Spool(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// Room is taken as it is needed and given back when it is written: a proxy at rest says nothing.
#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    is_ending: bool,
    has_ended: bool,
}

/// Lines are being written; dropping it writes what waits, for a second at most.
#[derive(Debug)]
pub struct Spooling(Spool);

impl Spool {
    /// Starts the thread that writes.
    pub(super) fn write_to(&self, out: impl Write + Send + 'static) -> io::Result<Spooling> {
        let spool = self.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || spool.write_out(out))?;
        Ok(Spooling(self.clone()))
    }

    fn write_out(&self, mut out: impl Write) {
        loop {
            let waiting = self.0.changed.wait_while(self.waiting(), Waiting::is_quiet);
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            let lines = mem::take(&mut waiting.lines);
            if lines.is_empty() {
                waiting.has_ended = true;
                self.0.changed.notify_all();
                return;
            }
            drop(waiting);
            // Where the log can't be written there is nobody to tell.
            let _ = out.write_all(&lines);
        }
    }

    /// Whoever panicked with it in hand has left at most half a line.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_quiet(&mut self) -> bool {
        self.lines.is_empty() && !self.is_ending
    }
}

impl Write for Spool {
    /// One line, all of it or nothing; dropped is as good as written.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() <= WAITING_BYTES {
            waiting.lines.extend_from_slice(line);
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Spooling {
    fn drop(&mut self) {
        let Spooling(spool) = self;
        let mut waiting = spool.waiting();
        waiting.is_ending = true;
        spool.0.changed.notify_all();
        let ended = spool
            .0
            .changed
            .wait_timeout_while(waiting, LAST_LINES_PERIOD, |waiting| !waiting.has_ended);
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands what is written to the test, and waits until it is taken.
    struct Reader(mpsc::SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_waits_is_bounded() {
        let (sender, reader) = mpsc::sync_channel(0);
        let mut spool = Spool::default();
        let spooling = spool.write_to(Reader(sender)).expect("a thread");
        let line = [b'x'; 1000];
        for _ in 0..3 * WAITING_BYTES / line.len() {
            spool.write_all(&line).expect("it never fails");
        }
        assert!(spool.waiting().lines.len() <= WAITING_BYTES);
        // What the thread had in hand, and what waited.
        let written = thread::spawn(move || reader.iter().map(|lines| lines.len()).sum::<usize>());
        drop(spooling);
        drop(spool);
        let written = written.join().expect("no panic");
        assert!(written <= 2 * WAITING_BYTES, "{written} bytes were kept");
        assert_eq!(written % line.len(), 0, "a line was cut");
        assert!(written > WAITING_BYTES - line.len(), "{written} bytes are too few");
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let (sender, reader) = mpsc::sync_channel(64);
        let mut spool = Spool::default();
        let spooling = spool.write_to(Reader(sender)).expect("a thread");
        let lines = "the first\nand the last\n";
        spool.write_all(lines.as_bytes()).expect("it never fails");
        drop(spooling);
        let written: Vec<u8> = reader.try_iter().flatten().collect();
        assert_eq!(written, lines.as_bytes());
        assert_eq!(spool.waiting().lines.capacity(), 0, "a proxy at rest keeps room for lines");
    }
}
