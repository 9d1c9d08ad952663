//! Where a request was made up; the check is one with the proxy's control port.

pub(super) use crate::api::serve::origin::{is_ours, names_an_address};
