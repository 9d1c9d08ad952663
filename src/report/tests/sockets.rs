//! Controllers of every kind, over real sockets.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};

use super::support::{Controller, FOREVER, Proxy, reporter, wish};
use crate::api::report::{BalancerState, Directive};
use crate::api::serve::respond;
use crate::drain::Phase;
use crate::report::{Attempt, Delivery};

/// Long enough for a request over loopback, short enough to wait for.
const SHORT: Duration = Duration::from_millis(100);

fn start(controller: &Controller, phase: Phase) -> Proxy {
    Proxy::start(phase, reporter(&wish(&controller.url, FOREVER)))
}

#[tokio::test]
async fn an_answer_comes_home() {
    let mut controller = Controller::start();
    let mut proxy = start(&controller, Phase::LameDuck);
    let answer = r#"{"balancer":"weightZero","directive":"undrain","new":1}"#;
    controller.next().await.answer(respond::text(StatusCode::OK, answer));
    let answer = proxy.answers.recv().await.expect("an answer");
    assert_eq!(answer.balancer, Some(BalancerState::WeightZero));
    assert_eq!(answer.directive, Directive::Undrain);
    assert_eq!(proxy.attempt().await, Attempt::Ok);
}

#[tokio::test]
async fn success_without_a_body_is_an_answer_without_news() {
    let mut controller = Controller::start();
    let mut proxy = start(&controller, Phase::Drained);
    controller.next().await.answer(respond::text(StatusCode::NO_CONTENT, ""));
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
    assert_eq!(proxy.attempt().await, Attempt::Ok);
}

#[tokio::test]
async fn a_controller_that_was_down_gets_the_final_report_when_it_is_up() {
    // Bound and not listening: the port is ours and refuses.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let addr = socket.local_addr().expect("it has one");
    let mut proxy =
        Proxy::start(Phase::Drained, reporter(&wish(&format!("http://{addr}"), FOREVER)));
    assert_eq!(proxy.attempt().await, Attempt::ConnectError);
    assert_eq!(proxy.attempt().await, Attempt::ConnectError);
    // Both hold the port until the first one is dropped, so that nobody can come between.
    drop(socket);
    let mut controller = Controller::start_at(addr);
    let arrived = controller.next().await;
    assert!(arrived.sequence() > 2);
    arrived.accept();
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
}

#[tokio::test]
async fn a_slow_controller_does_not_delay_the_final_report() {
    let mut controller = Controller::start();
    let mut proxy = start(&controller, Phase::Draining);
    let slow = controller.next().await;
    assert_eq!(slow.phase(), "Draining");
    proxy.phase.send_replace(Phase::Drained);
    let last = controller.next().await;
    assert_eq!(last.phase(), "Drained");
    assert!(last.sequence() > slow.sequence());
    last.accept();
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
    slow.accept();
}

#[tokio::test]
async fn a_controller_that_accepts_and_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it has one"));
    let mut proxy = Proxy::start(Phase::Drained, reporter(&wish(&url, SHORT)));
    assert_eq!(proxy.final_report.wait().await, Delivery::GivenUp);
}

#[tokio::test]
async fn a_request_that_is_not_answered_times_out_and_is_retried() {
    let mut controller = Controller::start();
    let mut proxy = start(&controller, Phase::Drained);
    let slow = controller.next().await;
    assert_eq!(proxy.attempt().await, Attempt::Timeout);
    controller.next().await.accept();
    assert_eq!(proxy.attempt().await, Attempt::Ok);
    drop(slow);
}

#[tokio::test]
async fn garbage_with_a_success_status_counts_as_stored() {
    for garbage in ["<html>", "7", r#"{"balancer":7}"#, &"x".repeat(100_000)] {
        let mut controller = Controller::start();
        let mut proxy = start(&controller, Phase::Drained);
        let response = respond::text(StatusCode::OK, garbage.to_owned());
        controller.next().await.answer(response);
        assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
        let attempt = proxy.attempt().await;
        assert_eq!(attempt, Attempt::Unreadable);
        // What the age of the last stored report, /status and the metric go by.
        assert!(attempt.is_stored());
        assert!(proxy.answers.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_success_whose_body_breaks_off_counts_as_stored() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it has one"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 16];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut head).await.expect("a request");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"bal";
            stream.write_all(answer).await.expect("writes");
        }
    });
    let mut proxy = Proxy::start(Phase::Drained, reporter(&wish(&url, FOREVER)));
    assert_eq!(proxy.attempt().await, Attempt::Unreadable);
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
}

#[tokio::test]
async fn what_is_no_http_is_garbage_and_not_stored() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it has one"));
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await.expect("writes");
            open.push(stream);
        }
    });
    let mut proxy = Proxy::start(Phase::Drained, reporter(&wish(&url, SHORT)));
    assert_eq!(proxy.attempt().await, Attempt::Garbage);
    assert_eq!(proxy.final_report.wait().await, Delivery::GivenUp);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    let mut controller = Controller::start();
    let mut elsewhere = Controller::start();
    let mut proxy = start(&controller, Phase::Drained);
    let mut response = respond::text(StatusCode::TEMPORARY_REDIRECT, "");
    let target = HeaderValue::from_str(&format!("{}/v1/reports", elsewhere.url)).expect("ASCII");
    response.headers_mut().insert(LOCATION, target);
    controller.next().await.answer(response);
    assert_eq!(proxy.attempt().await, Attempt::HttpError);
    tokio::select! {
        again = controller.next() => again.accept(),
        _ = elsewhere.next() => panic!("followed"),
    }
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
}

#[tokio::test]
async fn the_final_report_is_sent_again_until_it_is_acknowledged() {
    let mut controller = Controller::start();
    let mut proxy = start(&controller, Phase::Drained);
    let mut last = 0;
    for status in [500, 503, 409, 410, 404] {
        let arrived = controller.next().await;
        assert!(arrived.sequence() > last, "a stale one would be dropped");
        last = arrived.sequence();
        let status = StatusCode::from_u16(status).expect("a status");
        arrived.answer(respond::text(status, "no\n"));
        assert_eq!(proxy.attempt().await, Attempt::HttpError);
        assert_eq!(proxy.final_report.now(), Delivery::Pending);
    }
    controller.next().await.accept();
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
}

#[tokio::test]
async fn a_token_that_is_exchanged_on_disk_is_used_from_the_next_report_on() {
    let file = std::env::temp_dir().join(format!("ebbtide-token-{}", std::process::id()));
    std::fs::write(&file, "first\n").expect("writes");
    let mut controller = Controller::start();
    let mut wish = wish(&controller.url, FOREVER);
    wish.token_file = Some(file.clone());
    let proxy = Proxy::start(Phase::Serving, reporter(&wish));
    let arrived = controller.next().await;
    assert_eq!(arrived.authorization.as_deref(), Some("Bearer first"));
    arrived.accept();
    std::fs::write(&file, "second").expect("writes");
    proxy.phase.send_replace(Phase::LameDuck);
    let arrived = controller.next().await;
    assert_eq!(arrived.authorization.as_deref(), Some("Bearer second"));
    arrived.accept();
    // One that is gone for a moment, as while it is exchanged, is not forgotten.
    std::fs::remove_file(&file).expect("removes");
    proxy.phase.send_replace(Phase::Draining);
    let arrived = controller.next().await;
    assert_eq!(arrived.authorization.as_deref(), Some("Bearer second"));
}
