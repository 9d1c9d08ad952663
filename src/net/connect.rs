//! Connecting to the application, patiently while it starts.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::attempt;
use super::company::Company;
use super::connect_error::{ConnectError, Failure, Remedy};
use super::{Socket, Upstream};

/// The pauses between tries while the application is not there yet.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What a client counts as that has sent its FIN while the application was waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HalfClosed {
    /// It has left: nothing of it reaches the application. Without us it would have been refused.
    #[default]
    Left,
    /// It has said all that it had to say, and waits for the answer.
    Waits,
}

/// How the application is connected to.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// For one try of one address.
    pub timeout: Duration,
    /// For how long it is tried again.
    pub wait: Duration,
    /// Addresses of this host to connect from, in turn; none leaves it to the kernel.
    pub sources: Vec<IpAddr>,
    /// What a client counts as that has sent its FIN meanwhile.
    pub half_closed: HalfClosed,
}

/// Connects to the application for a client. While that is not possible, tries again for
/// `options.wait`, or until the client has left.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping it closes what was begun.
pub async fn connect(
    upstream: &Upstream,
    options: &ConnectOptions,
    client: &Socket,
) -> Result<Socket, ConnectError> {
    let begun = Instant::now();
    let failure = match attempt(upstream, options).await {
        // What has waited in a queue may have waited for longer than its client did.
        Ok(_) if begun.elapsed() > LONGEST_PAUSE && has_left(client, options) => {
            return Err(ConnectError::ClientLeft(upstream.clone()));
        }
        Ok(socket) => return Ok(socket),
        Err(failure) => failure,
    };
    let patience = Patience { upstream, options, client, deadline: begun + options.wait };
    // Boxed: hardly anybody waits.
    Box::pin(patience.wait(failure)).await
}

/// Whether a client is gone; asks the kernel itself.
fn has_left(client: &Socket, options: &ConnectOptions) -> bool {
    match options.half_closed {
        HalfClosed::Left => client.has_ended(),
        HalfClosed::Waits => client.has_failed(),
    }
}

/// Why a client waits no longer for its turn.
enum Turn {
    /// Somebody has reached the application.
    Come,
    /// The time is over.
    Over,
    ClientLeft,
}

/// One client that waits for the application.
struct Patience<'a> {
    upstream: &'a Upstream,
    options: &'a ConnectOptions,
    client: &'a Socket,
    deadline: Instant,
}

impl Patience<'_> {
    async fn wait(&self, mut failure: Failure) -> Result<Socket, ConnectError> {
        let company = Company::of(self.upstream);
        loop {
            let remedy = failure.remedy();
            if remedy == Remedy::None || Instant::now() >= self.deadline {
                return Err(self.give_up(failure));
            }
            let mut left = pin!(self.client_left());
            let tried = if remedy == Remedy::Again {
                let again = async {
                    sleep(FIRST_PAUSE).await;
                    attempt(self.upstream, self.options).await
                };
                tokio::select! {
                    biased;
                    () = left => return Err(self.left()),
                    tried = again => tried,
                }
            } else {
                let mut over = pin!(sleep_until(self.deadline));
                // Listened for before the wait, so that none is missed.
                let news = company.news();
                let turn = tokio::select! {
                    biased;
                    () = &mut left => Err(Turn::ClientLeft),
                    () = news => Err(Turn::Come),
                    lead = company.lead() => Ok(lead),
                    () = &mut over => Err(Turn::Over),
                };
                match turn {
                    Err(Turn::ClientLeft) => return Err(self.left()),
                    Err(Turn::Over) => return Err(self.give_up(failure)),
                    Err(Turn::Come) => attempt(self.upstream, self.options).await,
                    Ok(lead) => {
                        let tried = self.lead(&company, lead, failure);
                        tokio::select! {
                            biased;
                            () = left => return Err(self.left()),
                            tried = tried => tried,
                        }
                    }
                }
            };
            match tried {
                Ok(_) if has_left(self.client, self.options) => return Err(self.left()),
                Ok(socket) => return Ok(socket),
                Err(other) => failure = other,
            }
        }
    }

    /// Tries again and again, for all who wait. Ends when the application was reached, or there is
    /// nothing to try again for, or the time is over.
    async fn lead(
        &self,
        company: &Company,
        lead: Option<tokio::sync::SemaphorePermit<'_>>,
        mut failure: Failure,
    ) -> Result<Socket, Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let mut tried = pin!(attempt(self.upstream, self.options));
            let result = tokio::select! {
                biased;
                result = &mut tried => result,
                () = sleep(LONGEST_PAUSE) => {
                    // Somebody is there and slow: each waits for itself.
                    drop(lead);
                    company.tell();
                    return tried.await;
                }
            };
            match (result, failure.remedy()) {
                (Ok(socket), Remedy::Arrival) => {
                    company.tell();
                    return Ok(socket);
                }
                // What was used up may be enough for one more: the next in the row looks.
                (Ok(socket), _) => return Ok(socket),
                (Err(other), _) => failure = other,
            }
            let goes_on = matches!(failure.remedy(), Remedy::Arrival | Remedy::Release);
            if !goes_on || Instant::now() >= self.deadline {
                return Err(failure);
            }
        }
    }

    /// Resolves when the client has left.
    async fn client_left(&self) {
        std::future::poll_fn(|cx| match self.options.half_closed {
            HalfClosed::Left => self.client.poll_ended(cx),
            HalfClosed::Waits => self.client.poll_failed(cx),
        })
        .await;
    }

    fn left(&self) -> ConnectError {
        ConnectError::ClientLeft(self.upstream.clone())
    }

    fn give_up(&self, failure: Failure) -> ConnectError {
        failure.into_error(self.upstream, self.options.timeout, self.options.wait)
    }
}
