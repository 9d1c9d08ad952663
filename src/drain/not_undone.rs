//! Why an undrain is refused.

/// Why a drain was not undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUndone {
    /// There is none.
    #[error("there is nothing to undo: no drain is under way")]
    NoDrain,
    /// A signal came, which is final.
    #[error(
        "a signal (SIGTERM, SIGQUIT or SIGINT) has told this process to drain and to exit, and nothing \
         undoes a signal: start another process to serve again"
    )]
    Signalled,
}
