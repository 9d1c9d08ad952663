//! Heads, parsed where they lie: what one says about its message and about the connection.
//!
//! # Source
//! RFC 9112 §6.3 decides where a body ends; the numbers below are its points.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use super::body::{Body, Chunked};
use super::exchange::Asked;
use super::fields::{Coding, Fields, Version};
use super::{HealthChecks, Surprise};
use crate::websocket::Extensions;

/// Fields that one head may have; more make the connection opaque.
///
/// # Source
/// hyper, Envoy, Apache and Tomcat stop at 100 by default: what one of them would take must not
/// surprise us. It costs 8 KiB of stack, not written to beyond the fields that are there.
pub const FIELD_LIMIT: usize = 256;

/// A method is a token; none that is registered has more than 17 letters (UPDATEREDIRECTREF).
pub(crate) const METHOD_LIMIT_BYTES: usize = 32;

/// The first line of the preface by which an HTTP/2 client begins.
const HTTP2_PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a request's head says.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) asked: Asked,
    pub(super) body: Option<Body>,
    pub(super) expects_continue: bool,
    pub(super) is_health_check: bool,
    /// It authenticates the connection, not itself.
    pub(super) authenticates_connection: bool,
}

/// What a response's head says.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Option<Body>,
    /// Whether the upstream goes on after it.
    pub(super) persists: bool,
    pub(super) switch: Switch,
    /// It asks that the connection be authenticated.
    pub(super) authenticates_connection: bool,
    /// It is one message of several that authenticate the connection, and another must follow here.
    pub(super) challenges_connection: bool,
}

/// What the connection speaks after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// HTTP/1 still.
    No,
    /// Anything.
    Other,
    /// WebSocket, with what the handshake agreed on.
    WebSocket(Extensions),
    /// HTTP/2, whose first stream the request was.
    Http2,
}

/// A whole head and its length, or `None` when it goes on after these bytes.
pub(super) type Parsed<T> = Result<Option<(T, usize)>, Surprise>;

/// Reads the head of a request.
pub(super) fn request(bytes: &[u8], health_checks: &HealthChecks) -> Parsed<Request> {
    let mut room = [const { MaybeUninit::<Header>::uninit() }; FIELD_LIMIT];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut room) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(surprise(error, bytes)),
    };
    let (Some(method), Some(path)) = (request.method, request.path) else {
        return Err(Surprise::MalformedHead);
    };
    if method.len() > METHOD_LIMIT_BYTES {
        return Err(Surprise::UnknownProtocol);
    }
    check_lines(bytes, length, request.headers)?;
    let fields = Fields::read(request.headers)?;
    let version = Version::of(request.version);
    let mut asked = asked(method, &fields, version);
    let body = request_body(&fields, version)?;
    if body.is_some() && matches!(method, "GET" | "HEAD" | "DELETE" | "OPTIONS" | "TRACE") {
        asked = asked.with(Asked::STRAY_BODY);
    }
    if body.is_some() && asked.has(Asked::CONNECT) {
        return Err(Surprise::ConnectBody);
    }
    let head = Request {
        asked,
        expects_continue: fields.expects_continue && body.is_some(),
        body,
        is_health_check: health_checks.matches(path, fields.user_agent),
        authenticates_connection: fields.authenticates_connection,
    };
    Ok(Some((head, length)))
}

fn asked(method: &str, fields: &Fields, version: Version) -> Asked {
    let mut asked = match method {
        "HEAD" => Asked::HEAD,
        "CONNECT" => Asked::CONNECT,
        _ => Asked::default(),
    };
    if !fields.persists(version) {
        asked = asked.with(Asked::CLOSE);
    }
    if fields.upgrades() && version == Version::Http11 {
        asked = asked.with(Asked::UPGRADE);
        if fields.upgrades_to_websocket() {
            asked = asked.with(Asked::WEBSOCKET);
        }
        if fields.upgrades_to_http2() {
            asked = asked.with(Asked::HTTP2);
        }
    }
    asked
}

fn request_body(fields: &Fields, version: Version) -> Result<Option<Body>, Surprise> {
    match coding(fields, version)? {
        Coding::Chunked => Ok(Some(Body::Chunked(Chunked::new()))), // 4
        Coding::Other => Err(Surprise::UnknownCoding),              // 4
        Coding::None => Ok(length(fields.length.unwrap_or(0))),     // 6, 7
    }
}

