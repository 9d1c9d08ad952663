//! The few fields of a head that say where its message ends and what may follow it.

use httparse::Header;

use super::Surprise;
use crate::websocket::Extensions;

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http10,
    Http11,
}

impl Version {
    /// From what the parser calls it: the digit after the dot, which it lets be 0 or 1.
    pub(super) fn of(minor: Option<u8>) -> Version {
        if minor == Some(0) { Version::Http10 } else { Version::Http11 }
    }
}

/// What a Transfer-Encoding adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Coding {
    /// There is none.
    #[default]
    None,
    /// Chunked, once and last.
    Chunked,
    /// Others only, none of them chunked.
    Other,
}

/// What the fields of one head say.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one field that was seen or not")]
pub(super) struct Fields<'head> {
    pub(super) length: Option<u64>,
    pub(super) coding: Coding,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) extensions: Extensions,
    pub(super) user_agent: Option<&'head [u8]>,
    /// Who asks is known by the connection, not by the message.
    pub(super) authenticates_connection: bool,
    /// A challenge has data: it goes on with what the client has sent on this connection.
    pub(super) challenges_connection: bool,
    upgrade_option: bool,
    names_protocol: bool,
    names_websocket: bool,
    names_http2: bool,
}

impl<'head> Fields<'head> {
    #[inline]
    pub(super) fn read(headers: &[Header<'head>]) -> Result<Fields<'head>, Surprise> {
        let mut fields = Fields::default();
        for header in headers {
            fields.add(header.name, header.value)?;
        }
        Ok(fields)
    }

    /// The length of a name tells most fields from the few that matter without comparing them.
    fn add(&mut self, name: &str, value: &'head [u8]) -> Result<(), Surprise> {
        let name = name.as_bytes();
        match name.len() {
            6 if is(name, b"expect") => self.expects_continue |= has_option(value, b"100-continue"),
            7 if is(name, b"upgrade") => {
                self.names_protocol = true;
                self.names_websocket |= has_option(value, b"websocket");
                self.names_http2 |= has_option(value, H2C);
            }
            10 if is(name, b"connection") => self.connection(value),
            10 if is(name, b"user-agent") => self.user_agent = Some(value),
            13 if is(name, b"authorization") => self.credentials(value),
            14 if is(name, b"content-length") => return self.content_length(value),
            16 if is(name, b"www-authenticate") => self.challenge(value),
            17 if is(name, b"transfer-encoding") => return self.transfer_encoding(value),
            18 if is(name, b"proxy-authenticate") => self.challenge(value),
            19 if is(name, b"proxy-authorization") => self.credentials(value),
            24 if is(name, b"sec-websocket-extensions") && !value.is_empty() => {
                self.extensions = Extensions::Negotiated;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the connection goes on after this message, as far as its sender is concerned.
    ///
    /// # Source
    /// RFC 9112 §9.3.
    pub(super) fn persists(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version == Version::Http11)
    }

    /// Whether the message names protocols in an Upgrade field which Connection owns up to.
    pub(super) fn upgrades(&self) -> bool {
        self.names_protocol && self.upgrade_option
    }

    /// Whether one of those protocols is WebSocket.
    pub(super) fn upgrades_to_websocket(&self) -> bool {
        self.names_websocket && self.upgrade_option
    }

    /// Whether one of those protocols is HTTP/2 without TLS.
    pub(super) fn upgrades_to_http2(&self) -> bool {
        self.names_http2 && self.upgrade_option
    }

    /// Credentials, or the challenges for them.
    ///
    /// # Source
    /// RFC 4559 §6 (Negotiate); NTLM never had one, and does the same.
    fn credentials(&mut self, value: &[u8]) {
        self.authenticates_connection |=
            options(value).any(|element| connection_scheme(element).is_some());
    }

    /// A challenge. One without data only offers its scheme, and the client may begin elsewhere; one
    /// with data is the middle of a handshake that this connection must see to its end.
    fn challenge(&mut self, value: &[u8]) {
        self.credentials(value);
        self.challenges_connection |= options(value)
            .filter_map(connection_scheme)
            .any(|data| data.first() == Some(&b' ') && !data.trim_ascii().is_empty());
    }

    fn connection(&mut self, value: &[u8]) {
        // What nearly every message says, without taking it for a list first.
        if is(value, b"keep-alive") {
            self.keep_alive = true;
            return;
        }
        for option in options(value) {
            match option.len() {
                5 => self.close |= is(option, b"close"),
                7 => self.upgrade_option |= is(option, b"upgrade"),
                10 => self.keep_alive |= is(option, b"keep-alive"),
                _ => {}
            }
        }
    }

    /// "5, 5" is 5 (RFC 9112 §6.3, point 5); everything else but one number is a surprise.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Surprise> {
        if self.length.is_none()
            && let Some(length) = decimal(value)
        {
            self.length = Some(length);
            return Ok(());
        }
        for number in options(value) {
            let number = decimal(number).ok_or(Surprise::InvalidLength)?;
            if self.length.is_some_and(|length| length != number) {
                return Err(Surprise::InvalidLength);
            }
            self.length = Some(number);
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Surprise> {
        for coding in options(value) {
            let name = coding.split(|&byte| byte == b';').next().unwrap_or(coding);
            let name = name.trim_ascii_end();
            self.coding = match self.coding {
                // Nothing may come after chunked, not even chunked.
                Coding::Chunked => return Err(Surprise::UnknownCoding),
                _ if coding.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                _ if name.is_empty()
                    || name.eq_ignore_ascii_case(b"chunked")
                    || name.eq_ignore_ascii_case(b"identity") =>
                {
                    return Err(Surprise::UnknownCoding);
                }
                _ => Coding::Other,
            };
        }
        Ok(())
    }
}

/// The protocol of RFC 7540 §3.2 that an Upgrade field names: HTTP/2 without TLS.
pub(super) const H2C: &[u8] = b"h2c";

/// What follows the name of a scheme that authenticates a connection.
fn connection_scheme(element: &[u8]) -> Option<&[u8]> {
    let after = |name: &[u8]| {
        let (start, data) = element.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(data)
    };
    after(b"ntlm").or_else(|| after(b"negotiate"))
}

/// Whether a token is this word of lower-case letters and hyphens, in any case: all of it at once,
/// which is one step for the processor where byte by byte is one for each.
///
/// The bit by which the cases differ turns only one more byte into one of the word's: CR into a
/// hyphen. The parser lets no CR into a name or a value.
fn is<const LENGTH: usize>(token: &[u8], word: &[u8; LENGTH]) -> bool {
    const CASE: u8 = b'a' ^ b'A';
    <&[u8; LENGTH]>::try_from(token).is_ok_and(|token| {
        let differing = |before, (token, word): (&u8, &u8)| before | (token | CASE) ^ word;
        token.iter().zip(word).fold(0, differing) == 0
    })
}

/// The elements of a comma-separated list, without the white space around them.
pub(super) fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether a comma-separated list has this element, in any case.
pub(super) fn has_option(value: &[u8], option: &[u8]) -> bool {
    options(value).any(|element| element.eq_ignore_ascii_case(option))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    /// So many can't overflow.
    const SAFE_DIGITS: usize = 19;
    let value = |digit: &u8| Some(digit.wrapping_sub(b'0')).filter(|value| *value < 10);
    if digits.is_empty() {
        return None;
    }
    let (safe, rest) = digits.split_at(digits.len().min(SAFE_DIGITS));
    let mut number = 0_u64;
    for digit in safe {
        number = number * 10 + u64::from(value(digit)?);
    }
    for digit in rest {
        number = number.checked_mul(10)?.checked_add(u64::from(value(digit)?))?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_up_to_the_largest() {
        for number in [0, 7, 10, 9_999_999_999_999_999_999, 10_000_000_000_000_000_000, u64::MAX] {
            assert_eq!(decimal(number.to_string().as_bytes()), Some(number));
            assert_eq!(decimal(format!("000{number}").as_bytes()), Some(number));
        }
        for text in ["", "-1", "+1", " 1", "1 ", "0x1", "1/", "1:", "18446744073709551616"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
    }
}
