use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::{controller, post, report, send};

#[derive(Debug, Default)]
pub struct Event {
    kind: String,
    id: Option<u64>,
    data: Value,
}

/// curl that follows the changes.
pub struct Follower {
    curl: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Follower {
    pub fn start(addr: SocketAddr, args: &[&str], query: &str) -> Self {
        Self::start_at(&format!("http://{addr}"), args, query)
    }

    pub fn start_at(url: &str, args: &[&str], query: &str) -> Self {
        let mut curl = Command::new("curl")
            .args(["--silent", "--show-error", "--no-buffer", "--max-time", "60"])
            .args(args)
            .arg(format!("{url}/v1/events{query}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is installed; `make test` does that");
        let lines = BufReader::new(curl.stdout.take().expect("a pipe")).lines();
        Follower { curl, lines }
    }

    /// The next event that is no comment; none: the stream has ended.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.lines.next()?.expect("text");
            match line.split_once(": ") {
                Some(("event", kind)) => kind.clone_into(&mut event.kind),
                Some(("id", id)) => event.id = id.parse().ok(),
                Some(("data", data)) => event.data = serde_json::from_str(data).expect("JSON"),
                _ if line.is_empty() && !event.kind.is_empty() => return Some(event),
                _ => {}
            }
        }
    }

    pub fn expect(&mut self, kind: &str) -> Event {
        let event = self.next().expect("an event");
        assert_eq!(event.kind, kind, "{event:?}");
        event
    }

    /// The next state of a target that `wanted` likes.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Event {
        loop {
            let event = self.expect("target");
            if wanted(&event.data) {
                return event;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _gone_already = self.curl.kill();
        let _gone_already = self.curl.wait();
    }
}

#[test]
fn a_follower_is_told_everything_and_then_what_changes() {
    let (_controller, addr) = controller(&[]);
    assert_eq!(post(addr, &report("a", 1, "Serving")).status, 200);
    assert_eq!(post(addr, &report("b", 1, "Serving")).status, 200);
    let mut follower = Follower::start(addr, &[], "");
    follower.expect("reset");
    let mut names = [follower.expect("target"), follower.expect("target")]
        .map(|event| event.data["report"]["podName"].as_str().expect("a name").to_owned());
    names.sort();
    assert_eq!(names, ["a", "b"]);
    let current = follower.expect("current");
    assert_eq!(post(addr, &report("b", 2, "Draining")).status, 200);
    let changed = follower.until(|target| target["report"]["phase"] == "Draining");
    assert_eq!(changed.data["id"], "shop~b~");
    assert!(changed.id > current.id, "{changed:?} {current:?}");
}

#[test]
fn whoever_comes_back_is_told_what_it_missed_and_no_more() {
    let (_controller, addr) = controller(&["--max-targets", "2"]);
    assert_eq!(post(addr, &report("a", 1, "Serving")).status, 200);
    assert_eq!(post(addr, &report("b", 1, "Drained")).status, 200);
    let mut follower = Follower::start(addr, &[], "");
    follower.expect("reset");
    follower.until(|target| target["balancer"] == "deregistered");
    drop(follower);
    let mut follower = Follower::start(addr, &[], "");
    let last = loop {
        let event = follower.next().expect("an event");
        if event.kind == "current" {
            break event.id.expect("an id").to_string();
        }
    };
    drop(follower);
    // Makes room for itself: `b` is forgotten.
    assert_eq!(post(addr, &report("c", 1, "Serving")).status, 200);
    let header = format!("Last-Event-ID: {last}");
    let query = format!("?since={last}");
    for mut follower in [
        Follower::start(addr, &["--header", &header], ""),
        Follower::start(addr, &[], &query),
        Follower::start(addr, &["--header", &header], "?since=1"),
    ] {
        assert_eq!(follower.expect("gone").data, "shop~b~");
        assert_eq!(follower.expect("target").data["id"], "shop~c~");
    }
    // Another controller's version, one that is to come, and nonsense.
    for id in ["7", "99999999999999999", "none"] {
        let header = format!("Last-Event-ID: {id}");
        Follower::start(addr, &["--header", &header], "").expect("reset");
    }
    let reply = send(addr, "GET /v1/events?since=x", &[], "");
    assert_eq!(reply.status, 400, "{}", reply.body);
}

#[test]
fn a_fleet_that_does_not_fit_into_one_batch_comes_whole() {
    let (_controller, addr) = controller(&[]);
    let names: Vec<String> = (0..600).map(|number| format!("p{number:03}")).collect();
    for name in &names {
        assert_eq!(post(addr, &report(name, 1, "Serving")).status, 200);
    }
    let mut follower = Follower::start(addr, &[], "");
    follower.expect("reset");
    let mut seen = std::collections::BTreeSet::new();
    let mut last = 0;
    loop {
        let event = follower.next().expect("an event");
        if event.kind == "current" {
            break;
        }
        let id = event.id.expect("an id");
        assert!(id > last, "in order: {id} after {last}");
        last = id;
        seen.insert(event.data["report"]["podName"].as_str().expect("a name").to_owned());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), names);
}

#[test]
fn followers_beyond_the_bound_are_refused_and_a_place_comes_free() {
    let (_controller, addr) = controller(&[]);
    let mut followers: Vec<_> = (0..64).map(|_| Follower::start(addr, &[], "")).collect();
    for follower in &mut followers {
        follower.expect("reset");
    }
    let reply = send(addr, "GET /v1/events", &[], "");
    assert_eq!(reply.status, 503);
    assert!(reply.head.to_ascii_lowercase().contains("retry-after: "), "{}", reply.head);
    followers.pop();
    while Follower::start(addr, &["--fail"], "").next().is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_controller_that_stops_lets_its_followers_go() {
    let (controller, addr) = controller(&[]);
    let mut follower = Follower::start(addr, &[], "");
    follower.expect("reset");
    follower.expect("current");
    controller.signal(rustix::process::Signal::TERM);
    assert!(follower.next().is_none());
    // A stream that is cut, not ended, is an error to curl.
    assert!(follower.curl.wait().expect("curl ends").success());
}
