//! nghttp2's clients and `h2` under load, with a drain and without.

use std::process::Command;

use rustix::process::Signal;

use super::{nothing_was_forced, proxy};
use crate::support::PATIENCE;
use crate::support::frames::{HIGHEST_STREAM, last_streams};
use crate::support::h2::{Client, Nghttpd, Server, may_be_sent_again, runtime};
use crate::support::tap::{Passed, Tap};

#[test]
fn without_a_drain_not_a_byte_is_changed() {
    let root = std::env::temp_dir().join(format!("ebbtide-nghttpd-{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("a directory");
    std::fs::write(root.join("file"), vec![b'x'; 20_000]).expect("a file");
    let nghttpd = Nghttpd::start(&root);
    let application_side = Tap::before(nghttpd.addr);
    for protocol in ["http2", "auto"] {
        let proxy = proxy(application_side.addr, protocol, &[]);
        let client_side = Tap::before(proxy.addr());
        let before = application_side.connections().len();
        let mut load = Command::new("h2load");
        load.args(["-c16", "-m32", "-n4000"]).arg(format!("http://{}/file", client_side.addr));
        let output = load.output().expect("h2load, of Debian's nghttp2-client");
        let said = String::from_utf8_lossy(&output.stdout);
        let all = "4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored";
        assert!(said.contains(all), "{said}");
        proxy.until("no connection", |status| status["activeConnections"] == 0);
        let sorted = |mut connections: Vec<Passed>| {
            connections.sort();
            connections.into_iter().map(|passed| (passed.from_client, passed.from_upstream))
        };
        let sent: Vec<_> = sorted(client_side.connections()).collect();
        let came: Vec<_> = sorted(application_side.connections().split_off(before)).collect();
        assert_eq!(sent.len(), 16);
        assert!(sent == came, "what one side reads is what the other has sent");

        // And as a human would look at it.
        let mut look = Command::new("nghttp");
        look.args(["-nv"]).arg(format!("http://{}/file", proxy.addr()));
        let output = look.output().expect("nghttp, of Debian's nghttp2-client");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(":status: 200") && said.contains("; END_STREAM"), "{said}");
    }
    std::fs::remove_dir_all(root).expect("removed");
}

/// nghttp2's own client under load when the drain begins: whatever it was given leave for is done.
#[test]
fn clients_under_load_lose_nothing_in_a_drain() {
    let server = Server::start();
    let proxy = proxy(server.addr, "auto", &[]);
    let tap = Tap::before(proxy.addr());
    runtime().block_on(async {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                let addr = tap.addr;
                tokio::spawn(async move {
                    let client = Client::connect(addr).await.expect("a connection");
                    let mut streams = tokio::task::JoinSet::new();
                    let client = std::sync::Arc::new(client);
                    for _ in 0..8 {
                        let client = std::sync::Arc::clone(&client);
                        streams.spawn(async move {
                            let mut answered = 0;
                            loop {
                                match client.get("/load").await {
                                    Ok(_) => answered += 1,
                                    // Sent above the last stream, or not at all.
                                    Err(error) if may_be_sent_again(&error) => return answered,
                                    Err(error) => panic!("lost after {answered}: {error:?}"),
                                }
                            }
                        });
                    }
                    streams.join_all().await.into_iter().sum::<u64>()
                })
            })
            .collect();
        while server.seen().len() < 1000 {
            tokio::task::yield_now().await;
        }
        proxy.signal(Signal::TERM);
        let mut answered = 0;
        for client in clients {
            let whole = tokio::time::timeout(PATIENCE, client).await.expect("an end");
            answered += whole.expect("nothing lost");
        }
        // What was answered is what was served: nothing was served and then called unserved.
        assert_eq!(server.seen().len() as u64, answered);
    });
    // A client may end before the final word has reached the tap.
    let passed = tap.until("what each is told", |all| {
        all.iter().all(|one| last_streams(&one.to_client()).len() >= 2)
    });
    assert_eq!(passed.len(), 16);
    for passed in passed {
        let last_streams = last_streams(&passed.to_client());
        assert_eq!(last_streams.len(), 2, "{last_streams:?}");
        assert_eq!(last_streams[0], HIGHEST_STREAM);
        assert!(!passed.broke);
    }
    nothing_was_forced(&proxy.finish());
}
