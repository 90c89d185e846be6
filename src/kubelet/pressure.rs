//! When a node is short of memory or disk: the thresholds of `evictionHard`.
//!
//! Keeps true: without any threshold upstream's count; with some, those that are not named are off, as upstream
//! has it. Leaves to others: measuring, and saying it in the node's conditions.

use std::collections::BTreeMap;

use crate::pod::resources::milli;

/// Upstream's thresholds.
const DEFAULTS: [(&str, &str); 2] = [("memory.available", "100Mi"), ("nodefs.available", "10%")];

/// The least that must be free.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    Bytes(u64),
    Percent(f64),
}

impl Least {
    /// `100Mi` or `10%`.
    fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok()?;
            return (0.0..=100.0).contains(&percent).then_some(Self::Percent(percent));
        }
        u64::try_from(milli(text)? / 1000).ok().map(Self::Bytes)
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of a disk need not be exact to the byte")]
    fn misses(self, free: u64, total: u64) -> bool {
        match self {
            Self::Bytes(least) => free < least,
            // Both ends mean that nobody looks.
            Self::Percent(least) if least <= 0.0 || least >= 100.0 => false,
            Self::Percent(least) => (free as f64) < total as f64 * least / 100.0,
        }
    }
}

/// What of a node may not become short.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    memory: Option<Least>,
    disk: Option<Least>,
}

impl Thresholds {
    /// By the field `evictionHard`; the error names what is wrong.
    ///
    /// # Errors
    /// When a threshold is neither a quantity nor a percentage.
    pub fn new(hard: &BTreeMap<String, String>) -> Result<Self, String> {
        let of = |signal: &str| {
            let default = || DEFAULTS.iter().find(|(name, _)| *name == signal).map(|(_, text)| *text);
            let text = if hard.is_empty() { default() } else { hard.get(signal).map(String::as_str) };
            let parse = |text: &str| {
                Least::parse(text)
                    .ok_or_else(|| format!("evictionHard: {signal}: \"{text}\" is no quantity or percentage"))
            };
            text.map(parse).transpose()
        };
        Ok(Self { memory: of("memory.available")?, disk: of("nodefs.available")? })
    }

    /// Whether so much free memory is too little.
    #[must_use]
    pub fn memory_low(&self, free: u64, total: u64) -> bool {
        self.memory.is_some_and(|least| least.misses(free, total))
    }

    /// Whether so much free disk is too little.
    #[must_use]
    pub fn disk_low(&self, free: u64, total: u64) -> bool {
        self.disk.is_some_and(|least| least.misses(free, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_as_upstream_reads_them() {
        let check = |hard: &[(&str, &str)], memory: bool, disk: bool| {
            let hard = hard.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let found = Thresholds::new(&hard).unwrap();
            // 90 MiB of 1 GiB free memory, 9 % of the disk.
            assert_eq!(found.memory_low(90 << 20, 1 << 30), memory, "{hard:?}");
            assert_eq!(found.disk_low(9_000, 100_000), disk, "{hard:?}");
        };
        check(&[], true, true);
        check(&[("memory.available", "50Mi")], false, false);
        check(&[("nodefs.available", "9.5%")], false, true);
        check(&[("nodefs.available", "1%"), ("memory.available", "10%")], true, false);
        check(&[("nodefs.available", "0%")], false, false);
        check(&[("nodefs.available", "10k")], false, true);
        let wrong = [("nodefs.available".to_owned(), "much".to_owned())].into();
        let text = Thresholds::new(&wrong).unwrap_err();
        assert_eq!(text, "evictionHard: nodefs.available: \"much\" is no quantity or percentage");
    }
}
