//! The controller's page, used as people use it: in a real browser, with clicks and keys.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::{Browser, Directory, Ebbtide, QUICK, connect, echo, exchange, http};

/// The proxies of a fleet, as their reports speak for them.
struct Fleet {
    controller: Ebbtide,
    addr: SocketAddr,
    stream: TcpStream,
    sequence: u64,
    /// Whose address is which: no two have the same.
    pods: Vec<String>,
}

impl Fleet {
    fn start() -> Self {
        // Thousands of pods, all at one address.
        let line = ["controller", "--listen", "127.0.0.1:0", "--max-source-rate", "100000"];
        let controller = Ebbtide::start(&line);
        let addr = controller.takes_reports();
        let stream = TcpStream::connect(addr).expect("the controller");
        Fleet { controller, addr, stream, sequence: 0, pods: Vec::new() }
    }

    /// Reports for `pod`; `more` replaces fields of the report of one that serves.
    fn report(&mut self, pod: &str, more: &Value) {
        self.sequence += 1;
        let known = self.pods.iter().position(|it| it == pod);
        let number = known.unwrap_or_else(|| {
            self.pods.push(pod.to_owned());
            self.pods.len() - 1
        });
        let ip = format!("10.0.{}.{}", number / 250, number % 250 + 1);
        let mut report = json!({
            "schemaVersion": "v1", "namespace": "shop", "podName": pod, "podUID": "u1",
            "nodeName": "node-1", "podIP": ip, "startTime": "2024-05-01T10:00:00Z",
            "sequence": self.sequence, "phase": "Serving", "drainTimeoutSeconds": 300,
            "activeConnections": 12, "drainBlockingConnections": 12, "activeRequests": 0,
            "activeStreams": 0, "byClass": {"websocket": 9, "http": 3}, "forcedCloses": 0,
            "rejected": 0, "oldestConnectionSeconds": 4000,
            "listeners": [{"address": "0.0.0.0", "port": 8080, "state": "Accepting"}]
        });
        for (name, value) in more.as_object().expect("an object") {
            report[name] = value.clone();
        }
        let body = report.to_string();
        let head = format!(
            "POST /v1/reports HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.addr,
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes()).expect("sent");
        let reply = http::receive(&mut self.stream).expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    /// Reports a drain that a signal began.
    fn drains(&mut self, pod: &str, phase: &str, blocking: u64, deadline_seconds: u64) {
        let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
        let deadline = SystemTime::now() + Duration::from_secs(deadline_seconds);
        let state = if phase == "LameDuck" { "Accepting" } else { "Refusing" };
        self.report(
            pod,
            &json!({
                "phase": phase, "reason": "Signal", "drainBlockingConnections": blocking,
                "activeConnections": blocking, "drainDeadline": time(deadline),
                "drainStartTime": time(deadline - Duration::from_secs(300)),
                "byClass": {"websocket": blocking},
                "listeners": [{"address": "0.0.0.0", "port": 8080, "state": state}]
            }),
        );
    }

    fn browser(&self) -> Browser {
        let mut browser = Browser::open(&format!("http://{}/", self.addr));
        browser.until("document.documentElement.dataset.complete === 'true'");
        browser
    }
}

/// The text of the row that shows `pod`.
fn row(pod: &str) -> String {
    format!(
        "[...document.querySelectorAll('tr.row')].find(it => it.innerText.includes('{pod}')).innerText"
    )
}

const ROWS: &str = "document.querySelectorAll('tr.row').length";

#[test]
fn the_fleet_is_shown_live_searched_and_opened() {
    let mut fleet = Fleet::start();
    for pod in ["cart-0", "cart-1", "search-0"] {
        fleet.report(pod, &json!({}));
    }
    fleet.drains("meet-0", "Draining", 31, 200);
    let mut browser = fleet.browser();
    assert_eq!(browser.value(ROWS), 4);
    assert_eq!(browser.text("#sum-leaving"), "1");
    assert_eq!(browser.text("#sum-remaining"), "31");
    let meet = browser.value(&row("meet-0")).as_str().expect("text").to_owned();
    for part in ["shop/meet-0", "Draining", "31 websocket", "3:", "weight zero"] {
        assert!(meet.contains(part), "no `{part}` in {meet}");
    }
    // What changes is seen without a click, and told.
    fleet.drains("cart-1", "LameDuck", 12, 300);
    browser.until(&format!("{}.includes('LameDuck')", row("cart-1")));
    browser
        .until("document.querySelector('#news').innerText.includes('shop/cart-1 began to drain')");
    fleet.drains("meet-0", "Draining", 30, 200);
    browser.until("document.querySelector('#sum-remaining').innerText === '42'");
    // Searched, by the buttons and by the words.
    browser.click("[data-kind=leaving]");
    browser.until(&format!("{ROWS} === 2"));
    browser.click("#search");
    browser.write("MEET node-1");
    browser.until(&format!("{ROWS} === 1"));
    assert_eq!(browser.text("#shown"), "1 of 4 shown");
    // Opened by a click, with everything, and back by the browser's own way.
    browser.click("tr.row a");
    browser.until("document.querySelector('#t-name').innerText === 'shop/meet-0'");
    assert_eq!(browser.text("#t-phase"), "Draining");
    assert_eq!(browser.text("#t-remaining"), "30");
    assert!(browser.text("#t-meaning").ends_with("Begun by a signal."));
    assert!(browser.text("#t-acts").contains("A signal told it to leave: it can't serve again."));
    assert_eq!(browser.value("document.querySelector('#undrain').disabled"), true);
    assert!(browser.text("#t-listeners").contains("a new connection is refused by the kernel"));
    assert!(browser.text("#t-who").contains("node-1"));
    fleet.drains("meet-0", "Closing", 7, 20);
    browser.until("document.querySelector('#t-remaining').innerText === '7'");
    browser.value("history.back()");
    browser.until(&format!("{ROWS} === 1"));
    // A controller that goes is missed; what it last told stays.
    fleet.controller.signal(rustix::process::Signal::KILL);
    browser
        .until("document.querySelector('#gone').innerText.includes('This is what it last told')");
    assert_eq!(browser.value(ROWS), 1);
}

#[test]
fn a_click_and_a_confirmation_drain_a_real_proxy_and_let_it_serve_again() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let addr = controller.takes_reports();
    let url = format!("http://{addr}");
    let args = [&["--controller", url.as_str()], &QUICK[..]].concat();
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    let mut browser = Browser::open(&url);
    browser.until(&format!("{ROWS} === 1"));
    browser.click("tr.row a");
    browser.until("document.querySelector('#t-phase').innerText === 'Serving'");
    assert_eq!(browser.value("document.querySelector('#undrain').disabled"), true);
    // Said no: nothing is asked.
    browser.click("#drain");
    browser.until("document.querySelector('#sure').open");
    browser.click("#sure [value=no]");
    browser.until("!document.querySelector('#sure').open");
    assert_eq!(browser.text("#t-marks"), "");
    // Said yes.
    browser.click("#drain");
    browser.until("document.querySelector('#sure').open");
    assert!(browser.text("#sure-why").contains("force-closed"));
    browser.click("#sure-yes");
    browser.until("document.querySelector('#t-said').innerText.startsWith('Asked.')");
    proxy.until_phase("Draining");
    browser.until("document.querySelector('#t-phase').innerText === 'Draining'");
    browser.until("document.querySelector('#t-meaning').innerText.includes('the controller')");
    exchange(&mut stream, b"still here");
    browser.click("#undrain");
    browser.until("document.querySelector('#sure').open");
    browser.click("#sure-yes");
    proxy.until_phase("Serving");
    browser.until("document.querySelector('#t-phase').innerText === 'Serving'");
    exchange(&mut stream, b"and served");
}

