//! TC3-HMAC-SHA256: how a request to Tencent Cloud's API 3.0 proves who sent it.

use super::credentials::Credentials;
use crate::balancer::signature::{hex, hmac_sha256, rfc3339, sha256_hex};

/// What the signature covers beside the body. Both sides must spell it alike.
pub(super) const CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// The headers under the signature, as the `Authorization` field names them.
const SIGNED_HEADERS: &str = "content-type;host";

/// The value of the `Authorization` field of a POST of `body` to `/` at `host`.
///
/// `timestamp` is in seconds since the epoch, and the same as the request's `X-TC-Timestamp`.
///
/// # Source
///
/// Tencent Cloud, "Signature Algorithm V3".
pub(super) fn authorization(
    credentials: &Credentials,
    service: &str,
    host: &str,
    timestamp: u64,
    body: &[u8],
) -> String {
    let date = utc_date(timestamp);
    let canonical = format!(
        "POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\n\n{SIGNED_HEADERS}\n{}",
        sha256_hex(body)
    );
    let scope = format!("{date}/{service}/tc3_request");
    let to_sign =
        format!("TC3-HMAC-SHA256\n{timestamp}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
    let key = hmac_sha256(format!("TC3{}", credentials.secret_key).as_bytes(), date.as_bytes());
    let key = hmac_sha256(key.as_ref(), service.as_bytes());
    let key = hmac_sha256(key.as_ref(), b"tc3_request");
    let signature = hex(hmac_sha256(key.as_ref(), to_sign.as_bytes()).as_ref());
    format!(
        "TC3-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={SIGNED_HEADERS}, Signature={signature}",
        credentials.secret_id
    )
}

/// The day of `timestamp` in UTC, which is what the service takes it for whatever our zone.
fn utc_date(timestamp: u64) -> String {
    let mut text = rfc3339(timestamp);
    text.truncate("2019-02-25".len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Tencent's own documentation, and the signature that it gives.
    #[test]
    fn the_documented_request_has_the_documented_signature() {
        let credentials = Credentials {
            secret_id: "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE".to_owned(),
            secret_key: "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE".to_owned(),
            token: None,
        };
        let body = br#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#;
        let header =
            authorization(&credentials, "cvm", "cvm.tencentcloudapi.com", 1_551_113_065, body);
        assert_eq!(
            header,
            "TC3-HMAC-SHA256 Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2019-02-25/cvm/tc3_request, \
             SignedHeaders=content-type;host, \
             Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
        );
    }

    #[test]
    fn the_day_turns_at_midnight_utc() {
        assert_eq!(utc_date(1_551_139_199), "2019-02-25");
        assert_eq!(utc_date(1_551_139_200), "2019-02-26");
    }
}
