//! The string formats of OpenAPI that Kubernetes checks. A format that is not known fits everything.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;

use crate::{name, time};

/// Whether a text is of this format.
pub(super) fn fits(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "mac" => mac(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => uuid(format, text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "datetime" | "date-time" => time::parse(text).is_some(),
        "duration" => duration(text),
        "hostname" => name::dns1123_subdomain(&text.to_lowercase()).is_empty(),
        "email" => {
            text.split_once('@').is_some_and(|(l, r)| !l.is_empty() && !r.is_empty() && !text.contains(' '))
        }
        "uri" => uri(text),
        "hexcolor" => hex(text.strip_prefix('#').unwrap_or(text), &[3, 6]),
        "bsonobjectid" => hex(text, &[24]),
        "k8s-short-name" => name::dns1123_label(text).is_empty(),
        "k8s-long-name" => name::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u8>() else { return false };
    address.parse::<Ipv4Addr>().is_ok() && bits <= 32 || address.parse::<Ipv6Addr>().is_ok() && bits <= 128
}

fn mac(text: &str) -> bool {
    let parts: Vec<_> = text.split([':', '-']).collect();
    [6, 8, 20].contains(&parts.len()) && parts.iter().all(|p| hex(p, &[2]))
}

fn uuid(format: &str, text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let version = format.strip_prefix("uuid").unwrap_or_default();
    hex(&plain, &[32]) && plain.get(12..13).is_some_and(|v| version.is_empty() || v == version)
}

fn uri(text: &str) -> bool {
    let scheme = |s: &str| s.starts_with(|c: char| c.is_ascii_alphabetic()) && !s.contains([' ', '/']);
    text.starts_with('/') || text.split_once(':').is_some_and(|(s, rest)| scheme(s) && !rest.contains(' '))
}

/// Go's durations: `1h30m`, `-1.5s`; a space before the unit as Scala has it.
fn duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut any = rest == "0";
    while !any || !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let after = rest[digits..].trim_start();
        let unit = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        if digits == 0 || !["ns", "us", "µs", "ms", "s", "m", "h", "d", "w"].contains(&&after[..unit]) {
            return false;
        }
        (rest, any) = (&after[unit..], true);
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("byte", "aGk=", "%"),
            ("date", "2026-01-01", "2026-1-1"),
            ("date-time", "2026-01-01T00:00:00Z", "now"),
            ("duration", "1h30m", "1x"),
            ("hostname", "Example.com", "-x"),
            ("email", "a@b", "a"),
            ("uri", "http://x/y", "x y"),
        ] {
            assert!(fits(format, good), "{format} {good}");
            assert!(!fits(format, bad), "{format} {bad}");
        }
        assert!(fits("anything", ""));
    }
}
