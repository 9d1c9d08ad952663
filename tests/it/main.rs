//! Ebbtide on real traffic: real sockets, real signals, real peers.
//!
//! One module per capability; `support` starts the program and talks to it.

mod support;

mod drain;
mod http1;
mod transparency;
mod websocket;
