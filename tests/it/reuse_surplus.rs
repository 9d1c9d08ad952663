//! `--upstream-reuse` and applications that say more than they were asked, or end without a word: no
//! client gets what another one's request brought about.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::Ebbtide;
use crate::support::http1::{App, Wire};
use crate::support::site::{Site, answer};

const REUSE: [&str; 3] = ["--protocol", "http1", "--upstream-reuse"];
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// What an attacker would like a victim to take for its answer.
const SURPLUS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";

const DISTRUSTED: &str = "the application has sent what no request asked for: its connections are not \
                          shared (--upstream-reuse)";

fn proxy(upstream: &str) -> Ebbtide {
    Ebbtide::proxy(upstream, &REUSE)
}

fn lent(proxy: &Ebbtide, event: &str) -> u64 {
    let name = format!("ebbtide_upstream_lent_total{{event=\"{event}\"}} ");
    let metrics = proxy.get("/metrics").body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {metrics}"))
}

/// One request on a connection of its own, and the head of its answer; the client ends then.
fn ask(addr: SocketAddr, method: &str, path: &str) -> io::Result<(Wire, String)> {
    let mut client = Wire::connect(addr);
    client.try_send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
    let head = client.head()?;
    let _ended = client.stream().shutdown(Shutdown::Write);
    Ok((client, head))
}

/// A victim's request; what it got instead of its own answer.
fn victim(addr: SocketAddr, path: &str) -> Option<String> {
    let mut client = Wire::connect(addr);
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.try_send(request).and_then(|()| client.answer());
    let _ended = client.stream().shutdown(Shutdown::Write);
    client.is_cut();
    match answer {
        Ok(answer) if answer.body == path.as_bytes() => None,
        Ok(answer) => Some(String::from_utf8_lossy(&answer.body).into_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Attackers make the application say more than it was asked, while victims ask on.
fn assert_no_victim(site: &Site, attacks: &[(&str, &str)]) -> Ebbtide {
    const VICTIMS: usize = 4;
    const REQUESTS: usize = 115;
    let proxy = proxy(&site.upstream());
    let addr = proxy.addr();
    let is_over = AtomicBool::new(false);
    let harmed = std::thread::scope(|scope| {
        for (method, path) in attacks {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    let _answered = ask(addr, method, path);
                }
            });
        }
        let work = |number: usize| {
            move || {
                let ask = |request| victim(addr, &format!("/{number}-{request}"));
                (0..REQUESTS).filter_map(ask).collect::<Vec<_>>()
            }
        };
        let victims: Vec<_> = (0..VICTIMS).map(|number| scope.spawn(work(number))).collect();
        let harmed: Vec<_> =
            victims.into_iter().flat_map(|victim| victim.join().expect("a victim")).collect();
        is_over.store(true, Ordering::SeqCst);
        harmed
    });
    assert!(harmed.is_empty(), "{} of {}: {harmed:?}", harmed.len(), VICTIMS * REQUESTS);
    proxy
}

fn moment(most_milliseconds: u64) {
    std::thread::sleep(Duration::from_micros(fastrand::u64(..most_milliseconds * 1000)));
}

/// A site that has something late to say behind its answer to `/attack…`.
fn surplus_site(most_milliseconds: u64) -> Site {
    Site::new(move |visit| {
        let head = match visit.path.as_str() {
            "/attack-204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "/attack-304" => "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned(),
            "/attack-head" => "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n".to_owned(),
            "/attack-more" => answer("attack"),
            path => {
                visit.wire.try_send(answer(path))?;
                return Ok(true);
            }
        };
        visit.wire.try_send(head)?;
        moment(most_milliseconds);
        visit.wire.try_send(SURPLUS)?;
        Ok(true)
    })
}

