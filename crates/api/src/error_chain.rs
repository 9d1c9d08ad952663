//! An error in one line.

use std::error::Error;

/// What an error says, and behind it what each of its causes adds.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the application can't be reached")]
    struct Outer(#[source] io::Error);

    #[test]
    fn each_cause_is_said_once() {
        let error = Outer(io::Error::other("no route"));
        assert_eq!(error_chain(&error), "the application can't be reached: no route");
        let wrapped = io::Error::other(error);
        assert_eq!(error_chain(&wrapped), "the application can't be reached: no route");
    }
}
