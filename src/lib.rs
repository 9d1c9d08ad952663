//! Ebbtide: the sidecar proxy that lets a pod's connections ebb away instead of breaking.
//!
//! The rooms, one line each; `ARCHITECTURE.md` follows one connection and one drain through them.
//!
//! - [`protocol`]: what the bytes mean. Sans-I/O trackers; imports nothing at all.
//! - [`drain`]: when we stop. Phases, the schedule, triggers; imports nothing of ours.
//! - [`net`]: sockets. Bind, the SYN gate, accept with back-off, connect, options.
//! - [`relay`]: moves bytes unchanged, both directions, each ending on its own.
//! - [`connection`]: one connection from accept to close; listeners; the live table.
//! - [`telemetry`]: logs; every metric's name, unit and help.
//! - [`api`]: how our processes talk. The report, one serving helper, one client helper.
//! - [`report`]: tells the controller how a drain goes, and brings home its answers.
//! - [`controller`]: reports in, a pure decision, deregistration out.

pub mod api;
pub mod connection;
pub mod controller;
pub mod drain;
pub mod net;
pub mod protocol;
pub mod relay;
pub mod report;
pub mod telemetry;
