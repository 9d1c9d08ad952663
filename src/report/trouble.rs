//! Says once what is wrong with the controller, and then only what changed.

use super::attempt::Attempt;
use super::delivery::Outcome;

/// What the log said last.
#[derive(Debug)]
pub(super) struct Trouble {
    server: String,
    said: Option<(Attempt, Option<u16>)>,
}

impl Trouble {
    /// Nothing is wrong with the controller at `server` so far.
    pub(super) fn none(server: String) -> Self {
        Trouble { server, said: None }
    }

    /// Logs `outcome` if it is other news than the one before; returns whether it did.
    pub(super) fn note(&mut self, outcome: &Outcome) -> Said {
        let now = match outcome.attempt {
            Attempt::Ok => None,
            Attempt::Superseded => return Said::Nothing,
            attempt => Some((attempt, outcome.status)),
        };
        if now == self.said {
            return Said::Nothing;
        }
        self.said = now;
        let (controller, error) = (&self.server, &outcome.error);
        match now {
            None => tracing::info!(%controller, "reports are delivered again"),
            Some((result, _)) if outcome.attempt.is_stored() => {
                tracing::warn!(%controller, %result, %error, "the controller's answer makes no sense");
            }
            Some((result, _)) => {
                tracing::warn!(%controller, %result, %error, "a report was not delivered, trying again");
            }
        }
        Said::Something
    }
}

/// Whether a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Something,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(attempt: Attempt, status: Option<u16>) -> Outcome {
        Outcome { attempt, status, answer: None, error: String::new() }
    }

    #[test]
    fn only_news_are_said() {
        let mut trouble = Trouble::none("http://controller".into());
        let script = [
            (Attempt::Ok, None, Said::Nothing),
            (Attempt::ConnectError, None, Said::Something),
            (Attempt::ConnectError, None, Said::Nothing),
            (Attempt::Superseded, None, Said::Nothing),
            (Attempt::ConnectError, None, Said::Nothing),
            (Attempt::HttpError, Some(503), Said::Something),
            (Attempt::HttpError, Some(503), Said::Nothing),
            (Attempt::HttpError, Some(404), Said::Something),
            (Attempt::Ok, None, Said::Something),
            (Attempt::Ok, None, Said::Nothing),
        ];
        for (step, (attempt, status, said)) in script.into_iter().enumerate() {
            assert_eq!(trouble.note(&outcome(attempt, status)), said, "step {step}");
        }
    }
}
