//! The one edit of a drain: the head of the last response says `Connection: close`.

use super::fields::options;

/// Writes the head of a last response: `close` joins the options of Connection, `keep-alive` and
/// the Keep-Alive field go, `Drain-Deadline` is added if there is one. Every other byte stays.
///
/// # Source
/// RFC 9112 §9.6; RFC 9110 §7.6.1 (options that name other fields must stay beside those).
pub(super) fn closing_head(head: &[u8], drain_deadline: Option<&str>) -> Vec<u8> {
    let mut edited = Vec::with_capacity(head.len() + 96);
    let others = other_options(head);
    let mut says_close = false;
    let mut lines = head.split_inclusive(|&byte| byte == b'\n');
    edited.extend_from_slice(lines.next().unwrap_or_default());
    for line in lines {
        if line == b"\r\n" {
            break;
        }
        let name = field_name(line);
        if name.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        if !name.eq_ignore_ascii_case(b"connection") {
            edited.extend_from_slice(line);
            continue;
        }
        if !says_close {
            says_close = true;
            push_connection(&mut edited, name, &others);
        }
    }
    if !says_close {
        push_connection(&mut edited, b"Connection", &others);
    }
    if let Some(deadline) = drain_deadline {
        edited.extend_from_slice(b"Drain-Deadline: ");
        edited.extend_from_slice(deadline.as_bytes());
        edited.extend_from_slice(b"\r\n");
    }
    edited.extend_from_slice(b"\r\n");
    edited
}

fn push_connection(edited: &mut Vec<u8>, name: &[u8], others: &[&[u8]]) {
    edited.extend_from_slice(name);
    edited.extend_from_slice(b": close");
    for option in others {
        edited.extend_from_slice(b", ");
        edited.extend_from_slice(option);
    }
    edited.extend_from_slice(b"\r\n");
}

/// The options of every Connection field but `close`, `keep-alive` and the fields' own name.
fn other_options(head: &[u8]) -> Vec<&[u8]> {
    let is_ours = |option: &[u8]| {
        option.is_empty()
            || option.eq_ignore_ascii_case(b"close")
            || option.eq_ignore_ascii_case(b"keep-alive")
    };
    head.split_inclusive(|&byte| byte == b'\n')
        .skip(1)
        .filter(|line| field_name(line).eq_ignore_ascii_case(b"connection"))
        .filter_map(|line| line.splitn(2, |&byte| byte == b':').nth(1))
        .flat_map(options)
        .filter(|option| !is_ours(option))
        .collect()
}

/// A line's bytes up to its colon.
pub(super) fn field_name(line: &[u8]) -> &[u8] {
    let colon = line.iter().position(|&byte| byte == b':');
    colon.and_then(|at| line.get(..at)).unwrap_or_default()
}

/// The whole response to a first request on a connection that a drain rejects.
///
/// # Source
/// RFC 9110 §15.6.4: 503 says that this will pass, and `Retry-After` when.
#[must_use]
pub fn service_unavailable(retry_after_seconds: u64) -> Vec<u8> {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {retry_after_seconds}\r\n\
         Connection: close\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}
