use hyper::header::HeaderName;

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn a_page_from_elsewhere_is_told_from_a_program_and_our_own() {
    for (is_ours, pairs) in [
        (true, &[("host", "c:1")][..]),
        (true, &[("host", "c:1"), ("origin", "https://c:1")]),
        (true, &[("host", "c:1"), ("origin", "https://c:1"), ("sec-fetch-site", "same-origin")]),
        (true, &[("host", "c:1"), ("sec-fetch-site", "none")]),
        (false, &[("host", "c:1"), ("origin", "https://evil.test")]),
        (false, &[("host", "c:1"), ("origin", "https://c:2")]),
        (false, &[("host", "c:1"), ("origin", "null")]),
        (false, &[("host", "c:1"), ("sec-fetch-site", "cross-site")]),
        (false, &[("host", "c:1"), ("sec-fetch-site", "same-site")]),
        (false, &[("host", "c:1"), ("origin", "https://c:1"), ("sec-fetch-site", "cross-site")]),
    ] {
        assert_eq!(origin::is_ours(&headers(pairs)), is_ours, "{pairs:?}");
    }
}

#[test]
fn a_name_that_anybody_can_let_point_to_us_is_not_ours() {
    for (host, is_ours) in [
        ("127.0.0.1:17710", true),
        ("[::1]:17710", true),
        ("localhost", true),
        ("LOCALHOST:1", true),
        ("evil.test:17710", false),
        ("127.0.0.1.evil.test", false),
        ("", false),
    ] {
        assert_eq!(origin::names_an_address(&headers(&[("host", host)])), is_ours, "{host}");
    }
}

#[test]
fn a_token_comes_as_bearer_or_as_password() {
    let of = |value: &str| shown(&headers(&[("authorization", value)]));
    assert_eq!(of("Bearer abc").as_deref(), Some(&b"abc"[..]));
    assert_eq!(of("bearer  abc ").as_deref(), Some(&b"abc"[..]));
    // any:a:c
    assert_eq!(of("Basic YW55OmE6Yw==").as_deref(), Some(&b"a:c"[..]));
    for wrong in ["abc", "Basic abc", "Basic YWJj", "Digest abc", ""] {
        assert_eq!(of(wrong), None, "{wrong}");
    }
}

#[test]
fn a_file_of_tokens_is_one_a_line() {
    let long = "0123456789abcdef";
    let parsed = tokens::parse(&format!("# new\n{long}0\n\n# old\n  {long}1  \n")).expect("two");
    assert_eq!(parsed, [format!("{long}0").into_bytes(), format!("{long}1").into_bytes()]);
    let many = format!("{long}\n").repeat(65);
    for (text, part) in [
        ("", "one a line"),
        ("# only this\n", "one a line"),
        ("short\n", "line 1"),
        ("0123456789abcdef\n0123456789 bcdef\n", "line 2"),
        (&many, "65"),
    ] {
        let problem = tokens::parse(text).expect_err(text);
        assert!(problem.contains(part), "{problem}");
        assert!(!problem.contains("0123456789"), "no secret in {problem}");
    }
}
