//! What HAProxy shows of a server, looked at all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use crate::support::haproxy::{Haproxy, Looker};

/// One look.
struct Look {
    began: SystemTime,
    ended: SystemTime,
    state: String,
    sessions: u64,
}

/// Looks at one server until it is stopped.
pub struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Vec<Look>>,
}

/// Everything that was seen.
pub struct Seen(Vec<Look>);

impl Watch {
    pub fn start(haproxy: &Haproxy, server: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, looker, server) = (Arc::clone(&stop), haproxy.looker(), server.to_owned());
        let looking = std::thread::spawn(move || {
            let mut looks = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                looks.push(look(&looker, &server));
                // Its pace: a look is cheap, and nothing waits for it.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            looks
        });
        Watch { stop, looking }
    }

    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        Seen(self.looking.join().expect("it looked all the time"))
    }
}

fn look(looker: &Looker, server: &str) -> Look {
    let began = SystemTime::now();
    let [state, sessions] = looker.stats("pods", server, ["status", "stot"]);
    Look {
        began,
        ended: SystemTime::now(),
        state: state.split_whitespace().next().unwrap_or_default().to_owned(),
        sessions: sessions.parse().expect("a number"),
    }
}

impl Seen {
    /// The states, each once in a row. A server whose checks fail while it drains is as good as one
    /// that drains.
    pub fn states(&self) -> Vec<&str> {
        let mut states: Vec<&str> = Vec::new();
        for look in &self.0 {
            let state = match look.state.as_str() {
                "DOWN" if states.last() == Some(&"DRAIN") => continue,
                "NOLB" => "DRAIN",
                state => state,
            };
            if states.last() != Some(&state) {
                states.push(state);
            }
        }
        states
    }

    /// How many sessions the server had had at this moment, or shortly after it.
    pub fn sessions_at(&self, moment: SystemTime) -> u64 {
        let look = self.0.iter().find(|look| look.began >= moment);
        let look = look.unwrap_or_else(|| panic!("nobody looked after {moment:?}"));
        assert!(look.began <= look.ended);
        look.sessions
    }
}
