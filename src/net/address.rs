//! Where the application is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of the application that connections are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// An address, nothing to look up.
    Address(SocketAddr),
    /// A name and a port, looked up for every connection.
    Name(String, u16),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// Why a text is no upstream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no upstream; write 127.0.0.1:3000, [::1]:3000, localhost:3000 or unix:/path/of/the.sock"
)]
pub struct ParseUpstreamError(String);

impl FromStr for Upstream {
    type Err = ParseUpstreamError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseUpstreamError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Upstream::Unix(path.into())) };
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return if addr.port() == 0 { Err(wrong()) } else { Ok(Upstream::Address(addr)) };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(wrong());
        }
        Ok(Upstream::Name(name.to_owned(), port))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upstream::Address(addr) => addr.fmt(f),
            Upstream::Name(name, port) => write!(f, "{name}:{port}"),
            Upstream::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in ["127.0.0.1:3000", "[::1]:3000", "app.local:80", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<Upstream>().expect("an upstream").to_string(), text);
        }
    }

    #[test]
    fn what_is_no_upstream_says_what_to_write() {
        for text in ["", "3000", "unix:", "host:", "host:0", "127.0.0.1:0", "http://x:80", ":80"] {
            let error = text.parse::<Upstream>().expect_err(text);
            assert!(error.to_string().contains("write 127.0.0.1:3000"), "{error}");
        }
    }
}
