//! Request heads that say whom they come from, where that is asked for.

use std::net::IpAddr;

use super::farewell::field_name;

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