#[test]
fn an_operators_token_is_asked_for_once() {
    let directory = Directory::new();
    let file = directory.write("token", "sesame-sesame-sesame-sesame-sesame\n");
    let args = ["controller", "--listen", "127.0.0.1:0", "--operator-token-file", &file];
    let controller = Ebbtide::start(&args);
    let mut browser = Browser::open(&format!("http://{}/", controller.takes_reports()));
    browser.until("document.querySelector('#token').open");
    browser.write("wrong");
    browser.press("Enter", 13);
    browser.until("document.querySelector('#token-why').innerText.includes('not accepted')");
    browser.until("document.querySelector('#token').open");
    browser.write("sesame-sesame-sesame-sesame-sesame");
    browser.press("Enter", 13);
    browser.until("document.documentElement.dataset.complete === 'true'");
    assert_eq!(browser.text("#link"), "live");
    browser.value("window.before = true; location.reload()");
    browser.until("!window.before && document.documentElement.dataset.complete === 'true'");
    assert_eq!(browser.value("document.querySelector('#token').open"), false);
}

#[test]
fn what_reports_say_is_text_and_nothing_else() {
    let mut fleet = Fleet::start();
    let evil = "<img src=x onerror='window.evil=1'>";
    fleet.drains("cart-0", "Draining", 3, 100);
    fleet.report(
        "cart-1",
        &json!({
            "byClass": {evil: 2, "</td><script>window.evil=1</script>": 1, "__proto__": 7},
            "reason": evil, "startTime": "2024-05-01T10:00:00Z",
            "listeners": [{"address": evil, "port": 1, "state": "constructor"}]
        }),
    );
    let mut browser = fleet.browser();
    let cart = browser.value(&row("cart-1")).as_str().expect("text").to_owned();
    assert!(cart.contains(&format!("2 {evil}")) && cart.contains("7 __proto__"), "{cart}");
    browser.click("a[href$='cart-1~u1']");
    browser.until("document.querySelector('#t-name').innerText === 'shop/cart-1'");
    assert!(browser.text("#t-meaning").contains(evil));
    let listeners = browser.text("#t-listeners");
    assert!(listeners.contains(evil) && listeners.contains("a new connection constructor"));
    assert_eq!(browser.value("document.images.length"), 0);
    assert_eq!(browser.value("window.evil === undefined"), true);
    assert_eq!(browser.value("document.scripts.length"), 1);
    // An address is text as well, and one that is no target says so.
    browser.value("location.hash = '#/targets/%3Cimg%20src=x%20onerror=window.evil=1%3E'");
    browser.until("document.querySelector('#t-name').innerText.startsWith('<img')");
    assert!(browser.text("#t-acts").contains("knows no such target"));
    browser.value("location.hash = '#/targets/%E0%A4%A'");
    browser.until("!document.querySelector('#fleet').hidden");
    assert_eq!(browser.value("window.evil === undefined"), true);
}

