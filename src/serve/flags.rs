//! Command-line values in the forms that Kubernetes and etcd accept, configuration files, and what can be wrong with
//! either.

use serde::de::DeserializeOwned;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Why a component's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag or a field of the configuration file is wrong.
    #[error("{what}: {why}")]
    Value {
        /// What is wrong.
        what: String,
        /// Why.
        why: String,
    },
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: check --config", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// A wrong flag or field.
#[must_use]
pub fn invalid(what: &str, why: &str) -> ConfigError {
    ConfigError::Value { what: what.to_owned(), why: why.to_owned() }
}

/// What the configuration file says, if there is one.
///
/// # Errors
/// When it cannot be read, or is not what it should be.
pub fn file<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, ConfigError> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|e| invalid(&format!("{} is not usable", path.display()), &e.to_string()))
}

/// A duration as Go writes it: `10s`, `1m30s`, `1.5h`, `500ms`, `0`. Negative durations are refused.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let invalid = || format!("time: invalid duration \"{text}\": expected for example 10s, 1m30s or 500ms");
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number * seconds(&rest[..unit]).ok_or_else(invalid)?;
        rest = &rest[unit..];
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        let check = |text: &str, millis: Option<u128>| {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), millis, "{text}");
        };
        check("10s", Some(10_000));
        check("1m30s", Some(90_000));
        check("500ms", Some(500));
        check("1.5h", Some(5_400_000));
        check("0", Some(0));
        for bad in ["", "5", "s", "-1s", "1x", "1s2"] {
            check(bad, None);
        }
    }
}
