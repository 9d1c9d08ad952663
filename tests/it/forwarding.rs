//! The client's address on requests: appended where that is asked for, and nothing else touched.

use crate::support::http1::{App, Wire};
use crate::support::{Directory, Ebbtide, process};

/// A request of which nothing is as a serialiser would write it.
const ODD: &str = "POST /a?b HTTP/1.1\r\nhOsT:a\r\nX-Empty:\r\nCookie:  x=1 \r\nCookie: y=2\r\n\
    Content-Length: 3\r\n\r\nabc";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-LENGTH:2\r\nX-Forwarded-For: kept\r\n\r\nok";

/// Sends requests over one connection and expects them at the application as given beside them.
fn arrive(args: &[&str], requests: &[(String, String)]) {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), args);
    let mut client = Wire::connect(proxy.addr());
    let mut upstream = None;
    for (sent, expected) in requests {
        client.send(sent);
        let upstream = upstream.get_or_insert_with(|| app.accept());
        upstream.expect(expected);
        upstream.send(OK);
        client.expect(OK);
    }
    client.half_close();
    upstream.expect("a connection").ends();
}

/// The odd request with some lines at the end of its head.
fn odd(lines: &str) -> String {
    ODD.replace("\r\n\r\nabc", &format!("\r\n{lines}\r\nabc"))
}

#[test]
fn without_the_flag_requests_arrive_as_they_were_sent() {
    let request = odd("X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n");
    let requests = [(ODD.to_owned(), ODD.to_owned()), (request.clone(), request)];
    for protocol in ["http1", "auto", "tcp"] {
        arrive(&["--protocol", protocol], &requests);
        arrive(&["--protocol", protocol, "--forward-client", "none"], &requests);
    }
}

#[test]
fn with_the_flag_the_clients_address_stands_last_and_the_rest_is_as_it_was() {
    let x = "X-Forwarded-For: 127.0.0.1\r\n";
    let standard = "Forwarded: for=127.0.0.1\r\n";
    let both = [x, standard].concat();
    for (wish, lines) in [("x-forwarded-for", x), ("forwarded", standard), ("both", &*both)] {
        let before = "x-forwarded-for: 192.0.2.7\r\nForwarded: for=192.0.2.7;proto=http\r\n";
        let mut after = before.to_owned();
        if wish != "forwarded" {
            after = after.replace(": 192.0.2.7", ": 192.0.2.7, 127.0.0.1");
        }
        if wish != "x-forwarded-for" {
            after = after.replace("proto=http", "proto=http, for=127.0.0.1");
        }
        let requests = [
            (ODD.to_owned(), odd(lines)),
            (odd(before), odd(&after)),
            (ODD.to_owned(), odd(lines)),
        ];
        for protocol in ["http1", "auto"] {
            arrive(&["--protocol", protocol, "--forward-client", wish], &requests);
        }
    }
}

#[test]
fn the_file_knows_it_too() {
    let directory = Directory::new();
    let text = "listen: 127.0.0.1:0\nprotocol: http1\nforward-client: forwarded\n";
    let file = directory.write("ebbtide.yaml", text);
    arrive(&["--config", &file], &[(ODD.to_owned(), odd("Forwarded: for=127.0.0.1\r\n"))]);
}

/// What the README says of `auto`: it holds nothing back, also not for this.
#[test]
fn with_auto_a_first_request_whose_method_comes_cut_is_not_edited() {
    let app = App::new();
    let args = ["--protocol", "auto", "--forward-client", "x-forwarded-for"];
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let mut client = Wire::connect(proxy.addr());
    client.send(&ODD[..2]);
    let mut upstream = app.accept();
    upstream.expect(&ODD[..2]);
    client.send(&ODD[2..]);
    upstream.expect(&ODD[2..]);
    upstream.send(OK);
    client.expect(OK);
    client.send(ODD);
    upstream.expect(odd("X-Forwarded-For: 127.0.0.1\r\n"));
}

/// Words of another protocol look like a request until their line ends, and are held so long; those
/// of a server that speaks first never are.
#[test]
fn what_is_no_request_waits_for_no_head() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &["--forward-client", "both"]);
    for (greeting, words) in [("", "get key\r\n"), ("220 hello\r\n", "EHLO")] {
        let mut client = Wire::connect(proxy.addr());
        let mut upstream = app.accept();
        upstream.send(greeting);
        client.expect(greeting);
        client.send(words);
        upstream.expect(words);
    }
}

#[test]
fn a_head_that_comes_cut_is_edited_once() {
    let app = App::new();
    let args = ["--protocol", "http1", "--forward-client", "x-forwarded-for"];
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let mut client = Wire::connect(proxy.addr());
    let mut upstream = None;
    for at in 1..ODD.len() {
        let (first, second) = ODD.split_at(at);
        client.send(first);
        client.send(second);
        let upstream = upstream.get_or_insert_with(|| app.accept());
        upstream.expect(odd("X-Forwarded-For: 127.0.0.1\r\n"));
        upstream.send(OK);
        client.expect(OK);
    }
}

#[test]
fn the_flag_wants_a_listener_that_reads_http1() {
    for protocol in ["tcp", "http2"] {
        let line = ["proxy", "--check-config", "--listen", "127.0.0.1:0", "--upstream"];
        let rest = ["127.0.0.1:1", "--protocol", protocol, "--forward-client", "both"];
        let (code, _, said) = process::run(&[&line[..], &rest].concat());
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains("--forward-client"), "{said}");
    }
}
