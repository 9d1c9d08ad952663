//! The page that people look at, seen by the browser that they use.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Ebbtide, echo, http};

/// What a browser makes of the page after a few seconds of its own, virtual, time.
fn seen(addr: SocketAddr) -> String {
    let name = format!("ebbtide-chromium-{}-{}", std::process::id(), addr.port());
    let profile = std::env::temp_dir().join(name);
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--virtual-time-budget=2500", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://{addr}/"))
        .stderr(Stdio::null())
        .output()
        .expect("chromium is installed; `make test` does that: apt-get install chromium");
    // A profile that can't be removed lies in the system's own place for such things.
    let _ = std::fs::remove_dir_all(profile);
    String::from_utf8(output.stdout).expect("text")
}

/// The text of the element with this id.
fn text<'a>(page: &'a str, id: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("id=\"{id}\""))
        .unwrap_or_else(|| panic!("no element {id} in\n{page}"));
    let (_, rest) = rest.split_once('>').expect("the tag's end");
    rest.split_once('<').expect("a closing tag").0
}

#[test]
fn the_page_shows_the_phase_and_what_remains() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &["--drain-delay", "0"]);
    let streams: Vec<_> =
        (0..3).map(|_| TcpStream::connect(proxy.addr()).expect("a connection")).collect();
    proxy.until("three connections", |status| status["drainBlockingConnections"] == 3);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    let page = seen(proxy.admin());
    assert_eq!(text(&page, "phase"), "Draining");
    assert_eq!(text(&page, "remaining"), "3");
    assert_eq!(text(&page, "forced"), "0");
    assert!(text(&page, "meaning").ends_with("Begun by a signal."), "{page}");
    let left = text(&page, "deadline");
    assert!(left == "5:00" || left.starts_with("4:"), "{left} of five minutes: {page}");
    assert!(page.contains("<li aria-current=\"step\">Draining</li>"), "{page}");
    assert!(page.contains("<td>is refused by the kernel</td>"), "{page}");
    for stream in &streams {
        let peer = stream.local_addr().expect("an address");
        assert!(page.contains(&format!("<td class=\"name\">{peer}</td>")), "{page}");
    }
    drop(streams);
    assert_eq!(proxy.finish().code(), Some(0));
}

/// Stands before a proxy's admin address, passes on the page and two looks at it, and is then as
/// gone as a proxy that has exited.
fn soon_gone(admin: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        let mut looks = 0;
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut line = String::new();
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
            // A connection that the browser opens in advance says nothing, and must not hold us up.
            stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
            if lines.read_line(&mut line).is_err() {
                continue;
            }
            let path = line.split(' ').nth(1).unwrap_or_default();
            looks += usize::from(path == "/live");
            if looks > 2 {
                continue;
            }
            let reply = http::request(admin, "GET", path).expect("an answer");
            // The browser may have left.
            let _ = write!(stream, "{}\r\n\r\n{}", reply.head, reply.body);
        }
    });
    addr
}

#[test]
fn the_page_of_a_proxy_that_is_gone_says_so_and_keeps_the_last_picture() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    let _stream = TcpStream::connect(proxy.addr()).expect("a connection");
    proxy.until("one connection", |status| status["drainBlockingConnections"] == 1);
    let page = seen(soon_gone(proxy.admin()));
    assert!(text(&page, "gone").starts_with("The proxy is gone (drained and exited"), "{page}");
    assert!(text(&page, "when").starts_with("last seen"), "{page}");
    assert_eq!(text(&page, "phase"), "Serving");
    assert_eq!(text(&page, "remaining"), "1");
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_lets_nothing_in() {
    let proxy = Ebbtide::proxy("127.0.0.1:9", &[]);
    let page = http::request(proxy.admin(), "GET", "/").expect("the page");
    assert!(page.body.len() < 15 * 1024, "{} bytes", page.body.len());
    let head = page.head.to_ascii_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none';"), "{head}");
    for foreign in ["http:", "https:", "innerHTML", "insertAdjacent", "document.write"] {
        assert!(!page.body.contains(foreign), "{foreign}");
    }
}
