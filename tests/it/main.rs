//! Ebbtide on real traffic: real sockets, real signals, real peers.
//!
//! One module per capability; `support` starts the program and talks to it.

mod support;

mod cli;
mod drain;
mod endpoints;
mod faults;
mod field;
mod grpc;
mod http2;
mod postgres;
mod relay;
mod run;
