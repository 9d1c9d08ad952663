//! A question: several ways to the same end in turn, and what each takes.

use std::time::{Duration, Instant};

/// Long beside a look at the clock, short beside what else happens on the machine.
const TURN: Duration = Duration::from_millis(1);

/// One way to do it.
pub(super) struct Step {
    name: String,
    /// Which of the steps it is held against; itself, if it is what others are held against.
    beside: usize,
    /// Of one unit; 0 where bytes are not the point.
    bytes: usize,
    /// Does so many units, and says how long they took: what is not asked about is not timed.
    run: Box<dyn FnMut(usize) -> Duration>,
}

/// Steps that have their turns in the same rounds.
pub(super) struct Question {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) steps: Vec<Step>,
}

impl Step {
    /// All of it is timed.
    pub(super) fn new(
        name: impl Into<String>,
        bytes: usize,
        mut unit: impl FnMut() + 'static,
    ) -> Self {
        Step::timed(name, bytes, move |units| {
            let began = Instant::now();
            (0..units).for_each(|_| unit());
            began.elapsed()
        })
    }

    /// It takes its time itself.
    pub(super) fn timed(
        name: impl Into<String>,
        bytes: usize,
        run: impl FnMut(usize) -> Duration + 'static,
    ) -> Self {
        Step { name: name.into(), beside: 0, bytes, run: Box::new(run) }
    }

    /// Held against another one than the first.
    pub(super) fn beside(self, beside: usize) -> Self {
        Step { beside, ..self }
    }

    /// As many units as fill a turn; warms up on the way.
    fn units(&mut self) -> usize {
        let mut units = 1;
        while (self.run)(units) < TURN {
            units *= 2;
        }
        units
    }
}

impl Question {
    /// Asks so many rounds, and prints a table.
    pub(super) fn answer(mut self, rounds: usize) {
        let units: Vec<usize> = self.steps.iter_mut().map(Step::units).collect();
        let count = self.steps.len();
        let mut costs = vec![Vec::new(); count];
        for round in 0..rounds {
            for turn in 0..count {
                // Each comes first in its turn.
                let index = (round + turn) % count;
                let took = (self.steps[index].run)(units[index]);
                costs[index].push(took.as_secs_f64() * 1e9 / units[index] as f64);
            }
        }
        let [title, unit] = [self.title, self.unit];
        println!("\n| {title} | ns per {unit} | GB/s | ratio: median (quartiles) |");
        println!("|---|---|---|---|");
        for (index, (step, cost)) in self.steps.iter().zip(&costs).enumerate() {
            let other = &costs[step.beside];
            let ratios = cost.iter().zip(other).map(|(cost, other)| cost / other).collect();
            let [low, median, high] = quartiles(ratios);
            let [_, ns, _] = quartiles(cost.clone());
            let rate = step.bytes as f64 / ns;
            let rate = if step.bytes > 0 { format!("{rate:.2}") } else { "-".to_owned() };
            let ratio = if step.beside == index {
                "-".to_owned()
            } else {
                format!("{median:.2} ({low:.2}-{high:.2}) of {}", self.steps[step.beside].name)
            };
            println!("| {} | {ns:.1} | {rate} | {ratio} |", step.name);
        }
    }
}

fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures[figures.len() * quarter / 4])
}
