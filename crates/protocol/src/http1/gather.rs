//! Gathers a head that reads have cut; a head that comes whole is read where it lies.
//!
//! What is found does not depend on how the bytes were cut: a head is looked at when its first
//! bytes tell what it cannot be, when its first line is whole, and when all of it is; never for
//! each read, so a head that trickles in costs no more than one that comes at once.

use super::Surprise;
use super::head::Parsed;

/// A head may be this long; a longer one makes the connection opaque.
///
/// # Source
/// By default Node and HAProxy take 16 KiB, nginx 32, Envoy 60; AWS's balancer passes up to 64.
pub const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// What a head's first bytes tell is told by so many: a method and its space, or a version.
const START_BYTES: usize = 64;

/// How to read one kind of head.
pub(super) struct Grammar<Parse> {
    /// Reads the head at the start of these bytes.
    pub(super) parse: Parse,
    /// Whether bytes that begin like this may become a head.
    pub(super) is_plausible: fn(&[u8]) -> bool,
}

/// What has come of a head so far.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// In a box: most heads come whole.
    begun: Option<Box<Begun>>,
    /// How many bytes of a head that is held back hold no end of it.
    held_bytes: u32,
    /// Whether its first line has been looked at.
    has_line: bool,
}

/// A head of which a part has been passed on.
#[derive(Debug)]
struct Begun {
    passed: Vec<u8>,
}

impl Gather {
    /// Whether a part of a head has been passed on.
    pub(super) fn is_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether a part of a head has been read, passed on or held back.
    pub(super) fn has_part(&self) -> bool {
        self.is_begun() || self.held_bytes > 0
    }

    /// Room that is taken for a cut head.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.begun.as_ref().map_or(0, |begun| begun.passed.capacity())
    }

    /// Forgets what has come so far.
    pub(super) fn clear(&mut self) {
        *self = Gather::default();
    }

    /// Reads on in a head that is passed on as it comes: the head and how many of `bytes` belong
    /// to it, or `None` when all of them do and it goes on.
    pub(super) fn take<T, Parse>(&mut self, bytes: &[u8], grammar: &Grammar<Parse>) -> Parsed<T>
    where
        Parse: Fn(&[u8]) -> Parsed<T>,
    {
        if let Some(begun) = &mut self.begun {
            let found = go_on(&mut begun.passed, &mut self.has_line, bytes, grammar)?;
            if found.is_some() {
                self.clear();
            }
            return Ok(found);
        }
        let found = look(bytes, grammar)?;
        self.held_bytes = 0;
        self.has_line = false;
        if found.is_none() {
            self.has_line = line_end(bytes).is_some();
            self.begun = Some(Box::new(Begun { passed: bytes.to_vec() }));
        }
        Ok(found)
    }

    /// Reads a head that is held back until it is whole; `bytes` begin with it each time.
    pub(super) fn peek<T, Parse>(&mut self, bytes: &[u8], grammar: &Grammar<Parse>) -> Parsed<T>
    where
        Parse: Fn(&[u8]) -> Parsed<T>,
    {
        let known = self.held_bytes as usize;
        let news = bytes.get(known..).unwrap_or(bytes);
        let had_line = self.has_line;
        self.has_line = had_line || line_end(news).is_some();
        self.held_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let may_tell = known <= START_BYTES
            || had_line != self.has_line
            || bytes.len() > HEAD_LIMIT_BYTES
            || head_end(bytes, known).is_some();
        let found = if may_tell { look(bytes, grammar)? } else { None };
        if found.is_some() {
            self.clear();
        }
        Ok(found)
    }
}

/// Reads a head from its start, in place.
fn look<T, Parse>(bytes: &[u8], grammar: &Grammar<Parse>) -> Parsed<T>
where
    Parse: Fn(&[u8]) -> Parsed<T>,
{
    let window = bytes.get(..HEAD_LIMIT_BYTES).unwrap_or(bytes);
    match (grammar.parse)(window) {
        Ok(None) if !(grammar.is_plausible)(window) => Err(Surprise::of_first_bytes(window)),
        Ok(None) if bytes.len() > HEAD_LIMIT_BYTES => Err(Surprise::HeadTooLong),
        Err(_) => settle(window, bytes.len(), grammar),
        found => found,
    }
}

/// Something is wrong with the head. Says so if that would be seen however the bytes were cut.
fn settle<T, Parse>(window: &[u8], shown: usize, grammar: &Grammar<Parse>) -> Parsed<T>
where
    Parse: Fn(&[u8]) -> Parsed<T>,
{
    if !(grammar.is_plausible)(window) {
        return Err(Surprise::of_first_bytes(window));
    }
    let prefix = |end: usize| window.get(..end).unwrap_or(window);
    if let Some(end) = line_end(window) {
        (grammar.parse)(prefix(end))?;
    }
    if let Some(end) = head_end(window, 0) {
        return (grammar.parse)(prefix(end));
    }
    if shown > HEAD_LIMIT_BYTES {
        return Err(Surprise::HeadTooLong);
    }
    Ok(None)
}

/// Reads on in a head whose start has been passed on.
fn go_on<T, Parse>(
    passed: &mut Vec<u8>,
    has_line: &mut bool,
    bytes: &[u8],
    grammar: &Grammar<Parse>,
) -> Parsed<T>
where
    Parse: Fn(&[u8]) -> Parsed<T>,
{
    let before = passed.len();
    let room = HEAD_LIMIT_BYTES.saturating_sub(before).min(bytes.len());
    passed.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    if !(grammar.is_plausible)(passed) {
        return Err(Surprise::UnknownProtocol);
    }
    let prefix = |end: usize| passed.get(..end).unwrap_or(passed);
    if !*has_line && let Some(end) = line_end(passed.get(before..).unwrap_or_default()) {
        *has_line = true;
        (grammar.parse)(prefix(before + end))?;
    }
    if let Some(end) = head_end(passed, before) {
        let found = (grammar.parse)(prefix(end))?;
        let (head, length) = found.ok_or(Surprise::MalformedHead)?;
        return Ok(Some((head, length.saturating_sub(before))));
    }
    if room < bytes.len() {
        return Err(Surprise::HeadTooLong);
    }
    Ok(None)
}

/// Where the first line ends.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let line_feed = bytes.iter().position(|&byte| byte == b'\n')?;
    Some(line_feed + 1)
}

/// Where the first empty line ends; the first `known` bytes are known to hold no end.
fn head_end(bytes: &[u8], known: usize) -> Option<usize> {
    let start = known.saturating_sub(2);
    let rest = bytes.get(start..)?;
    let mut at = 0;
    loop {
        at += rest.get(at..)?.iter().position(|&byte| byte == b'\n')? + 1;
        match rest.get(at..)? {
            [b'\n', ..] => return Some(start + at + 1),
            [b'\r', b'\n', ..] => return Some(start + at + 2),
            _ => {}
        }
    }
}
