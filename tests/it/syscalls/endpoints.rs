//! Faults of the thread that answers the endpoints.

use super::{Fault, Faulty, Scope, When, descriptors, leaks};
use crate::support::{Ebbtide, PATIENCE, echo, http};

#[rustfmt::skip]
const TABLE: &[(&str, &[&str], When)] = &[
    ("accept4", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPERM", "EINTR"], When::Once),
    ("epoll_wait", &["EINTR"], When::EveryOther),
    ("setsockopt", &["EPERM", "EINVAL", "ENOPROTOOPT"], When::Always),
    // That one request is lost.
    ("epoll_ctl", &["ENOSPC", "ENOMEM"], When::Once),
    ("recvfrom", &["ECONNRESET", "ENOMEM"], When::Once),
    ("sendto", &["EPIPE", "ENOBUFS"], When::Once),
];

#[test]
fn the_endpoints_answer_again_after_every_fault() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    proxy.get("/livez");
    let (_, before) = descriptors(proxy.pid());
    let mut wrong = Vec::new();
    for (call, errors, when) in TABLE {
        for errno in *errors {
            let what = format!("{call} {errno}");
            let faulty =
                Faulty::attach(Fault { call, errno, when: *when }, Scope::Thread(proxy.pid()));
            let asked = std::time::Instant::now();
            let mut answered = false;
            while !answered && asked.elapsed() < PATIENCE / 6 {
                let answer = http::request(proxy.admin(), "GET", "/livez");
                answered = answer.is_ok_and(|reply| reply.status == 200);
            }
            if !answered {
                wrong.push(format!("{what}: never answered again"));
            }
            let failed = faulty.failed() > 0;
            // The endpoints need not make every call.
            if failed {
                faulty.detach(&what);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let deadline = std::time::Instant::now() + PATIENCE / 6;
    while leaks(proxy.pid(), before) {
        assert!(std::time::Instant::now() < deadline, "descriptors leak");
        std::thread::yield_now();
    }
}
