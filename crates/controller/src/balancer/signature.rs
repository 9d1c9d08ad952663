//! What the signatures of both clouds are made of.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use ring::{digest, hmac};

/// HMAC-SHA256 of `data` under `key`.
pub(super) fn hmac_sha256(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

/// SHA-256 of `data`, in hexadecimal digits.
pub(super) fn sha256_hex(data: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, data).as_ref())
}

/// `bytes` in lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The seconds since the epoch, now.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `timestamp`, in seconds since the epoch, as `2019-02-25T12:00:00Z`: in UTC, whatever our zone.
pub(super) fn rfc3339(timestamp: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(timestamp);
    humantime::format_rfc3339_seconds(at).to_string()
}