/// What a browser must do for a change does not grow with the fleet.
#[test]
fn five_thousand_targets_stay_usable() {
    const TARGETS: u64 = 5000;
    let mut fleet = Fleet::start();
    for number in 0..TARGETS {
        let pod = format!("svc{:02}-{number}", number % 40);
        if number % 10 == 0 {
            fleet.drains(&pod, "Draining", 20 + number % 50, 250);
        } else {
            fleet.report(&pod, &json!({}));
        }
    }
    let mut browser = fleet.browser();
    browser.until("document.querySelector('#sum-targets').innerText === '5,000'");
    assert!(browser.value(ROWS).as_u64().expect("a number") < 60, "only rows in sight exist");
    assert_eq!(
        browser.value(
            "document.querySelector('#targets').ariaRowCount ?? \
        document.querySelector('#targets').getAttribute('aria-rowcount')"
        ),
        "5001"
    );
    println!("5000 targets: {}", browser.text("#cost"));
    browser.click("[data-sort=name]");
    browser.until("document.querySelector('tr.row a').innerText === 'shop/svc00-0'");
    // One far out of sight changes: the rows in sight are not touched.
    browser.value(
        "window.touched = 0; new MutationObserver(all => { window.touched += all.length; }) \
         .observe(document.querySelector('#rows'), { subtree: true, childList: true, \
         characterData: true, attributes: true, attributeFilter: ['class', 'href'] })",
    );
    fleet.report("svc39-4999", &json!({"phase": "Drained", "forcedCloses": 3}));
    browser.until("document.querySelector('#news').innerText.includes('svc39-4999')");
    let touched = browser.value("window.touched").as_u64().expect("a number");
    // The countdowns of those in sight that drain go on meanwhile.
    assert!(touched < 60 * 3, "{touched} changes of rows for a target out of sight");
    // All that is in motion at once, with a page that goes on.
    for round in 0..3 {
        for number in (0..TARGETS).step_by(10) {
            let pod = format!("svc{:02}-{number}", number % 40);
            fleet.drains(&pod, "Draining", 10 + round, 240);
        }
        browser.until(&format!(
            "document.querySelector('#sum-remaining').innerText === '{}'",
            match 500 * (10 + round) {
                5000 => "5,000",
                5500 => "5,500",
                _ => "6,000",
            }
        ));
        println!("500 of 5000 change: {}", browser.text("#cost"));
    }
    // By the keyboard, out of the window and on.
    browser.value("document.querySelector('tr.row a').focus()");
    for _ in 0..9 {
        browser.press("PageDown", 34);
    }
    browser.press("ArrowUp", 38);
    browser.until("document.activeElement.closest('tr').getAttribute('aria-rowindex') === '91'");
    let pod = browser.value("document.activeElement.innerText");
    let pod = pod.as_str().expect("text");
    let inside = "(() => { const r = document.activeElement.getBoundingClientRect(), \
        t = document.querySelector('#table').getBoundingClientRect(); \
        return r.top >= t.top && r.bottom <= t.bottom })()";
    assert_eq!(browser.value(inside), true, "what has the focus is in sight");
    browser.press("Enter", 13);
    browser.until(&format!("document.querySelector('#t-name').innerText === '{pod}'"));
    browser.value("history.back()");
    // The very last one is found at once, and at the end of the scroll.
    browser.until("!document.querySelector('#fleet').hidden");
    browser.value("document.querySelector('#table').scrollTop = 1e9");
    browser.until(
        "[...document.querySelectorAll('tr.row')].pop().getAttribute('aria-rowindex') === '5001'",
    );
    browser.click("#search");
    browser.write("svc39-4999");
    browser.until(&format!("{ROWS} === 1"));
    println!("in the end: {}", browser.text("#cost"));
}

