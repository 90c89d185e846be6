//! Container logs in the CRI format: reading with all of `kubectl logs`' options, following, and rotation.
//! Keeps true: a follower sees every line once, also over a rotation. Where a log lies is decided in `pod`.

use std::{
    fs,
    io::SeekFrom,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader},
    sync::mpsc::Sender,
};

/// How long a follower waits before it looks for more.
const POLL: Duration = Duration::from_millis(100);
/// A block of a file read backwards.
const BLOCK: u64 = 64 << 10;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Each line with its time.
    pub timestamps: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// Stop after so many bytes.
    pub limit: Option<usize>,
    /// Only this stream (`stdout`, `stderr`).
    pub stream: Option<String>,
}

/// A line of a CRI log: `TIME STREAM FLAG TEXT`.
fn split(line: &str) -> Option<(&str, &str, bool, &str)> {
    let mut parts = line.splitn(4, ' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    Some((time, stream, tag.starts_with('P'), parts.next().unwrap_or_default()))
}

/// What is shown of a line; `None` when it is not wanted. A partial line has no line feed.
fn shown(line: &str, options: &Options) -> Option<Vec<u8>> {
    let (time, stream, partial, text) = split(line)?;
    if options.stream.as_deref().is_some_and(|wanted| wanted != stream) {
        return None;
    }
    if let (Some(since), Ok(at)) = (options.since, time.parse::<Timestamp>())
        && at < since
    {
        return None;
    }
    let mut out = Vec::with_capacity(line.len() + 1);
    if options.timestamps {
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(text.as_bytes());
    if !partial {
        out.push(b'\n');
    }
    Some(out)
}

/// Where the last `lines` lines of a file begin.
async fn tail_start(file: &mut File, lines: usize) -> std::io::Result<u64> {
    let length = file.seek(SeekFrom::End(0)).await?;
    let (mut end, mut found) = (length, 0_usize);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block).await?;
        for (at, byte) in block.iter().enumerate().rev() {
            let position = start + u64::try_from(at).unwrap_or(0);
            if *byte == b'\n' && position + 1 < length {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// Reads a log into `send` until its end, or while `alive` says so when following.
///
/// # Errors
/// When the file cannot be opened or read.
pub async fn read<F, Fut>(
    path: PathBuf,
    options: Options,
    send: Sender<Bytes>,
    alive: F,
) -> std::io::Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let mut file = File::open(&path).await?;
    let start = match options.tail {
        Some(0) => file.seek(SeekFrom::End(0)).await?,
        Some(lines) => tail_start(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let mut reader = BufReader::new(file);
    let mut left = options.limit.unwrap_or(usize::MAX);
    let mut line = Vec::new();
    let mut last_look = false;
    loop {
        let count = reader.read_until(b'\n', &mut line).await?;
        if line.last() == Some(&b'\n') {
            line.pop();
            if let Some(mut out) = shown(&String::from_utf8_lossy(&line), &options) {
                out.truncate(left);
                left -= out.len();
                if send.send(out.into()).await.is_err() || left == 0 {
                    return Ok(());
                }
            }
            line.clear();
            continue;
        }
        if count > 0 {
            continue;
        }
        if !options.follow || last_look || send.is_closed() {
            return Ok(());
        }
        if let Some(fresh) = reopened(&path, &mut reader).await {
            reader = fresh;
            continue;
        }
        // What was written before the end is read once more.
        last_look = !alive().await;
        if !last_look {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The new file when the log was rotated away under the reader.
async fn reopened(path: &Path, reader: &mut BufReader<File>) -> Option<BufReader<File>> {
    use std::os::unix::fs::MetadataExt;
    let here = reader.get_ref().metadata().await.ok()?;
    let there = tokio::fs::metadata(path).await.ok()?;
    if here.ino() == there.ino() {
        return None;
    }
    Some(BufReader::new(File::open(path).await.ok()?))
}

/// The last lines of a log as text, for termination messages.
#[must_use]
pub fn last_lines(path: &Path, lines: usize, bytes: usize) -> String {
    use std::io::{Read, Seek};
    let mut raw = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BLOCK)))?;
        file.read_to_end(&mut raw)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&raw);
    let options = Options::default();
    let all: Vec<Vec<u8>> = text.lines().filter_map(|line| shown(line, &options)).collect();
    let joined = all[all.len().saturating_sub(lines)..].concat();
    String::from_utf8_lossy(&joined[joined.len().saturating_sub(bytes)..]).into_owned()
}

/// Moves a log that has become too large away; the caller asks the runtime for a new one. True when moved.
///
/// # Errors
/// When the files cannot be renamed.
pub fn rotate(path: &Path, size: u64, files: usize) -> std::io::Result<bool> {
    if fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0) < size {
        return Ok(false);
    }
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S");
    fs::rename(path, format!("{}.{stamp}", path.display()))?;
    let mut old = rotated(path);
    old.sort();
    for file in old.iter().take(old.len().saturating_sub(files - 1)) {
        fs::remove_file(file)?;
    }
    Ok(true)
}

fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_ours = |file: &PathBuf| {
        file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
    };
    entries.filter(is_ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_as_asked() {
        let line = "2026-11-23T10:00:00.000000001Z stdout F hello world";
        let check = |options: Options, expect: Option<&str>| {
            let out = shown(line, &options).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(out.as_deref(), expect);
        };
        check(Options::default(), Some("hello world\n"));
        check(
            Options { timestamps: true, ..Options::default() },
            Some("2026-11-23T10:00:00.000000001Z hello world\n"),
        );
        check(Options { stream: Some("stderr".into()), ..Options::default() }, None);
        check(Options { since: Some("2026-11-24T00:00:00Z".parse().unwrap()), ..Options::default() }, None);
        assert_eq!(shown("2026-11-23T10:00:00Z stdout P part", &Options::default()).unwrap(), b"part");
    }

    #[tokio::test]
    async fn tails() {
        let path = std::env::temp_dir().join(format!("trireme-log-{}", uuid::Uuid::new_v4()));
        let text: String = (0..10).map(|n| format!("2026-11-23T10:00:00Z stdout F {n}\n")).collect();
        fs::write(&path, text).unwrap();
        let (send, mut receive) = tokio::sync::mpsc::channel(100);
        let options = Options { tail: Some(2), ..Options::default() };
        read(path.clone(), options, send, async || false).await.unwrap();
        let mut out = Vec::new();
        while let Some(bytes) = receive.recv().await {
            out.extend_from_slice(&bytes);
        }
        assert_eq!(String::from_utf8(out).unwrap(), "8\n9\n");
        assert_eq!(last_lines(&path, 3, 100), "7\n8\n9\n");
        fs::remove_file(path).unwrap();
    }
}
