//! Points in time as the API writes them: RFC 3339 in UTC, to the second (`metav1.Time`) or microsecond
//! (`metav1.MicroTime`); and durations as kubectl shows them.

use jiff::Timestamp;

/// Now. The only clock of this crate.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// `2026-11-23T18:30:00Z`.
pub fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23T18:30:00.000000Z`.
pub fn format_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Now as [`format()`] writes it.
pub fn now_text() -> String {
    format(now())
}

/// Parses RFC 3339 with any offset and precision.
pub fn parse(text: &str) -> Option<Timestamp> {
    // jiff is laxer than RFC 3339: it takes a space for the T, and more.
    let b = text.as_bytes();
    (b.len() >= 20 && b[4] == b'-' && b[10] == b'T').then(|| text.parse().ok())?
}

/// A duration in seconds as kubectl shows ages: `5s`, `2m30s`, `10m`, `3h20m`, `10h`, `4d2h`, `30d`, `2y10d`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let s = seconds.max(0);
    let (minutes, hours) = (s / 60, s / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |n: i64, unit: &str, rest: i64, rest_unit: &str| match rest {
        0 => format!("{n}{unit}"),
        _ => format!("{n}{unit}{rest}{rest_unit}"),
    };
    match () {
        () if s < 120 => format!("{s}s"),
        () if minutes < 10 => pair(minutes, "m", s % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// How long ago `since` was, as kubectl shows it; `<unknown>` when it is absent or malformed.
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(parse) {
        Some(at) => human_duration(now.as_second() - at.as_second()),
        None => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let at = parse("2026-11-23T19:30:01.2345678+01:00").unwrap();
        assert_eq!(format(at), "2026-11-23T18:30:01Z");
        assert_eq!(format_micro(at), "2026-11-23T18:30:01.234567Z");
        for bad in ["", "2026-11-23", "2026-11-23 18:30:01Z", "yesterday, around noon"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ages() {
        for (seconds, expect) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (31_536_000, "365d"),
            (63_072_000 + 864_000, "2y10d"),
            (8 * 31_536_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), expect, "{seconds}");
        }
        assert_eq!(age(None, now()), "<unknown>");
    }
}
