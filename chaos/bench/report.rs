//! What came out: a line per measurement for programs, a table of medians and goals for people.

use std::fmt::Write;

use chaos::members::Kind;

use crate::rows::{Bound, Goal, ROWS, Row};
use crate::sample::{Figure, Sample, spread};

/// All measurements so far.
#[derive(Default)]
pub(crate) struct Report {
    done: Vec<Done>,
    failed: Vec<String>,
}

struct Done {
    row: &'static str,
    store: &'static str,
    sample: Sample,
}

impl Report {
    /// Takes a measurement in and prints its lines.
    pub(crate) fn add(
        &mut self,
        row: &'static Row,
        round: usize,
        kind: &Kind,
        done: Result<Vec<Sample>, String>,
    ) {
        let head = format!("row={} round={round} store={}", row.name, kind.name());
        match done {
            Ok(samples) => {
                for sample in samples {
                    println!("{head}{} load={}", words(&sample), load());
                    self.failed.extend(wrong(row, &sample).map(|why| format!("{head}: {why}")));
                    self.done.push(Done { row: row.name, store: kind.name(), sample });
                }
            }
            Err(error) => {
                println!("{head} error={error:?}");
                self.failed.push(format!("{head}: {error}"));
            }
        }
    }

    /// Whether every measurement counts.
    pub(crate) fn good(&self) -> bool {
        self.failed.is_empty() && !self.done.is_empty()
    }

    /// The table, and the measurements that do not count.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "\n{:<10} {:<16} {:>26} {:>26} {:>8}  {:<10} \n",
            "row", "figure", "trireme", "etcd", "ratio", "goal"
        );
        for row in ROWS.iter().filter(|row| self.done.iter().any(|done| done.row == row.name)) {
            for goal in row.goals {
                let _ = writeln!(text, "{}", self.line(row.name, goal));
            }
        }
        for why in &self.failed {
            let _ = writeln!(text, "FAILED {why}");
        }
        text
    }

    fn line(&self, row: &str, goal: &Goal) -> String {
        let (ours, etcd) = (self.spread(row, "trireme", goal.figure), self.spread(row, "etcd", goal.figure));
        let ratio = ours.zip(etcd).and_then(|(ours, etcd)| (etcd.0 > 0.0).then(|| ours.0 / etcd.0));
        let met = match goal.bound {
            Bound::AtLeast(times) => ratio.map(|ratio| ratio >= times),
            Bound::AtMost(times) => ratio.map(|ratio| ratio <= times),
            Bound::Below(most) => ours.map(|ours| ours.0 <= most),
        };
        let (name, unit) = goal.figure.words();
        format!(
            "{row:<10} {:<16} {:>26} {:>26} {:>8}  {:<10} {}",
            format!("{name} {unit}"),
            text(ours),
            text(etcd),
            ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")),
            bound(goal.bound),
            met.map_or("", |met| if met { "met" } else { "MISSED" }),
        )
    }

    fn spread(&self, row: &str, store: &str, figure: Figure) -> Option<(f64, f64, f64)> {
        let those = self.done.iter().filter(|done| done.row == row && done.store == store);
        spread(those.filter_map(|done| done.sample.get(&figure).copied()).collect())
    }
}

/// Why a measurement does not count.
fn wrong(row: &Row, sample: &Sample) -> Option<String> {
    let of = |figure| sample.get(&figure).copied().unwrap_or_default();
    let (done, failed) = (of(Figure::Operations), of(Figure::Failed));
    if failed > 0.0 {
        return Some(format!("{failed} operations failed"));
    }
    (done < row.least).then(|| format!("{done} operations are too few: at least {}", row.least))
}

fn words(sample: &Sample) -> String {
    let word = |(figure, number): (&Figure, &f64)| format!(" {}={}", figure.words().0, short(*number));
    sample.iter().map(word).collect()
}

/// Three digits, or all before the point.
fn short(number: f64) -> String {
    match number {
        n if n.fract() == 0.0 || n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

fn text(spread: Option<(f64, f64, f64)>) -> String {
    let range = |(middle, least, most)| format!("{} ({} to {})", short(middle), short(least), short(most));
    spread.map_or("-".into(), range)
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(times) => format!(">= {}x", short(times)),
        Bound::AtMost(times) => format!("<= {}x", short(times)),
        Bound::Below(most) => format!("<= {}", short(most)),
    }
}

/// The machine's load of the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ours: &[f64], etcd: &[f64]) -> Report {
        let done = |store| {
            move |rate: &f64| {
                let sample = Sample::from([(Figure::Rate, *rate), (Figure::Operations, 1e6)]);
                Done { row: "gets", store, sample }
            }
        };
        let done = ours.iter().map(done("trireme")).chain(etcd.iter().map(done("etcd"))).collect();
        Report { done, failed: Vec::new() }
    }

    #[test]
    fn goals_are_judged_by_the_medians() {
        let check = |ours: &[f64], etcd: &[f64], expect: &str| {
            let text = report(ours, etcd).table();
            let line = text.lines().find(|line| line.starts_with("gets       rate")).unwrap();
            assert!(line.trim_end().ends_with(expect), "{line}");
        };
        check(&[10.0, 30.0, 90.0], &[10.0, 10.0, 10.0], "3.00  >= 3x      met");
        check(&[10.0, 29.0, 90.0], &[10.0, 10.0, 10.0], "2.90  >= 3x      MISSED");
        check(&[10.0], &[], "-  >= 3x");
    }

    #[test]
    fn a_run_that_did_too_little_does_not_count() {
        let row = ROWS.iter().find(|row| row.name == "gets").unwrap();
        let check = |operations: f64, failed: f64, counts: bool| {
            let sample = Sample::from([(Figure::Operations, operations), (Figure::Failed, failed)]);
            assert_eq!(wrong(row, &sample).is_none(), counts, "{operations} {failed}");
        };
        check(row.least, 0.0, true);
        check(row.least - 1.0, 0.0, false);
        check(row.least, 1.0, false);
        assert!(!Report::default().good());
    }
}
