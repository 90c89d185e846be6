//! What one measurement came to: figures by name, and how times become percentiles.

use std::collections::BTreeMap;
use std::time::Duration;

/// What can be measured, in the order in which it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Operations,
    Failed,
    Rate,
    P50,
    P99,
    Longest,
    Cpu,
    ClientCpu,
    Elections,
    Gap,
    Resident,
    Anonymous,
}

impl Figure {
    /// Its name and its unit.
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Operations => ("ops", ""),
            Self::Failed => ("failed", ""),
            Self::Rate => ("rate", "/s"),
            Self::P50 => ("p50", "ms"),
            Self::P99 => ("p99", "ms"),
            Self::Longest => ("longest", "ms"),
            Self::Cpu => ("cpu", "µs/op"),
            Self::ClientCpu => ("client-cpu", "µs/op"),
            Self::Elections => ("elections", ""),
            Self::Gap => ("gap", "ms"),
            Self::Resident => ("resident", "MB"),
            Self::Anonymous => ("anonymous", "MB"),
        }
    }
}

/// The figures of one measurement.
pub(crate) type Sample = BTreeMap<Figure, f64>;

/// How long single operations took, in microseconds.
#[derive(Default)]
pub(crate) struct Times(Vec<u32>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn join(all: impl IntoIterator<Item = Self>) -> Self {
        let mut times: Vec<u32> = all.into_iter().flat_map(|times| times.0).collect();
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Milliseconds within which this part of the sorted times lies (nearest rank); 0 when there are none.
    fn within(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }

    /// The figures that follow from the times alone.
    pub(crate) fn figures(&self, seconds: f64) -> Sample {
        let operations = self.count() as f64;
        Sample::from([
            (Figure::Operations, operations),
            (Figure::Rate, operations / seconds),
            (Figure::P50, self.within(0.5)),
            (Figure::P99, self.within(0.99)),
            (Figure::Longest, self.within(1.0)),
        ])
    }
}

/// The middle, the least and the greatest of some numbers.
pub(crate) fn spread(mut numbers: Vec<f64>) -> Option<(f64, f64, f64)> {
    numbers.sort_by(f64::total_cmp);
    let (first, last) = (*numbers.first()?, *numbers.last()?);
    let middle = (numbers[(numbers.len() - 1) / 2] + numbers[numbers.len() / 2]) / 2.0;
    Some((middle, first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut times = Times::default();
        (1..=200).rev().for_each(|ms| times.add(Duration::from_millis(ms)));
        let figures = Times::join([times]).figures(2.0);
        let check = |figure, expect: f64| assert_eq!(figures[&figure], expect, "{figure:?}");
        check(Figure::Operations, 200.0);
        check(Figure::Rate, 100.0);
        check(Figure::P50, 100.0);
        check(Figure::P99, 198.0);
        check(Figure::Longest, 200.0);
        assert_eq!(Times::default().figures(1.0)[&Figure::P50], 0.0);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        let check = |numbers: &[f64], expect| assert_eq!(spread(numbers.to_vec()), expect, "{numbers:?}");
        check(&[], None);
        check(&[3.0], Some((3.0, 3.0, 3.0)));
        check(&[5.0, 1.0, 2.0], Some((2.0, 1.0, 5.0)));
        check(&[4.0, 1.0, 2.0, 9.0], Some((3.0, 1.0, 9.0)));
    }
}