/// Reads the head of the response to a request that asked for this.
pub(super) fn response(bytes: &[u8], asked: Asked) -> Parsed<Response> {
    let mut room = [const { MaybeUninit::<Header>::uninit() }; FIELD_LIMIT];
    let mut response = httparse::Response::new(&mut []);
    if !is_plausible_response(bytes) {
        return Err(Surprise::MalformedHead);
    }
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut room);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(surprise(error, bytes)),
    };
    check_lines(bytes, length, response.headers)?;
    let status = response.code.unwrap_or_default();
    let fields = Fields::read(response.headers)?;
    let version = Version::of(response.version);
    let switch = switch(status, asked, &fields)?;
    let body =
        if switch == Switch::No { response_body(status, asked, &fields, version)? } else { None };
    let persists = fields.persists(version) && !matches!(body, Some(Body::UntilClose));
    let authenticates_connection = fields.authenticates_connection;
    let challenges_connection = matches!(status, 401 | 407) && fields.challenges_connection;
    let head = Response {
        status,
        body,
        persists,
        switch,
        authenticates_connection,
        challenges_connection,
    };
    Ok(Some((head, length)))
}

fn switch(status: u16, asked: Asked, fields: &Fields) -> Result<Switch, Surprise> {
    match status {
        101 if !asked.has(Asked::UPGRADE) => Err(Surprise::UnaskedUpgrade),
        101 if asked.has(Asked::WEBSOCKET) && fields.upgrades_to_websocket() => {
            Ok(Switch::WebSocket(fields.extensions))
        }
        101 if asked.has(Asked::HTTP2) && fields.upgrades_to_http2() => Ok(Switch::Http2),
        101 => Ok(Switch::Other),
        200..=299 if asked.has(Asked::CONNECT) => Ok(Switch::Other), // 2
        0..=99 | 600.. => Err(Surprise::MalformedHead),
        _ => Ok(Switch::No),
    }
}

fn response_body(
    status: u16,
    asked: Asked,
    fields: &Fields,
    version: Version,
) -> Result<Option<Body>, Surprise> {
    if asked.has(Asked::HEAD) || matches!(status, 100..=199 | 204 | 304) {
        return Ok(None); // 1
    }
    match (coding(fields, version)?, fields.length) {
        (Coding::Chunked, _) => Ok(Some(Body::Chunked(Chunked::new()))), // 4
        (Coding::Other, _) | (Coding::None, None) => Ok(Some(Body::UntilClose)), // 4, 8
        (Coding::None, Some(bytes)) => Ok(length(bytes)),                // 6
    }
}

/// A message with both fields may be read in two ways, and so may a coding in HTTP/1.0 (3, and §6.1).
fn coding(fields: &Fields, version: Version) -> Result<Coding, Surprise> {
    match (fields.coding, fields.length) {
        (Coding::None, _) => Ok(Coding::None),
        (_, Some(_)) => Err(Surprise::LengthAndCoding),
        _ if version == Version::Http10 => Err(Surprise::CodingInHttp10),
        (coding, None) => Ok(coding),
    }
}

fn length(bytes: u64) -> Option<Body> {
    (bytes > 0).then_some(Body::Length(bytes))
}

/// Whether a head that begins like this may still become one: told from its first bytes, so that
/// what is no HTTP at all is not waited for.
pub(super) fn is_plausible_request(bytes: &[u8]) -> bool {
    let start = bytes.get(..=METHOD_LIMIT_BYTES).unwrap_or(bytes);
    let token = start.iter().position(|&byte| byte == b' ');
    let method = start.get(..token.unwrap_or(start.len())).unwrap_or(start);
    method.len() <= METHOD_LIMIT_BYTES && token != Some(0) && method.iter().all(is_token)
}

pub(super) fn is_plausible_response(bytes: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(START.len());
    bytes.get(..known) == START.get(..known)
}

/// Whether a method may hold this byte (RFC 9110 §5.6.2).
pub(crate) fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// The parser takes a bare LF for the end of a line; an upstream may not.
fn check_lines(bytes: &[u8], length: usize, headers: &[Header]) -> Result<(), Surprise> {
    let head = bytes.get(..length).unwrap_or(bytes);
    let begins_line = |header: &Header| {
        let at = (header.name.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
        let line_end = head.get(at.wrapping_sub(2)..at);
        line_end == Some(b"\r\n")
    };
    if head.ends_with(b"\r\n\r\n") && headers.iter().all(begins_line) {
        Ok(())
    } else {
        Err(Surprise::BareLineFeed)
    }
}

/// Names what the parser met. `bytes` go to the end of the head, or of the line that is wrong.
fn surprise(error: httparse::Error, bytes: &[u8]) -> Surprise {
    match error {
        httparse::Error::TooManyHeaders => Surprise::TooManyFields,
        httparse::Error::Version if bytes.starts_with(HTTP2_PREFACE_LINE) => Surprise::Http2Preface,
        httparse::Error::HeaderName if has_fold(bytes) => Surprise::FoldedLine,
        _ => Surprise::MalformedHead,
    }
}

fn has_fold(bytes: &[u8]) -> bool {
    let fold = |pair: &[u8]| matches!(pair, [b'\n', b' ' | b'\t']);
    bytes.windows(2).any(fold)
}
