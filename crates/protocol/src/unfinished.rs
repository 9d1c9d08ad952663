/// What a client has begun and not finished, while nothing else keeps its connection: the upstream
/// can do nothing about it, and whoever relays may bound the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// A head: of a request, of HTTP/2 (its preface), of TLS (the ClientHello); or an authentication of
    /// several messages, whose next one is the client's. Such a wait is bounded as a whole.
    Head,
    /// The body of a request that the upstream has not begun to answer. The wait is bounded from the
    /// last byte.
    Body,
    /// The same within bytes that carry nothing: the extension of a chunk, or trailers. The wait is
    /// bounded as a whole, because such bytes need not end.
    Filler,
}

impl Unfinished {
    /// Its name, as `/connections`, logs and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Unfinished::Head => "head",
            Unfinished::Body | Unfinished::Filler => "request",
        }
    }

    /// Whether bytes of the client begin the wait anew.
    #[must_use]
    pub fn goes_on_with_bytes(self) -> bool {
        self == Unfinished::Body
    }
}
