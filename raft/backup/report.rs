//! What the commands print.

use super::{file::Status, flags::WriteOut, reach::Way, target::Outcome};
use crate::archive::Position;

/// A file's status in etcdutl's forms.
pub(crate) fn status(status: &Status, form: WriteOut) -> String {
    let (hash, revision) = (status.hash, status.saved.revision);
    let (keys, size) = (status.keys, bytes(status.size));
    match form {
        WriteOut::Simple => format!("{hash:x}, {revision}, {keys}, {size}"),
        WriteOut::Json => serde_json::json!({
            "hash": hash, "revision": revision, "totalKey": keys, "totalSize": status.size,
            "compactRevision": status.saved.compacted,
        })
        .to_string(),
        WriteOut::Table => table(&[
            ("HASH", format!("{hash:x}")),
            ("REVISION", revision.to_string()),
            ("TOTAL KEYS", keys.to_string()),
            ("TOTAL SIZE", size),
            ("COMPACT REVISION", status.saved.compacted.to_string()),
        ]),
    }
}

/// What was made of what.
pub(crate) fn restored(made: &Outcome) -> String {
    let Outcome { data_dir, restored, revision, compacted, cluster, member } = made;
    format!(
        "restored revision {restored} into {}\nmember {member:x} of cluster {cluster:x}, which begins at revision \
         {revision}, compacted at {compacted}",
        data_dir.display()
    )
}

/// Which moment of an archive was reached.
pub(crate) fn reached(at: Position, way: &Way) -> String {
    format!(
        "reached revision {} of {}, from {}",
        at.revision,
        time(at.time),
        way.base.path.parent().unwrap_or(&way.base.path).display()
    )
}

/// A time for people.
pub(crate) fn time(milliseconds: i64) -> String {
    match jiff::Timestamp::from_millisecond(milliseconds) {
        Ok(time) if milliseconds > 0 => time.to_string(),
        _ => "an unknown time".into(),
    }
}

/// One row under its headings.
fn table(columns: &[(&str, String)]) -> String {
    let widths = columns.iter().map(|(head, cell)| head.len().max(cell.len()));
    let widths: Vec<usize> = widths.collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} "));
        format!("|{}|", cells.collect::<Vec<_>>().join("|"))
    };
    let rule = format!("+{}+", widths.iter().map(|w| "-".repeat(w + 2)).collect::<Vec<_>>().join("+"));
    let heads = line(columns.iter().map(|(head, _)| *head).collect());
    let cells = line(columns.iter().map(|(_, cell)| cell.as_str()).collect());
    [rule.clone(), heads, rule.clone(), cells, rule].join("\n")
}

/// A size for people, as etcdutl writes it.
fn bytes(size: u64) -> String {
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter().peekable();
    let mut scaled = size as f64;
    while scaled >= 1000.0 && units.len() > 1 {
        scaled /= 1000.0;
        units.next();
    }
    let unit = units.next().unwrap_or("TB");
    if scaled < 10.0 && size >= 1000 { format!("{scaled:.1} {unit}") } else { format!("{scaled:.0} {unit}") }
}
