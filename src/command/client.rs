//! How the commands reach a running proxy.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::StatusCode;
use serde::de::DeserializeOwned;

use super::Failure;
use crate::api::client::{Call, Client};
use crate::api::report::Report;

/// For an answer that the proxy gives at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the proxy is.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Target {
    /// The proxy's control address
    #[arg(long, env = "EBBTIDE_CONTROL", value_name = "ADDR", default_value = "127.0.0.1:17702")]
    control: SocketAddr,
}

/// A running proxy, as its control address shows it.
#[derive(Clone, Debug)]
pub struct Remote {
    client: Client,
    control: SocketAddr,
}

impl Target {
    /// Makes a client; connects to nobody yet.
    ///
    /// # Errors
    /// Never for a socket address, short of a bug.
    pub fn remote(self) -> Result<Remote, Failure> {
        let uri = hyper::Uri::builder()
            .scheme("http")
            .authority(self.control.to_string())
            .path_and_query("/")
            .build()
            .map_err(Failure::bug)?;
        let client = Client::new(&uri, None).map_err(Failure::bug)?;
        Ok(Remote { client, control: self.control })
    }
}

impl Remote {
    /// The proxy's status.
    ///
    /// # Errors
    /// Exit 69 when there is no proxy.
    pub async fn status(&self) -> Result<Report, Failure> {
        self.ask(Call::get("/status").timeout(ANSWER_TIMEOUT)).await
    }

    /// Begins a drain, or joins the one under way.
    ///
    /// # Errors
    /// Exit 69 when there is no proxy.
    pub async fn drain(&self) -> Result<Report, Failure> {
        self.ask(Call::post("/drain").timeout(ANSWER_TIMEOUT)).await
    }

    /// Serves again.
    ///
    /// # Errors
    /// Exit 69 when there is no proxy, or it has nothing to undo.
    pub async fn undrain(&self) -> Result<Report, Failure> {
        self.ask(Call::post("/undrain").timeout(ANSWER_TIMEOUT)).await
    }

    /// Waits until the drain is over.
    ///
    /// # Errors
    /// Exit 69 when there is no proxy, or it goes away meanwhile.
    pub async fn wait(&self) -> Result<Report, Failure> {
        self.ask(Call::get("/hooks/wait")).await
    }

    /// Any other question.
    ///
    /// # Errors
    /// Exit 69 when there is no proxy, or it refuses.
    pub async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let reply = self.client.send(call).await.map_err(|error| {
            let advice = if error.is_nobody_there() {
                "no proxy there; is it running, and is --control (EBBTIDE_CONTROL) its address?"
            } else {
                "the proxy does not answer"
            };
            Failure::unavailable(error).context(format!("{}: {advice}", self.control))
        })?;
        if reply.status != StatusCode::OK {
            return Err(Failure::unavailable(reply.excerpt()));
        }
        reply.json().map_err(|error| {
            Failure::unavailable(error).context(format!(
                "{}: what answers there is no Ebbtide of this version",
                self.control
            ))
        })
    }
}
