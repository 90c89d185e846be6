//! Quantities (`100m`, `1Gi`, `0.5`, `1e3`): parsed, compared, added, and written in Kubernetes' canonical
//! form.
//!
//! Keeps true: a value is exact to 10⁻⁹, which is all that Kubernetes keeps (smaller parts are rounded up).

use std::{cmp::Ordering, fmt, str::FromStr};

/// How a quantity was written, and so how it is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Powers of 1000: `n u m k M G T P E`.
    #[default]
    DecimalSi,
    /// Powers of 1024: `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// An amount of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// The text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

const NANO: i128 = 1_000_000_000;
/// Values are capped where Kubernetes caps them: at 2⁶³-1.
const MAX: i128 = i64::MAX as i128 * NANO;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// A whole number.
    pub fn new(value: i64) -> Self {
        Self { nano: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// Thousandths, as CPUs are counted.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A whole number of bytes, written with `Ki`, `Mi`, ….
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nano: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// The value, rounded up to a whole number.
    pub fn value(&self) -> i64 {
        saturate(ceil_div(self.nano, NANO))
    }

    /// The value in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        saturate(ceil_div(self.nano, NANO / 1000))
    }

    /// Whether this is zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        i32::try_from(self.nano.signum()).expect("a sign")
    }

    /// The sum; the format is this one's unless this is zero.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: cap(self.nano + other.nano), format }
    }

    /// The difference; the format is this one's unless this is zero.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.add(&Self { nano: -other.nano, format: other.format })
    }

    fn write_decimal(&self, f: &mut fmt::Formatter<'_>, exponent: bool) -> fmt::Result {
        let (mut mantissa, mut power) = (self.nano, -9);
        while mantissa != 0 && mantissa % 1000 == 0 && power < 18 {
            mantissa /= 1000;
            power += 3;
        }
        match (mantissa, exponent, power) {
            (0, ..) => f.write_str("0"),
            (_, true, 0) => write!(f, "{mantissa}"),
            (_, true, _) => write!(f, "{mantissa}e{power}"),
            _ => {
                let suffix = DECIMAL.iter().find(|(_, p)| *p == power).map_or("", |(s, _)| s);
                write!(f, "{mantissa}{suffix}")
            }
        }
    }

    fn write_binary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano.abs() < 1024 * NANO {
            return self.write_decimal(f, false);
        }
        let (mut mantissa, mut suffix) = (ceil_div(self.nano, NANO), "");
        for next in BINARY {
            if mantissa % 1024 != 0 {
                break;
            }
            (mantissa, suffix) = (mantissa / 1024, next);
        }
        write!(f, "{mantissa}{suffix}")
    }
}

/// Division that rounds away from zero, as Kubernetes rounds.
fn ceil_div(n: i128, by: i128) -> i128 {
    let (quotient, rest) = (n / by, n % by);
    quotient + rest.signum()
}

fn cap(nano: i128) -> i128 {
    nano.clamp(-MAX, MAX)
}

fn saturate(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

/// What a suffix means: format, and the factor as (multiply, divide).
fn suffix(text: &str) -> Option<(Format, i128, i128)> {
    if let Some(i) = BINARY.iter().position(|s| *s == text) {
        return Some((Format::BinarySi, 1 << (10 * (i + 1)), 1));
    }
    let power = |p: i32| match u32::try_from(p) {
        Ok(p) => (10_i128.pow(p), 1),
        Err(_) => (1, 10_i128.pow(p.unsigned_abs())),
    };
    if let Some((_, p)) = DECIMAL.iter().find(|(s, _)| *s == text) {
        let (multiply, divide) = power(*p);
        return Some((Format::DecimalSi, multiply, divide));
    }
    let exponent = text.strip_prefix(['e', 'E'])?;
    // Beyond ±30 every value is capped or rounded anyway.
    let p = exponent.parse::<i32>().ok()?.clamp(-30, 30);
    let (multiply, divide) = power(p);
    Some((Format::DecimalExponent, multiply, divide))
}

/// Digits with an optional point: as a number and how many digits were behind the point.
fn digits(text: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if (whole.is_empty() && fraction.is_empty()) || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    if fraction.contains('.') {
        return None;
    }
    // Beyond 18 digits nothing can matter: what is larger is capped, what is smaller is rounded up.
    let kept = &fraction[..fraction.len().min(18)];
    let lost = fraction[kept.len()..].bytes().any(|b| b != b'0');
    let mut number: i128 = 0;
    for b in whole.bytes().chain(kept.bytes()) {
        number = number.saturating_mul(10).saturating_add(i128::from(b - b'0'));
    }
    Some((number.saturating_add(i128::from(lost)), u32::try_from(kept.len()).ok()?))
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, places) = digits(&unsigned[..end]).ok_or(ParseError)?;
        let (format, multiply, divide) = suffix(&unsigned[end..]).ok_or(ParseError)?;
        // A factor at a time, so that 10¹⁸ with 18 places neither overflows nor loses a digit that counts.
        let scale = 10_i128.checked_pow(places).and_then(|s| s.checked_mul(divide)).ok_or(ParseError)?;
        let factor = multiply.saturating_mul(NANO);
        let nano = match number.checked_mul(factor) {
            Some(product) => ceil_div(product, scale),
            None => (number / scale).saturating_mul(factor),
        };
        let nano = if text.starts_with('-') { -nano } else { nano };
        Ok(Self { nano: cap(nano), format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.format {
            Format::DecimalSi => self.write_decimal(f, false),
            Format::BinarySi => self.write_binary(f),
            Format::DecimalExponent => self.write_decimal(f, true),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// The canonical form of a JSON quantity (a string or a number).
pub fn canonical(value: &serde_json::Value) -> Result<String, ParseError> {
    match value {
        serde_json::Value::String(s) => Ok(s.parse::<Quantity>()?.to_string()),
        serde_json::Value::Number(n) => Ok(n.to_string().parse::<Quantity>()?.to_string()),
        _ => Err(ParseError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, expect) in [
            ("100m", "100m"),
            ("0.5", "500m"),
            ("1Gi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1500m", "1500m"),
            ("2000m", "2"),
            ("1000k", "1M"),
            ("0", "0"),
            ("0Gi", "0"),
            ("512Ki", "512Ki"),
            ("1023", "1023"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e5", "1200e3"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("-1.5", "-1500m"),
            ("+3", "3"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.1n", "1n"),
            ("1000000", "1M"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("9223372036854775807", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("0.000000000000000000000001", "1n"),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), expect, "{text}");
        }
        for bad in ["", "-", ".", "1.2.3", "1 Gi", "Gi", "1gi", "1e", "0x1", "1m1"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!(q("1Gi").add(&q("512Mi")).to_string(), "1536Mi");
        assert_eq!(q("1").sub(&q("100m")).to_string(), "900m");
        assert_eq!(q("250m").milli_value(), 250);
        assert_eq!(q("1.2").value(), 2);
        assert!(q("1Ki") > q("1k"));
        assert_eq!(q("1"), q("1000m"));
    }
}
