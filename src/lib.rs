//! Ebbtide: the sidecar proxy that lets a pod's connections ebb away instead of breaking.
//!
//! The rooms, one line each; `ARCHITECTURE.md` follows one connection and one drain through them.
//!
//! - [`command`]: one file per sub-command, its flags and its `run`; imports every room.
//! - [`protocol`]: what the bytes mean. Sans-I/O trackers; imports nothing at all.
//! - [`drain`]: when we stop. Phases, the schedule, triggers; imports nothing of ours.
//! - [`net`]: sockets. Bind, the SYN filter, accept with back-off, connect, options.
//! - [`reactor`]: the threads that connections live on: epoll, readiness, tasks.
//! - [`relay`]: moves bytes unchanged, both directions, each ending on its own.
//! - [`connection`]: one connection from accept to close; listeners; the live table.
//! - [`api`]: how our processes talk. The report, one serving helper, one client helper.
//! - [`admin`]: the proxy's endpoints.
//! - [`report`]: tells the controller what remains.
//! - [`controller`]: reports in, a pure decision, deregistration out.
//! - [`telemetry`]: logs; every metric's name, unit and help.
//! - [`signal`] and [`child`]: the signals we answer to; the application as our child.

pub mod admin;
pub mod child;
pub mod command;
pub mod connection;
pub mod drain;
pub mod net;
pub mod reactor;
pub mod relay;
pub mod report;
pub mod signal;
pub mod telemetry;

pub use ebbtide_api as api;
pub use ebbtide_controller as controller;
pub use ebbtide_protocol as protocol;
