//! AWS Signature Version 4: how a request proves who sent it.

use super::credentials::Credentials;
use crate::balancer::signature::{hex, hmac_sha256, rfc3339, sha256_hex};

/// What the body is, which the signature covers too.
pub(super) const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A POST to `/` that wants a signature.
pub(super) struct Request<'a> {
    pub(super) service: &'a str,
    pub(super) region: &'a str,
    pub(super) host: &'a str,
    /// Seconds since the epoch.
    pub(super) timestamp: u64,
    pub(super) body: &'a [u8],
}

/// The time as the `x-amz-date` field spells it.
pub(super) fn amz_date(timestamp: u64) -> String {
    rfc3339(timestamp).replace(['-', ':'], "")
}

impl Request<'_> {
    /// The value of the request's `Authorization` field.
    ///
    /// # Source
    ///
    /// AWS IAM User Guide, "Create a signed AWS API request".
    pub(super) fn authorization(&self, credentials: &Credentials) -> String {
        let amz_date = amz_date(self.timestamp);
        let date = &amz_date[.."20190225".len()];
        let host = self.host;
        let mut headers =
            format!("content-type:{CONTENT_TYPE}\nhost:{host}\nx-amz-date:{amz_date}\n");
        let mut signed = "content-type;host;x-amz-date".to_owned();
        if let Some(token) = &credentials.session_token {
            headers.extend(["x-amz-security-token:", token, "\n"]);
            signed.push_str(";x-amz-security-token");
        }
        let canonical = format!("POST\n/\n\n{headers}\n{signed}\n{}", sha256_hex(self.body));
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
        let mut key =
            hmac_sha256(format!("AWS4{}", credentials.secret_key).as_bytes(), date.as_bytes());
        for part in [self.region, self.service, "aws4_request"] {
            key = hmac_sha256(key.as_ref(), part.as_bytes());
        }
        let signature = hex(hmac_sha256(key.as_ref(), to_sign.as_bytes()).as_ref());
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            credentials.access_key_id
        )
    }
}
