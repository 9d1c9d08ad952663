//! With no drain under way the bytes out are the bytes in, whatever they are and however they come.

mod bodies;
mod hyper;
mod javascript;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use crate::support::http1::App;
use crate::support::peers::Peer;
use crate::support::{Directory, Ebbtide, PATIENCE};

const PROTOCOLS: [&str; 4] = ["auto", "http1", "http2", "tcp"];

/// Each exchange so often, cut elsewhere each time.
const ROUNDS: usize = 4;

/// What the client sends and what the application sends.
type Exchange = (Vec<u8>, Vec<u8>);

fn corpus(random: &mut fastrand::Rng) -> Vec<Exchange> {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let text: [(String, String); 20] = [
        (get.repeat(5), ok.repeat(5)),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".into(), "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".into()),
        (get.into(), "HTTP/1.1 204 No Content\r\n\r\n".into()),
        (get.into(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nA: b\r\n\r\n".into()),
        (get.into(), "HTTP/1.0 200 OK\r\n\r\nuntil the end".into()),
        (get.into(), format!("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n{ok}")),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(), ok.into()),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc".into(), format!("HTTP/1.1 100 Continue\r\n\r\n{ok}")),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into(), "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n".into()),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n\0\x01\x02".into(), "HTTP/1.1 200 OK\r\n\r\n\x03\x04".into()),
        // What is wrong, and must arrive as wrong as it was.
        ("GET / HTTP/1.1\nHost: a\n\n".into(), "HTTP/1.1 200 OK\nContent-Length: 2\n\nok".into()),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".into(), ok.into()),
        ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), ok.into()),
        ("POST / HTTP/1.1\r\nContent-Length: 3, 4\r\n\r\nabcd".into(), ok.into()),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n".into(), ok.into()),
        ("get / http/1.1\r\n\r\n\r\n\r\n".into(), "ICY 200 OK\r\n\r\n".into()),
        (format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(60_000)), format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(60_000))),
        (format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(100_000)), ok.into()),
        (get.into(), format!("{ok}and an answer nobody asked for")),
        (String::new(), "220 the server speaks first\r\n".into()),
    ];
    let mut corpus: Vec<Exchange> =
        text.into_iter().map(|(there, back)| (there.into_bytes(), back.into_bytes())).collect();
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let frames_there =
        [&b"\x81\x82abcd\x01\x02\x89\x80abcd\x02\x83abcdxyz\x80\xfe\x01\x00abcd"[..], &[9; 256]]
            .concat();
    let frames_back = [
        &b"\x81\x02hi\x01\x01a\x8a\x00\x80\x01b\xc1\x03zip"[..],
        b"\x82\x7f\0\0\0\0\0\x01\0\0",
        &vec![5; 65_536],
        b"\x88\x02\x03\xe8",
    ]
    .concat();
    corpus.push(([&upgrade[..], &frames_there].concat(), [&switching[..], &frames_back].concat()));
    // Frames that no WebSocket has.
    corpus.push((
        [&upgrade[..], b"\x81\x02hi\xff\xff"].concat(),
        [&switching[..], b"\x8f\x81abcde"].concat(),
    ));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let request = b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";
    let response = b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x01\0\0\0\x01ok";
    corpus.push((
        [&preface[..], settings, request, b"\0\0\x08\x06\0\0\0\0\0pingpong"].concat(),
        [&settings[..], b"\0\0\0\x04\x01\0\0\0\0", response, b"\0\0\x08\x06\x01\0\0\0\0pingpong"]
            .concat(),
    ));
    corpus.push((
        [&preface[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"].concat(),
        settings.to_vec(),
    ));
    corpus.push(([&preface[..20], b"no"].concat(), ok.into()));
    corpus.push((
        [&b"\x16\x03\x01\x02\x00\x01\0\x01\xfc\x03\x03"[..], &noise(random, 500)].concat(),
        [&b"\x16\x03\x03\0\x7a"[..], &noise(random, 4000)].concat(),
    ));
    for bytes in [1, 100, 70_000, 1_500_000] {
        corpus.push((noise(random, bytes), noise(random, bytes)));
    }
    corpus
}

fn noise(random: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// Sends bytes in pieces that are cut at random, then a FIN, and reads to the other side's.
fn speak(stream: TcpStream, bytes: Vec<u8>, seed: u64) -> JoinHandle<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_nodelay(true).expect("no delay");
    let mut writer = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = if rest.len() > 10_000 { 50_000 } else { 40 };
            let (piece, later) = rest.split_at(random.usize(1..=most.min(rest.len())));
            writer.write_all(piece).expect("sent");
            rest = later;
            if random.bool() {
                std::thread::yield_now();
            }
        }
        writer.shutdown(Shutdown::Write).expect("half-closed");
    });
    std::thread::spawn(move || {
        let mut heard = Vec::new();
        (&stream).read_to_end(&mut heard).expect("an end in order");
        sender.join().expect("everything sent");
        heard
    })
}