#[test]
fn a_late_body_of_a_response_that_has_none_reaches_no_other_client() {
    let site = surplus_site(100);
    let attacks = [("HEAD", "/attack-head"), ("GET", "/attack-204"), ("GET", "/attack-304")];
    let proxy = assert_no_victim(&site, &attacks);
    proxy.says(DISTRUSTED);
}

#[test]
fn what_comes_late_behind_a_whole_response_reaches_no_other_client() {
    let site = surplus_site(50);
    assert_no_victim(&site, &[("GET", "/attack-more"), ("GET", "/attack-more")]);
}

#[test]
fn an_application_that_closes_behind_its_answer_resets_nobody_that_would_be_served_without_us() {
    for most_milliseconds in [0, 5, 40] {
        let site = Site::new(move |visit| {
            visit.wire.try_send(answer(&visit.path))?;
            if most_milliseconds > 0 {
                moment(most_milliseconds);
            }
            Ok(fastrand::bool())
        });
        let proxy = assert_no_victim(&site, &[]);
        assert_eq!(lent(&proxy, "lost"), 0);
    }
}

/// An exchange of a client that ends behind it; the application's side.
fn exchange(app: &App, proxy: &Ebbtide) -> Wire {
    let mut client = Wire::connect(proxy.addr());
    client.send(GET);
    let mut upstream = app.accept();
    upstream.expect(GET);
    upstream.send(OK);
    client.expect(OK);
    client.half_close();
    client.ends();
    upstream
}

/// What one connection has shown, holds for all to the same application.
#[test]
fn an_application_that_has_said_too_much_is_not_trusted_again() {
    let app = App::new();
    let proxy = proxy(&app.upstream());
    let mut upstream = exchange(&app, &proxy);
    upstream.send(SURPLUS);
    upstream.is_cut();
    proxy.says(DISTRUSTED);
    for _ in 0..3 {
        let mut upstream = exchange(&app, &proxy);
        upstream.ends();
    }
    assert_eq!(lent(&proxy, "reused"), 0);
}

/// The surplus comes while the client is still there: it is that client's, as it would be without us,
/// and the connection nobody else's.
#[test]
fn what_comes_while_its_own_client_is_there_is_passed_to_it() {
    let app = App::new();
    let proxy = proxy(&app.upstream());
    let mut client = Wire::connect(proxy.addr());
    client.send(GET);
    let mut upstream = app.accept();
    upstream.expect(GET);
    upstream.send([OK, SURPLUS].concat());
    client.expect([OK, SURPLUS].concat());
    client.half_close();
    upstream.ends();
    drop(upstream);
    client.ends();
    proxy.says(DISTRUSTED);
    assert_eq!(lent(&proxy, "parked"), 0);
}

/// An application that ignores the body of a GET takes it for the next request on the connection.
#[test]
fn a_connection_is_nobody_elses_after_a_body_that_applications_ignore() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let app = App::new();
        let proxy = proxy(&app.upstream());
        let mut client = Wire::connect(proxy.addr());
        let request = format!("{method} / HTTP/1.1\r\nContent-Length: 7\r\n\r\nGET /x ");
        client.send(&request);
        let mut upstream = app.accept();
        upstream.expect(&request);
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        upstream.send(response);
        client.expect(response);
        client.half_close();
        upstream.ends();
        drop(upstream);
        client.ends();
        assert_eq!(lent(&proxy, "parked"), 0, "{method}");
    }
}

#[test]
fn a_connection_that_has_been_silent_serves_the_next_client() {
    let site = Site::telling();
    let proxy = proxy(&site.upstream());
    let (mut first, _) = ask(proxy.addr(), "GET", "/a").expect("an answer");
    let _ = first.stream().flush();
    first.is_cut();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while lent(&proxy, "reused") == 0 {
        assert!(std::time::Instant::now() < deadline, "never reused");
        std::thread::sleep(Duration::from_millis(fastrand::u64(100..400)));
        assert_eq!(victim(proxy.addr(), "/b"), None);
    }
}
