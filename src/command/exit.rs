//! How a command ends: its exit status, and the error that people read.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// The exit statuses that mean something.
///
/// # Source
/// `sysexits.h`, so that scripts can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 64: what was typed can't be understood, or contradicts itself.
    Usage,
    /// 69: a peer or a port is not to be had.
    Unavailable,
    /// 70: a bug of ours.
    Bug,
    /// 75: the deadline passed, and something was force-closed.
    DeadlinePassed,
    /// Whatever the child said.
    Child(u8),
}

impl Exit {
    /// The status as a number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Bug => 70,
            Exit::DeadlinePassed => 75,
            Exit::Child(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Why a command failed: an exit status and an error.
#[derive(Debug)]
pub struct Failure {
    /// The status to exit with.
    pub exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    context: Option<String>,
}

impl Failure {
    fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure { exit, error: error.into(), context: None }
    }

    /// What was typed is wrong.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure::new(Exit::Usage, error)
    }

    /// Something that we need is not there.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure::new(Exit::Unavailable, error)
    }

    /// It is our own fault.
    pub fn bug(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure::new(Exit::Bug, error)
    }

    /// Says what was being done.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }
}

impl fmt::Display for Failure {
    /// The whole chain of causes on one line, each once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(context) = &self.context {
            write!(f, "{context}: ")?;
        }
        write!(f, "{}", self.error)?;
        let mut source = self.error.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl Error for Failure {}
