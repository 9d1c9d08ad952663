use super::{GET, OK, assert_surprise, play};
use crate::http1::{FIELD_LIMIT, HEAD_LIMIT_BYTES, OUTSTANDING_LIMIT};
use crate::testing::Script;
use crate::{Class, Surprise};

fn assert_request(request: impl AsRef<[u8]>, expected: Surprise) {
    assert_surprise(&Script::new().client(request), expected);
}

fn assert_response(response: impl AsRef<[u8]>, expected: Surprise) {
    assert_surprise(&Script::new().client(GET).upstream(response), expected);
}

fn request(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\n{fields}\r\n")
}

fn response(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n")
}

#[test]
fn what_is_no_http() {
    assert_request(b"\x16\x03\x01\x02\x00", Surprise::Tls);
    assert_request(b"\x00", Surprise::UnknownProtocol);
    assert_request(" GET", Surprise::UnknownProtocol);
    assert_request("M".repeat(33), Surprise::UnknownProtocol);
    assert_request(format!("{} / HTTP/1.1\r\n\r\n", "M".repeat(33)), Surprise::UnknownProtocol);
    assert_request("SET key 0 60 5\r\n", Surprise::MalformedHead);
    assert_request("GET /\r\n", Surprise::MalformedHead);
    assert_request("GET / HTTP/1.2\r\n", Surprise::MalformedHead);
    assert_request("GET  / HTTP/1.1\r\n", Surprise::MalformedHead);
    assert_request("\r\rGET", Surprise::MalformedHead);
    assert_request("\rGET", Surprise::MalformedHead);
    assert_request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Surprise::Http2Preface);
    assert_response("SSH-2.0", Surprise::UnknownProtocol);
    assert_response("\r\nHTTP/1.1 200 OK\r\n\r\n", Surprise::UnknownProtocol);
    assert_response("HTTP/1.1 20 OK\r\n", Surprise::MalformedHead);
    assert_response("HTTP/1.1 099 OK\r\n\r\n", Surprise::MalformedHead);
    assert_response("HTTP/1.1 600 OK\r\n\r\n", Surprise::MalformedHead);
}

#[test]
fn malformed_fields() {
    for fields in ["A b: c\r\n", "A : b\r\n", ": b\r\n", "A: b\0\r\n", "A: b\rc\r\n", "A\r\n"] {
        assert_request(request(fields), Surprise::MalformedHead);
        assert_response(response(fields), Surprise::MalformedHead);
    }
    for fields in ["A: b\r\n c\r\n", "A: b\r\n\tc\r\n", " A: b\r\n"] {
        assert_request(request(fields), Surprise::FoldedLine);
        assert_response(response(fields), Surprise::FoldedLine);
    }
}

#[test]
fn bare_line_feeds() {
    for request in [
        "\nGET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\n\r\n",
        "GET / HTTP/1.1\nA: b\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n\n",
        "GET / HTTP/1.1\n\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x\na\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
    ] {
        assert_request(request, Surprise::BareLineFeed);
    }
    assert_response("HTTP/1.1 200 OK\n\n", Surprise::BareLineFeed);
    assert_response("HTTP/1.1 200 OK\r\nA: b\n\r\n", Surprise::BareLineFeed);
}

#[test]
fn lengths_and_codings_that_do_not_tell_the_end() {
    let chunked_and_length = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    for (fields, expected) in [
        ("Content-Length: 5, 6\r\n", Surprise::InvalidLength),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Surprise::InvalidLength),
        ("Content-Length: \r\n", Surprise::InvalidLength),
        ("Content-Length: 5,\r\n", Surprise::InvalidLength),
        ("Content-Length: +5\r\n", Surprise::InvalidLength),
        ("Content-Length: -5\r\n", Surprise::InvalidLength),
        ("Content-Length: 0x5\r\n", Surprise::InvalidLength),
        ("Content-Length: 5 5\r\n", Surprise::InvalidLength),
        ("Content-Length: 18446744073709551616\r\n", Surprise::InvalidLength),
        (chunked_and_length, Surprise::LengthAndCoding),
        ("Transfer-Encoding: chunked, gzip\r\n", Surprise::UnknownCoding),
        ("Transfer-Encoding: chunked, chunked\r\n", Surprise::UnknownCoding),
        ("Transfer-Encoding: chunked;q=1\r\n", Surprise::UnknownCoding),
        ("Transfer-Encoding: identity\r\n", Surprise::UnknownCoding),
        ("Transfer-Encoding: , chunked\r\n", Surprise::UnknownCoding),
        ("Transfer-Encoding:\r\n", Surprise::UnknownCoding),
    ] {
        assert_request(request(fields), expected);
        assert_response(response(fields), expected);
    }
    assert_request(request("Transfer-Encoding: gzip\r\n"), Surprise::UnknownCoding);
    let coding_in_1_0 = "1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_response(format!("HTTP/{coding_in_1_0}"), Surprise::CodingInHttp10);
    assert_request(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Surprise::CodingInHttp10,
    );
    assert_request("CONNECT a:1 HTTP/1.1\r\nContent-Length: 1\r\n\r\n", Surprise::ConnectBody);
}

#[test]
fn malformed_chunks() {
    for body in [
        "\r\n",
        "g\r\n",
        ";a\r\n",
        " 5\r\n",
        "-1\r\n",
        "0x5\r\n",
        "5 5\r\n",
        "5\ra",
        "1\r\nab",
        "1\r\na\rb",
        "12345678123456781\r\n",
        "0\r\n\ra",
        "0\r\nA: b\ra",
    ] {
        let request = request("Transfer-Encoding: chunked\r\n") + body;
        assert_request(request, Surprise::MalformedChunk);
    }
}

#[test]
fn heads_over_the_bounds() {
    let filler = |bytes: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(bytes));
    let around = filler(0).len();
    let longest = filler(HEAD_LIMIT_BYTES - around);
    assert_eq!(play(&Script::new().client(&longest)).classes(), ["http"]);
    let too_long = filler(HEAD_LIMIT_BYTES - around + 1);
    assert_request(too_long, Surprise::HeadTooLong);
    let many = |count: usize| request(&"A: b\r\n".repeat(count));
    assert_eq!(play(&Script::new().client(many(FIELD_LIMIT))).classes(), ["http"]);
    assert_request(many(FIELD_LIMIT + 1), Surprise::TooManyFields);
}

#[test]
fn more_requests_than_are_remembered() {
    let full = Script::new().client(GET.repeat(OUTSTANDING_LIMIT));
    assert_eq!(play(&full).last().class, Class::Http);
    assert_surprise(&full.client(GET), Surprise::TooManyOutstanding);
}

#[test]
fn responses_that_nobody_asked_for() {
    assert_surprise(&Script::new().upstream(OK), Surprise::UnaskedResponse);
    assert_surprise(&Script::new().upstream("220 mail\r\n"), Surprise::UnaskedResponse);
    let early = Script::new().client("GET / HT").upstream("HTTP/1.1 400 Bad\r\n\r\n");
    assert_surprise(&early, Surprise::UnaskedResponse);
    assert_response(format!("{OK}{OK}"), Surprise::UnaskedResponse);
}

#[test]
fn a_client_that_goes_on_after_its_body_was_declined() {
    let expect = "PUT / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let declined = "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n";
    let script = Script::new().client(expect).upstream(declined).client("ab");
    assert_surprise(&script, Surprise::DeclinedBody);
}
