/// A farewell in a protocol's own words, which the tracker has put into a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The GOAWAY that says there will be an end.
    FirstGoaway,
    /// The GOAWAY that names the last stream.
    FinalGoaway,
    /// The Close of a WebSocket.
    Close,
}