fn same(got: &[u8], sent: &[u8], context: &str) {
    let differs = got.iter().zip(sent).position(|(one, other)| one != other);
    let excerpt = String::from_utf8_lossy(&sent[..sent.len().min(60)]);
    assert!(
        got == sent,
        "{context}: {} bytes of {} arrived, the first difference at {differs:?}: {excerpt:?}",
        got.len(),
        sent.len()
    );
}

#[test]
fn every_byte_arrives_as_it_was_sent() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let corpus = corpus(&mut random);
    for protocol in PROTOCOLS {
        let app = App::new();
        let proxy = Ebbtide::proxy(&app.upstream(), &["--protocol", protocol]);
        let addr: SocketAddr = proxy.addr();
        for round in 0..ROUNDS {
            for (index, (there, back)) in corpus.iter().enumerate() {
                let context = format!("{protocol}, exchange {index}, round {round}, seed {seed}");
                let client = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
                let upstream = app.accept().into_stream();
                let client = speak(client, there.clone(), random.u64(..));
                let upstream = speak(upstream, back.clone(), random.u64(..));
                same(&upstream.join().expect(&context), there, &context);
                same(&client.join().expect(&context), back, &context);
            }
        }
    }
}

/// What curl saw: the heads both ways, and where the body is.
fn curl(args: &[&str], body: &Path) -> Vec<String> {
    let output = Command::new("curl")
        .args(["-v", "-s", "--max-time", "60", "--noproxy", "*", "-o"])
        .arg(body)
        .args(args)
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {args:?}: {text}");
    let wire = text.lines().filter(|line| line.starts_with("< ") || line.starts_with("> "));
    // The only field that a second makes different.
    wire.filter(|line| !line.to_ascii_lowercase().starts_with("< date:"))
        .map(str::to_owned)
        .collect()
}

/// The same request with and without Ebbtide gives the same heads and the same body.
fn curl_sees_no_difference(peer: &Peer, path: &str, args: &[&str]) {
    curl_sees_no_difference_of(&peer.upstream, &["auto", "http1"], path, args);
}

/// The same of any upstream, by these protocols.
fn curl_sees_no_difference_of(upstream: &str, protocols: &[&str], path: &str, args: &[&str]) {
    let files = Directory::new();
    let (one, other) = (files.path().join("direct"), files.path().join("behind"));
    let (direct, socket) = match upstream.strip_prefix("unix:") {
        Some(socket) => (format!("http://a{path}"), vec!["--unix-socket", socket]),
        None => (format!("http://{upstream}{path}"), vec![]),
    };
    let host = ["-H", "Host: a"];
    let direct = curl(&[args, &host, &socket, &[&direct]].concat(), &one);
    let expected = std::fs::read(&one).unwrap_or_default();
    assert!(direct.iter().any(|line| line.starts_with("< HTTP/")), "{direct:#?}");
    for protocol in protocols {
        let proxy = Ebbtide::proxy(upstream, &["--protocol", protocol]);
        let behind = format!("http://{}{path}", proxy.addr());
        let behind = curl(&[args, &host, &[&behind]].concat(), &other);
        assert_eq!(behind, direct, "{protocol} {path} {args:?}");
        // Of a HEAD what is written is the head again, with its date.
        if !args.contains(&"--head") {
            let got = std::fs::read(&other).unwrap_or_default();
            same(&got, &expected, &format!("{protocol} {path} {args:?}"));
        }
        nothing_was_opaque(&proxy);
    }
}

