//! A signal is final: whatever was asked for before it or comes behind it, the process drains and ends.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::process::run;
use crate::support::{Ebbtide, QUICK, connect, echo, exchange, http};

/// What an undrain is answered after a signal.
fn expect_refusal(proxy: &Ebbtide) {
    let refused = proxy.post("/undrain");
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.body.contains("nothing undoes a signal"), "{}", refused.body);
    assert!(refused.body.contains("SIGTERM"), "{}", refused.body);
}

#[test]
fn no_phase_after_a_signal_can_be_undone() {
    let phases: [(&str, &[&str]); 3] = [
        ("LameDuck", &["--drain-delay", "10m", "--quiet-period", "0", "--drain-timeout", "20m"]),
        ("Draining", &["--drain-delay", "0", "--drain-timeout", "20m"]),
        ("Closing", &["--drain-delay", "0", "--drain-timeout", "40s", "--close-spread", "40s"]),
    ];
    for (phase, args) in phases {
        let proxy = Ebbtide::proxy(&echo().to_string(), args);
        let mut streams: Vec<_> = (0..10).map(|_| connect(proxy.addr())).collect();
        for stream in &mut streams {
            exchange(stream, b"hello");
        }
        // Whoever began the drain: the signal that joins it is final.
        assert_eq!(proxy.post("/drain").status, 200);
        proxy.signal(Signal::TERM);
        proxy.until(phase, |status| status["phase"] == phase && status["reason"] == "Signal");
        expect_refusal(&proxy);
        assert_eq!(proxy.status()["phase"], phase);
        let control = proxy.control().to_string();
        let (status, _, error) = run(&["undrain", "--control", &control]);
        assert_eq!(status, Some(69), "{error}");
        assert!(error.contains("start another process"), "{error}");
    }
}

/// A drain begun by an endpoint, an operator's undrain on its way, and SIGTERM right behind it: the
/// process served on, and was killed with everything open.
#[test]
fn a_signal_is_not_lost_among_drains_and_undrains() {
    for round in 0..20 {
        let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
        let mut stream = connect(proxy.addr());
        exchange(&mut stream, b"hello");
        let control = proxy.control();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for path in ["/drain", "/undrain", "/undrain"] {
                let is_over = &is_over;
                scope.spawn(move || {
                    // The process's end ends them.
                    while !is_over.load(Ordering::Relaxed)
                        && http::request(control, "POST", path).is_ok()
                    {}
                });
            }
            proxy.line("a drain", |line| line["message"] == "phase");
            proxy.signal(Signal::TERM);
            proxy.says("signal");
            expect_refusal(&proxy);
            assert_ne!(proxy.status()["phase"], "Serving", "round {round}");
            is_over.store(true, Ordering::Relaxed);
        });
        drop(stream);
        assert_eq!(proxy.finish().code(), Some(0), "round {round}");
    }
}
