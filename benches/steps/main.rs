//! What do the steps of the data path cost, each on its own?
//!
//! On one thread, without the program around them: watching bytes beside copying them once, relaying beside
//! a bare recv and send, a report beside one that counts nobody. Ratios are those of one round, in which
//! all have a turn (A B C, B C A, …). With `--brief` one turn each: that it works, and no figure.

#![expect(clippy::cast_precision_loss, reason = "a bench counts to billions, not to 2^53")]

mod relay;
mod report;
mod step;
mod trackers;

fn main() {
    // cargo bench says --bench; a name chooses what it is part of, as elsewhere.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_brief = arguments.iter().any(|argument| argument == "--brief");
    let wanted: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = if is_brief { 1 } else { rounds.unwrap_or(101) };
    for question in trackers::all().into_iter().chain(relay::all()).chain([report::question()]) {
        if wanted.is_empty() || wanted.iter().any(|name| question.title.contains(name.as_str())) {
            question.answer(rounds);
        }
    }
}
