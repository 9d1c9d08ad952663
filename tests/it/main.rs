//! Ebbtide on real traffic: real sockets, real signals, real peers.
//!
//! One module per capability; `support` starts the program and talks to it.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::unchecked_time_subtraction,
    reason = "the figures of a test are small, and a panic is how it fails"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a test is a thread of its own with a real clock: it may sleep between two looks"
)]

mod support;

mod api;
mod auto;
mod balancer_docs;
mod balancer_haproxy;
mod balancer_webhook;
mod bulk;
mod churn;
mod cli;
mod closing;
mod clouds;
mod confinement;
mod controller_page;
mod demo;
mod deploy;
mod drain;
mod endpoint_crowds;
mod endpoints;
mod families;
mod faults;
mod field;
mod first_bytes;
mod fleet;
mod forwarding;
mod grpc;
mod handshakes;
mod house;
mod http1;
mod http2;
mod image;
mod lost_bytes;
mod memory;
mod memory_back;
mod monitoring;
mod openapi;
mod own_port;
mod page;
mod postgres;
mod reject;
mod relay;
mod reuse;
mod reuse_surplus;
mod rolling;
mod run;
mod run_application;
mod settings;
mod settled;
mod signal;
mod silence;
mod silent;
mod soak;
mod syscalls;
mod targets;
mod transparency;
mod unfinished;
mod upstream;
mod websocket;
