/// What happened in a connection since the last time somebody asked.
///
/// Counts and not a list: one direction's step only ever begins requests or only ever ends
/// responses, so nothing is lost by counting, and any number of pipelined exchanges fits. Responses
/// end in the order in which their requests began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Requests whose head has passed completely.
    pub requests_begun: u32,
    /// Final responses that have passed completely, by class of status: the first counts 101, the
    /// last whatever is not 2xx to 4xx.
    pub responses_ended: [u32; 5],
    /// 1 when bytes of a further request came after the farewell and were not forwarded; counted
    /// once a connection.
    pub refused: u32,
}

impl Events {
    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Events::default()
    }

    pub(super) fn request_begun(&mut self) {
        self.requests_begun = self.requests_begun.saturating_add(1);
    }

    pub(super) fn response_ended(&mut self, status: u16) {
        let class = match status {
            100..=199 => 0,
            200..=299 => 1,
            300..=399 => 2,
            400..=499 => 3,
            _ => 4,
        };
        if let Some(count) = self.responses_ended.get_mut(class) {
            *count = count.saturating_add(1);
        }
    }
}
