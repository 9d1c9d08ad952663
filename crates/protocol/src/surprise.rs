use std::fmt;

use super::http2;

/// Why a tracker stopped understanding a connection.
///
/// Each is either malformed, or something that two readers may honestly read in two ways: being
/// wrong about a boundary is worse than being blind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surprise {
    /// The first bytes belong to no protocol that is tracked.
    UnknownProtocol,
    /// The first bytes are a TLS record.
    Tls,
    /// The upstream spoke before the client had said what it speaks.
    ServerFirst,
    /// An HTTP/2 preface where an HTTP/1 request belongs.
    Http2Preface,
    /// A head that is not HTTP/1.
    MalformedHead,
    /// A line of a head, a chunk or a trailer that ends without CR.
    BareLineFeed,
    /// A field folded over several lines.
    FoldedLine,
    /// A head longer than [`HEAD_LIMIT_BYTES`](super::http1::HEAD_LIMIT_BYTES).
    HeadTooLong,
    /// A head with more fields than [`FIELD_LIMIT`](super::http1::FIELD_LIMIT).
    TooManyFields,
    /// A Content-Length that is no number, or several that differ.
    InvalidLength,
    /// Content-Length and Transfer-Encoding in one message.
    LengthAndCoding,
    /// A Transfer-Encoding that does not say where its body ends.
    UnknownCoding,
    /// Transfer-Encoding in HTTP/1.0.
    CodingInHttp10,
    /// A CONNECT with a body.
    ConnectBody,
    /// A chunk that is not framed as one.
    MalformedChunk,
    /// More unanswered requests than
    /// [`OUTSTANDING_LIMIT`](super::http1::OUTSTANDING_LIMIT).
    TooManyOutstanding,
    /// A response that no request asked for.
    UnaskedResponse,
    /// A 101 that the request did not ask for, or that came before the request had ended.
    UnaskedUpgrade,
    /// The client went on after a request that may end HTTP/1, before it was answered.
    EarlyBytes,
    /// The client went on after its `Expect: 100-continue` was declined: a body or a request.
    DeclinedBody,
    /// A WebSocket frame with a reserved opcode or bit.
    ReservedFrame,
    /// A WebSocket frame that is masked and should not be, or the other way round.
    FrameMask,
    /// A WebSocket control frame that is fragmented or too long.
    ControlFrame,
    /// A WebSocket fragment without a beginning, or a beginning within a message.
    FrameSequence,
    /// A WebSocket frame whose length is not a number of 63 bits.
    FrameLength,
    /// Something that HTTP/2 does not have.
    Http2(http2::Surprise),
}

impl Surprise {
    /// What bytes are that are no HTTP: a TLS record is told by its first byte, with which no text
    /// begins.
    pub(super) fn of_first_bytes(bytes: &[u8]) -> Surprise {
        if bytes.first() == Some(&22) { Surprise::Tls } else { Surprise::UnknownProtocol }
    }

    /// The surprise's name as `/connections` and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Surprise::UnknownProtocol => "unknownProtocol",
            Surprise::Tls => "tls",
            Surprise::ServerFirst => "serverFirst",
            Surprise::Http2Preface => "http2Preface",
            Surprise::MalformedHead => "malformedHead",
            Surprise::BareLineFeed => "bareLineFeed",
            Surprise::FoldedLine => "foldedLine",
            Surprise::HeadTooLong => "headTooLong",
            Surprise::TooManyFields => "tooManyFields",
            Surprise::InvalidLength => "invalidLength",
            Surprise::LengthAndCoding => "lengthAndCoding",
            Surprise::UnknownCoding => "unknownCoding",
            Surprise::CodingInHttp10 => "codingInHttp10",
            Surprise::ConnectBody => "connectBody",
            Surprise::MalformedChunk => "malformedChunk",
            Surprise::TooManyOutstanding => "tooManyOutstanding",
            Surprise::UnaskedResponse => "unaskedResponse",
            Surprise::UnaskedUpgrade => "unaskedUpgrade",
            Surprise::EarlyBytes => "earlyBytes",
            Surprise::DeclinedBody => "declinedBody",
            Surprise::ReservedFrame => "reservedFrame",
            Surprise::FrameMask => "frameMask",
            Surprise::ControlFrame => "controlFrame",
            Surprise::FrameSequence => "frameSequence",
            Surprise::FrameLength => "frameLength",
            Surprise::Http2(surprise) => surprise.name(),
        }
    }
}

impl fmt::Display for Surprise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
