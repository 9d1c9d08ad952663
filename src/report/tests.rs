mod clock;
mod https;
mod schema;
mod sockets;
mod support;