/// Contrast as WCAG 2.2 counts it, of every text that is shown.
const LEAST_CONTRAST: &str = r"(() => {
  const rgb = text => text.match(/[\d.]+/g).map(Number);
  const part = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const ground = node => {
    const over = [];
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(node).backgroundColor);
      over.push([r, g, b, a]);
      if (a === 1) break;
    }
    return over.reduceRight((below, [r, g, b, a]) =>
      [r, g, b].map((v, i) => v * a + below[i] * (1 - a)), [255, 255, 255]);
  };
  let least = 21, where = '';
  for (const node of document.querySelectorAll('body *')) {
    if (!node.checkVisibility() || node.disabled) continue;
    if (![...node.childNodes].some(it => it.nodeType === 3 && it.data.trim())) continue;
    const style = getComputedStyle(node);
    const [one, other] = [light(rgb(style.color)), light(ground(node))].sort((a, b) => b - a);
    const contrast = (one + .05) / (other + .05);
    if (contrast < least) { least = contrast; where = node.textContent; }
  }
  return [least, where];
})()";

#[test]
fn it_can_be_read_in_the_dark_and_in_the_light_and_by_those_who_hear_it() {
    let mut fleet = Fleet::start();
    fleet.report("cart-0", &json!({}));
    fleet.drains("meet-0", "Closing", 3, 9);
    fleet.report("pay-0", &json!({"phase": "Drained", "forcedCloses": 2}));
    let mut browser = fleet.browser();
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefers(scheme);
        grounds.push(browser.value("getComputedStyle(document.body).backgroundColor"));
        for hash in ["#/", "#/targets/shop~meet-0~u1"] {
            browser.value(&format!("location.hash = '{hash}'"));
            browser.until(if hash == "#/" { "!fleet.hidden" } else { "!target.hidden" });
            let least = browser.value(LEAST_CONTRAST);
            assert!(least[0].as_f64().expect("a number") >= 4.5, "{scheme} {hash}: {least}");
        }
    }
    assert_ne!(grounds[0], grounds[1]);
    // Every control has a name, every table its heads, and nothing is said by colour alone.
    let nameless = "[...document.querySelectorAll('button, input, a')].filter(it => it.checkVisibility() \
        && !it.innerText.trim() && !it.labels?.length).length";
    browser.value("location.hash = '#/'");
    browser.until("!fleet.hidden");
    assert_eq!(browser.value(nameless), 0);
    assert_eq!(
        browser.value("document.querySelectorAll('#targets thead th[scope=col]').length"),
        10
    );
    assert_eq!(browser.value("document.querySelector('#news').ariaLive"), "polite");
    let pay = browser.value(&row("pay-0")).as_str().expect("text").to_owned();
    assert!(pay.contains("2 force-closed"), "{pay}");
}

