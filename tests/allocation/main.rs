//! What the data path costs in allocations: none for a message, once the first ones have passed.
//!
//! A binary of its own, because it counts what its allocator does.

mod proxy;
mod relay;
mod tracker;
