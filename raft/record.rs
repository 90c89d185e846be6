//! A key at a revision, as bytes: on the disk, and in answers to clients.
//!
//! Keeps true: after a version byte a record on the disk is etcd's `KeyValue` message, so that a read hands it on
//! without looking at it. What the fields mean is left to `command.rs`, other formats to `codec.rs`.

use crate::command::KeyValue;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::io;

/// The format of a record on the disk; 1 was another.
const VERSION: u8 = 2;

/// Bytes of records that are read into one piece of memory; a larger record has one of its own.
const PIECE: usize = 64 << 10;

/// A `KeyValue` message.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Record(Bytes);

impl Record {
    /// Its message.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// What it says.
    pub(crate) fn open(&self) -> io::Result<KeyValue> {
        KeyValue::decode(self.0.clone()).map_err(invalid)
    }
}

impl From<&KeyValue> for Record {
    fn from(kv: &KeyValue) -> Self {
        Self(kv.encode_to_vec().into())
    }
}

/// As it lies on the disk.
pub(crate) fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + kv.encoded_len());
    bytes.put_u8(VERSION);
    kv.encode(&mut bytes).expect("a vector has room");
    bytes
}

/// Whether bytes from the disk are a record of this version; errors are those of [`decode`].
pub(crate) fn check(bytes: &[u8]) -> io::Result<()> {
    message(bytes).map(drop)
}

/// From the disk; `Unsupported` for another version, `InvalidData` for anything else.
pub(crate) fn decode(bytes: &[u8]) -> io::Result<KeyValue> {
    KeyValue::decode(message(bytes)?).map_err(invalid)
}

fn message(bytes: &[u8]) -> io::Result<&[u8]> {
    match bytes.split_first() {
        Some((&VERSION, message)) => Ok(message),
        Some((version, _)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("record version {version} is not known to this program"),
        )),
        None => Err(invalid("empty record")),
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Copies records from the disk, many into one piece of memory.
pub(crate) struct Reader {
    piece: BytesMut,
    size: usize,
}

impl Reader {
    /// For so many records.
    pub(crate) fn new(records: usize) -> Self {
        Self { piece: BytesMut::new(), size: if records > 1 { PIECE } else { 0 } }
    }

    /// A record that lies on the disk as these bytes. Errors are those of [`decode`], but what the message says is not
    /// looked at.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> io::Result<Record> {
        let message = message(bytes)?;
        if self.piece.capacity() - self.piece.len() < message.len() {
            self.piece = BytesMut::with_capacity(self.size.max(message.len()));
        }
        self.piece.extend_from_slice(message);
        Ok(Record(self.piece.split().freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::pb;

    fn sample() -> KeyValue {
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
        KeyValue { key, value, create: 2, modified: 300, version: 3, lease: 7 }
    }

    #[test]
    fn the_format_is_frozen_and_etcds() {
        let bytes = encode(&sample());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "020a016b100218ac0220032a01763007");
        assert_eq!(decode(&bytes).unwrap(), sample());
        let wire = pb::KeyValue::decode(&bytes[1..]).unwrap();
        let told = (
            &wire.key[..],
            &wire.value[..],
            wire.create_revision,
            wire.mod_revision,
            wire.version,
            wire.lease,
        );
        assert_eq!(told, (&b"k"[..], &b"v"[..], 2, 300, 3, 7));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&[][..], &[1, 1, b'k'], &[2, 10, 9, b'k'], &[3]] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(decode(&[1, 1, b'k']).unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert!(Reader::new(1).read(&[1]).is_err());
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut reader = Reader::new(8);
        let sizes = [0, 1, PIECE / 3, PIECE / 2, PIECE / 2, PIECE - 9, 3 * PIECE, 5];
        let kvs = sizes.map(|size| KeyValue { value: vec![b'x'; size].into(), ..sample() });
        let records: Vec<Record> = kvs.iter().map(|kv| reader.read(&encode(kv)).unwrap()).collect();
        for (record, kv) in records.iter().zip(&kvs) {
            assert_eq!((&record.open().unwrap(), record), (kv, &Record::from(kv)));
        }
    }
}
