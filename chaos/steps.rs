//! Telling the person at the terminal what is going on: one line per step with its time, and what a long step
//! waits for.

use std::time::{Duration, Instant};

use crate::Result;

/// After how long a step says what it waits for, and how often again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints steps to the standard output, or nothing.
pub struct Steps {
    quiet: bool,
}

/// What a running step may say.
pub struct Say {
    quiet: bool,
    last: Instant,
}

impl Steps {
    /// Prints a line per step.
    pub fn printed() -> Self {
        Self { quiet: false }
    }

    /// For tests.
    pub fn quiet() -> Self {
        Self { quiet: true }
    }

    /// The voice of a step that has no line of its own.
    pub fn say(&self) -> Say {
        Say { quiet: self.quiet, last: Instant::now() }
    }

    /// Performs a step.
    pub fn step<T>(&self, name: &str, work: impl FnOnce(&mut Say) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = work(&mut self.say());
        let mark = if done.is_ok() { "ok    " } else { "failed" };
        if !self.quiet {
            println!("{mark}  {name:<44} {:>6.1} s", start.elapsed().as_secs_f64());
        }
        done
    }
}

impl Say {
    /// Says what the step waits for, if that takes long.
    pub fn waiting(&mut self, text: &str) {
        if !self.quiet && self.last.elapsed() >= PATIENCE {
            println!("  …     {text}");
            self.last = Instant::now();
        }
    }
}