#[test]
fn the_controllers_page_needs_nothing_from_elsewhere() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let addr = controller.takes_reports();
    let get = |path: &str| http::request(addr, "GET", path).expect("an answer");
    let page = get("/");
    let mut texts = vec![page.body.clone()];
    for (part, kind) in [
        ("page.css", "text/css"),
        ("page.js", "text/javascript"),
        ("fleet.js", "text/javascript"),
        ("list.js", "text/javascript"),
        ("target.js", "text/javascript"),
        ("words.js", "text/javascript"),
    ] {
        let reply = get(&format!("/page/{part}"));
        assert_eq!(reply.status, 200, "{part}");
        assert!(reply.head.contains(&format!("content-type: {kind}")), "{}", reply.head);
        texts.push(reply.body);
    }
    for reply in [page, get("/page/page.js")] {
        let head = reply.head.to_ascii_lowercase();
        assert!(head.contains("content-security-policy: default-src 'none';"), "{head}");
        assert!(!head.contains("unsafe-"), "{head}");
    }
    assert_eq!(get("/page/nothing.js").status, 404);
    let bytes: usize = texts.iter().map(String::len).sum();
    assert!(bytes < 64 * 1024, "{bytes} bytes");
    for text in &texts {
        // The name of the pictures' language is no address.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http:", "https:", "innerHTML", "insertAdjacent", "document.write", "eval("]
        {
            assert!(!text.contains(foreign), "{foreign}");
        }
    }
}

/// Draws the picture in docs/: `cargo nextest run --run-ignored all -E 'test(picture_of_the_docs)'`.
#[test]
#[ignore = "it draws a picture for the docs, over a quarter of a minute"]
fn the_picture_of_the_docs() {
    let mut fleet = Fleet::start();
    let fall = |from: u64, round: u64, each: u64| from.saturating_sub(round * each);
    for round in 0..14 {
        for number in 0..6 {
            fleet.report(&format!("cart-7d9f8c6b5-x2x4{}", b"bcdfgh"[number] as char), &json!({}));
            fleet.report(&format!("search-{number}"), &json!({
                "activeConnections": 31, "drainBlockingConnections": 31, "byClass": {"http2": 28, "http": 3},
                "oldestConnectionSeconds": 86_400 + 777 * number
            }));
        }
        fleet.drains("meet-0", "Draining", fall(412, round, 17 + round), 262);
        fleet.drains("meet-1", "Draining", fall(388, round, 24), 275);
        fleet.drains("meet-2", "LameDuck", 431, 296);
        fleet.drains("meet-3", "Closing", fall(61, round, 2), 19);
        if round < 4 {
            fleet.drains("meet-4", "Draining", fall(90, round, 30), 200);
        } else {
            fleet.report(
                "meet-4",
                &json!({
                    "phase": "Drained", "reason": "Signal", "activeConnections": 0,
                    "drainBlockingConnections": 0, "byClass": {}, "forcedCloses": 3
                }),
            );
        }
        fleet.report(
            "meet-5",
            &json!({"activeConnections": 407, "drainBlockingConnections": 407,
            "byClass": {"websocket": 401, "http": 6}}),
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut browser = fleet.browser();
    fleet.drains("cart-7d9f8c6b5-x2x4b", "LameDuck", 12, 299);
    browser.until("document.querySelector('#news').innerText.includes('began to drain')");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let elsewhere = std::env::temp_dir();
    browser.size(1280, 640);
    browser.prefers("light");
    browser.picture(&docs.join("controller.png"));
    browser.prefers("dark");
    browser.picture(&elsewhere.join("ebbtide-fleet-dark.png"));
    browser.click("a[href$='meet-0~u1']");
    browser.until("document.querySelector('#t-name').innerText === 'shop/meet-0'");
    browser.picture(&elsewhere.join("ebbtide-target-dark.png"));
    browser.prefers("light");
    browser.click("#drain");
    browser.picture(&elsewhere.join("ebbtide-target-light.png"));
    browser.size(480, 850);
    browser.value("location.hash = '#/'");
    browser.until("!fleet.hidden");
    browser.picture(&elsewhere.join("ebbtide-fleet-small.png"));
}
