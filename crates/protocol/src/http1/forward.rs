//! Request heads that say whom they come from, where that is asked for.

use std::net::IpAddr;

use super::farewell::field_name;
use super::fields::{H2C, options};

/// Which fields tell the upstream the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Both.
    Both,
}

/// Writes a request's head with the client's address at the end of the fields that are asked for:
/// of the last one if there are several, of a new one if there is none. Every other byte stays.
pub(super) fn forwarding_head(head: &[u8], client: IpAddr, forwarding: Forwarding) -> Vec<u8> {
    let client = client.to_canonical();
    let node = match client {
        IpAddr::V4(addr) => format!("for={addr}"),
        IpAddr::V6(addr) => format!("for=\"[{addr}]\""),
    };
    let addr = client.to_string();
    match forwarding {
        Forwarding::XForwardedFor => append(head, "X-Forwarded-For", &addr),
        Forwarding::Forwarded => append(head, "Forwarded", &node),
        Forwarding::Both => {
            let head = append(head, "X-Forwarded-For", &addr);
            append(&head, "Forwarded", &node)
        }
    }
}

/// Writes a request's head without its offer to go on in HTTP/2: `h2c` leaves Upgrade, HTTP2-Settings
/// goes, and so do the options of Connection that named them. Every other byte stays.
///
/// # Source
/// RFC 7540 §3.2.1; RFC 9110 §7.8 (a proxy may leave out what an Upgrade field offers).
pub(super) fn without_http2(head: &[u8]) -> Vec<u8> {
    let lines = || head.split_inclusive(|&byte| byte == b'\n');
    let names = |line: &[u8], name: &[u8]| field_name(line).eq_ignore_ascii_case(name);
    let others = lines().skip(1).filter(|line| names(line, UPGRADE)).flat_map(elements);
    let still_upgrades = others.into_iter().any(|protocol| !protocol.eq_ignore_ascii_case(H2C));
    let stays = |line: &[u8], option: &[u8]| match () {
        () if names(line, UPGRADE) => !option.eq_ignore_ascii_case(H2C),
        () if option.eq_ignore_ascii_case(UPGRADE) => still_upgrades,
        () => !option.eq_ignore_ascii_case(HTTP2_SETTINGS),
    };
    let mut edited = Vec::with_capacity(head.len());
    for (number, line) in lines().enumerate() {
        let is_list = names(line, UPGRADE) || names(line, b"connection");
        if number == 0 || !is_list && !names(line, HTTP2_SETTINGS) {
            edited.extend_from_slice(line);
        } else if is_list {
            let kept: Vec<_> = elements(line).filter(|option| stays(line, option)).collect();
            if !kept.is_empty() {
                edited.extend_from_slice(field_name(line));
                edited.extend_from_slice(b": ");
                edited.extend_from_slice(&kept.join(&b", "[..]));
                edited.extend_from_slice(b"\r\n");
            }
        }
    }
    edited
}

const UPGRADE: &[u8] = b"upgrade";
const HTTP2_SETTINGS: &[u8] = b"http2-settings";

/// The elements of a field's value, if that is a list.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let value = line.splitn(2, |&byte| byte == b':').nth(1).unwrap_or_default();
    options(value).filter(|element| !element.is_empty())
}

fn append(head: &[u8], name: &str, value: &str) -> Vec<u8> {
    let mut line_end = head.len().saturating_sub(2);
    let mut text = format!("{name}: {value}\r\n");
    let mut start = 0;
    for (number, line) in head.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let is_field = number > 0 && field_name(line).eq_ignore_ascii_case(name.as_bytes());
        if is_field && let Some(old) = line.get(name.len() + 1..) {
            let space = trailing_space(old);
            let is_empty = old.len() == space;
            line_end = start + line.len() - space;
            text = format!("{}{value}", if is_empty { " " } else { ", " });
        }
        start += line.len();
    }
    let (before, after) = head.split_at(line_end.min(head.len()));
    [before, text.as_bytes(), after].concat()
}

/// How many bytes of white space, the line's end among them, a field's line ends with.
fn trailing_space(value: &[u8]) -> usize {
    value.len() - value.trim_ascii_end().len()
}
