//! Authentication that takes several messages on one connection: NTLM, and Negotiate with more legs.

use super::{GET, OK, play};
use crate::testing::Script;
use crate::{Class, Unfinished};

const CHALLENGED: &str = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM TlRMTVNTUAACAAAA\r\n\
                          Content-Length: 0\r\n\r\n";

fn request(credentials: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {credentials}\r\n\r\n")
}

#[test]
fn the_farewell_waits_for_the_last_message_of_the_handshake() {
    let started = Script::new().drain().client(request("NTLM TlRMTVNTUAABAAAA"));
    let outcome = play(&started.clone().upstream(CHALLENGED));
    let last = outcome.last();
    assert_eq!(last.class, Class::Http, "a drain waits for the client's next message");
    assert!(!last.is_safe_point && !last.farewell_done);
    assert!(!outcome.client_read().contains("Connection: close"));
    let ended = started.upstream(CHALLENGED).client(request("NTLM TlRMTVNTUAADAAAA")).upstream(OK);
    let outcome = play(&ended);
    assert!(outcome.client_read().contains("Connection: close") && outcome.last().farewell_done);
}

#[test]
fn a_drain_that_begins_between_two_messages_waits_for_the_next_one() {
    let script = Script::new().client(request("Negotiate YII=")).upstream(
        CHALLENGED.replace("NTLM TlRMTVNTUAACAAAA", "Basic realm=\"a, b\", negotiate oYG2"),
    );
    assert_eq!(play(&script).last().class, Class::Idle);
    let script = script.drain();
    assert_eq!(play(&script).last().class, Class::Http);
    let undone = play(&script.clone().undrain()).last();
    assert_eq!(undone.class, Class::Idle);
    let gone = play(&script.end(crate::Direction::FromClient)).last();
    assert_eq!(gone.class, Class::Idle);
}

#[test]
fn a_challenge_that_only_offers_a_scheme_or_is_not_the_connections_ends_with_a_farewell() {
    for challenge in ["NTLM", "Negotiate", "Negotiate ", "Basic realm=\"a\"", "Digest nonce=\"b\""]
    {
        let offered = CHALLENGED.replace("NTLM TlRMTVNTUAACAAAA", challenge);
        let outcome = play(&Script::new().drain().client(GET).upstream(offered));
        assert!(outcome.last().farewell_done, "{challenge}");
    }
    // The final token of a handshake that has succeeded is no challenge.
    let success = CHALLENGED.replace("401 Unauthorized", "200 OK");
    assert!(play(&Script::new().drain().client(GET).upstream(success)).last().farewell_done);
}

#[test]
fn a_proxys_challenge_counts_likewise() {
    let challenged = CHALLENGED.replace("401", "407").replace("WWW", "Proxy");
    let last = play(&Script::new().drain().client(GET).upstream(challenged)).last();
    assert!(!last.farewell_done && last.class == Class::Http);
}

#[test]
fn an_application_that_closes_ends_the_handshake_itself() {
    let closing = CHALLENGED.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    assert!(play(&Script::new().drain().client(GET).upstream(closing)).last().farewell_done);
}

/// One that goes on for ever is told in the end.
#[test]
fn a_handshake_without_end_gets_a_farewell() {
    let mut script = Script::new().drain();
    for _ in 0..super::super::PATIENCE {
        script = script.client(request("NTLM a")).upstream(CHALLENGED);
    }
    let outcome = script.play_cut(super::tracker(), |_, _| Vec::new());
    assert!(outcome.last().farewell_done);
}

#[test]
fn the_next_message_is_what_the_connection_waits_for() {
    let mut tracker = super::tracker();
    for (direction, bytes) in [
        (crate::Direction::FromClient, request("NTLM a")),
        (crate::Direction::FromUpstream, CHALLENGED.to_owned()),
    ] {
        tracker.step(direction, bytes.as_bytes());
    }
    assert_eq!(tracker.unfinished(), None, "outside of a drain it is idle");
    tracker.begin_drain(&crate::http1::DrainOptions::default());
    assert_eq!(tracker.unfinished(), Some(Unfinished::Head));
}
