//! Small files that are read whole: certificates, keys, tokens, configurations.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Reads a regular file of at most `max_bytes`.
///
/// A device or a pipe is refused, because it may have no end or keep its reader waiting: neither may hang the
/// start, nor the report that reads a token.
///
/// # Errors
/// Those of open(2) and read(2); `InvalidInput` for what is no regular file, `FileTooLarge` beyond the bound.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    // Without waiting: a pipe that nobody writes to is not opened otherwise.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() { "a directory" } else { "a device, a pipe or a socket" };
        let text = format!("it is {what}; write the content into a regular file and name that");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut bytes = Vec::new();
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let text = format!("it is larger than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Reads a regular file of text, as [`read`] does.
///
/// # Errors
/// As there; `InvalidData` for what is no UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    String::from_utf8(read(path, max_bytes)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> (io::ErrorKind, String) {
        let error = read(Path::new(path), 1024).expect_err(path);
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for path in ["/dev/zero", "/dev/tty", "/dev", "/proc/self/fd"] {
            assert!(read(Path::new(path), 1024).is_err(), "{path}");
        }
        assert_eq!(refused("/dev/zero").0, io::ErrorKind::InvalidInput);
        assert!(refused("/dev").1.contains("a directory"));
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let length = std::fs::metadata(own).expect("our manifest").len();
        let bytes = read(Path::new(own), length).expect("exactly as long");
        assert_eq!(bytes.len() as u64, length);
        let error = read(Path::new(own), length - 1).expect_err("one byte too long");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        // Its metadata says 0 bytes.
        assert!(!read_text(Path::new("/proc/self/status"), 64 * 1024).expect("text").is_empty());
    }
}