/// Not one connection was opaque to us: what passed was seen with open eyes.
fn nothing_was_opaque(proxy: &Ebbtide) {
    let metrics = proxy.get("/metrics").body;
    let opaque = metrics.lines().filter(|line| line.starts_with("ebbtide_opaque_total"));
    assert!(opaque.into_iter().all(|line| line.ends_with(" 0")), "{metrics}");
}

#[test]
fn curl_gets_from_nginx_what_it_gets_without_ebbtide() {
    let nginx = Peer::nginx("location / { }");
    let mut random = fastrand::Rng::with_seed(1);
    std::fs::write(nginx.directory().join("small"), noise(&mut random, 3000)).expect("a file");
    std::fs::write(nginx.directory().join("large"), noise(&mut random, 64 << 20)).expect("a file");
    curl_sees_no_difference(&nginx, "/small", &[]);
    curl_sees_no_difference(&nginx, "/small", &["--head"]);
    curl_sees_no_difference(&nginx, "/small", &["--http1.0"]);
    curl_sees_no_difference(&nginx, "/small", &["--range", "100-1999"]);
    curl_sees_no_difference(&nginx, "/none", &[]);
    curl_sees_no_difference(&nginx, "/large", &[]);
}

/// Tells what it got: the method, each field but Host's value, and the body's digest.
const NODE: &str = "
const { createServer } = require('http'), { createHash } = require('crypto');
const server = createServer((request, response) => {
    if (request.url === '/hints') {
        response.writeEarlyHints({ link: '</a.css>; rel=preload' });
        response.writeHead(200, { Trailer: 'Digest', 'Transfer-Encoding': 'chunked' });
        response.write('first ');
        response.addTrailers({ Digest: 'none' });
        return response.end('last');
    }
    if (request.url === '/huge') {
        response.setHeader('X-Huge', 'y'.repeat(60 * 1024));
    }
    const hash = createHash('sha256');
    let bytes = 0;
    request.on('data', data => { hash.update(data); bytes += data.length; });
    request.on('end', () => response.end(JSON.stringify({
        method: request.method, headers: request.rawHeaders, bytes, hash: hash.digest('hex') })));
});
server.listen(0, '127.0.0.1', function () { console.log(this.address().port) });
";

#[test]
fn node_gets_from_curl_what_it_gets_without_ebbtide() {
    let node = Peer::node(NODE);
    let files = Directory::new();
    let mut random = fastrand::Rng::with_seed(2);
    let some = format!("@{}", files.write("some", noise(&mut random, 5 << 20)));
    let large = format!("@{}", files.write("large", noise(&mut random, 64 << 20)));
    curl_sees_no_difference(&node, "/", &["--data-binary", "a=b"]);
    curl_sees_no_difference(&node, "/", &["-H", "Expect: 100-continue", "--data-binary", &some]);
    let chunked = ["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", &some];
    curl_sees_no_difference(&node, "/", &chunked);
    curl_sees_no_difference(&node, "/", &["--data-binary", &large]);
    curl_sees_no_difference(&node, "/hints", &["--raw"]);
    let huge = format!("X-Huge: {}", "x".repeat(60 * 1024));
    curl_sees_no_difference(&node, "/huge", &["-H", &huge]);
}
