//! Bytes of everything this store writes to its disk (but for keys' records, `record.rs`) or sends to a peer.
//!
//! Keeps true: one format in one place (a version byte, then bincode 2's standard configuration with a limit), so
//! that a format can be replaced; bytes of another version or with a tail are refused, never guessed at. What the
//! values mean is left to their modules. The formats are frozen by the test at the end.

use serde::{Serialize, de::DeserializeOwned};
use std::{cell::RefCell, io};

/// The format of every record and message.
const VERSION: u8 = 1;

/// No record or message is larger: a snapshot travels in chunks, append batches are cut well below.
pub(crate) const LIMIT: usize = 64 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Bytes that a thread keeps for its next value, at most.
const SCRATCH: usize = 1 << 20;

thread_local! {
    /// Where a value grows before its size is known.
    static GROWING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The versioned bytes of a value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    GROWING.with_borrow_mut(|bytes| {
        bytes.clear();
        bytes.push(VERSION);
        bincode::serde::encode_into_std_write(value, bytes, bincode::config::standard())
            .expect("values of this crate are plain data and memory does not refuse writes");
        let exact = bytes.clone();
        bytes.clear();
        bytes.shrink_to(SCRATCH);
        exact
    })
}

/// The value of versioned bytes; `Unsupported` for those of another version, `InvalidData` for anything else.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => decode_body(rest),
        Some((version, _)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("format version {version} is not known to this program"),
        )),
        None => Err(invalid("empty record".into())),
    }
}

fn decode_body<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    let (value, used) =
        bincode::serde::decode_from_slice(body, config()).map_err(|error| invalid(error.to_string()))?;
    if used == body.len() { Ok(value) } else { Err(invalid("trailing bytes after a record".into())) }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Alarm, AlarmKind, Command, Compare, Comparison, KeyValue, Op, Put, Target, Txn};
    use bytes::Bytes;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn formats_are_frozen() {
        // As peers send it; on the disk it is another, `record.rs`.
        let record = KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            create: 2,
            modified: 300,
            version: 3,
            lease: 7,
        };
        assert_eq!(hex(&encode(&record)), "01016b017604fb5802060e");
        let put = Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v"), ..Put::default() };
        let txn = Command::Txn(Txn {
            compare: vec![Compare {
                key: Bytes::from_static(b"k"),
                end: Bytes::new(),
                comparison: Comparison::Equal,
                target: Target::Modified(5),
            }],
            success: vec![Op::Put(put)],
            failure: vec![],
        });
        assert_eq!(hex(&encode(&txn)), "010201016b0000020a0101016b01760000000000");
        assert_eq!(decode::<Command>(&encode(&txn)).unwrap(), txn);
        let alarm = Command::Alarm { alarm: Alarm { kind: AlarmKind::Corrupt, member: 9 }, raise: true };
        assert_eq!(hex(&encode(&alarm)), "0107010901");
        assert_eq!(hex(&encode(&AlarmKind::DiskFull)), "0102");
        let at = Command::At { time: 1_764_000_000_000, command: Box::new(Command::Compact(5)) };
        assert_eq!(hex(&encode(&at)), "0108fd00d02f6d35030000030a");
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&[][..], &[2, 1], &[1], &[1, 3, b'a', b'b'], &[1, 1, b'a', b'b']] {
            assert!(decode::<Bytes>(bytes).is_err(), "{bytes:?}");
        }
    }
}
