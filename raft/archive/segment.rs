//! A segment of an archive: log entries in a file that only grows.
//!
//! Keeps true: every record has its length and a CRC-32 before it, so a record that was cut by a crash is seen and
//! nothing after it is believed; the first record says whose entries follow. Which segments make a history is left to
//! `folder.rs`.

use crate::{codec, types::Entry};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

const MAGIC: &[u8; 16] = b"trireme archive\n";

/// A moment of a store's history.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Position {
    /// The last log entry.
    pub(crate) index: u64,
    /// The revision that it led to.
    pub(crate) revision: i64,
    /// The time, in milliseconds since 1970.
    pub(crate) time: i64,
}

/// Whose entries a segment holds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Head {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    pub(crate) instance: u64,
}

/// One record. New kinds go to the end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Record {
    /// The first one.
    Head(Head),
    /// A log entry.
    Entry(Entry),
    /// Every change that was acknowledged up to this time is in entries up to this index.
    Mark(Position),
}

/// A segment being written.
pub(crate) struct Writer {
    file: BufWriter<File>,
    /// Bytes so far.
    pub(crate) bytes: u64,
}

impl Writer {
    /// Begins a new file.
    pub(crate) fn create(path: &Path, head: Head) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut writer = Self { file: BufWriter::new(file), bytes: 0 };
        writer.file.write_all(MAGIC)?;
        writer.add(&Record::Head(head))?;
        Ok(writer)
    }

    /// Adds a record.
    pub(crate) fn add(&mut self, record: &Record) -> io::Result<()> {
        let bytes = framed(record)?;
        self.bytes += bytes.len() as u64;
        self.file.write_all(&bytes)
    }

    /// Has everything on the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }
}

fn framed(record: &Record) -> io::Result<Vec<u8>> {
    let body = codec::encode(record);
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes()[..], &crc32fast::hash(&body).to_be_bytes(), &body].concat())
}

/// A segment being read.
pub(crate) struct Reader {
    file: BufReader<File>,
    /// Where the records end that were read.
    pub(crate) sound: u64,
    pub(crate) head: Head,
}

impl Reader {
    /// Opens a file and looks whose it is.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(invalid("it is no segment of an archive"));
        }
        let head = Head { cluster: 0, member: 0, instance: 0 };
        let mut reader = Self { file, sound: MAGIC.len() as u64, head };
        match reader.next()? {
            Some(Record::Head(head)) => Ok(Self { head, ..reader }),
            _ => Err(invalid("it does not say whose it is")),
        }
    }

    /// The next record; none at the end. An error is a record that is cut or damaged.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record>> {
        let mut head = [0; 8];
        match self.file.read(&mut head[..1])? {
            0 => return Ok(None),
            read => self.file.read_exact(&mut head[read..])?,
        }
        let (length, sum) = head.split_at(4);
        let length = u32::from_be_bytes(length.try_into().map_err(io::Error::other)?);
        if length as usize > codec::LIMIT {
            return Err(invalid("a record is too long"));
        }
        let mut body = vec![0; length as usize];
        self.file.read_exact(&mut body)?;
        if crc32fast::hash(&body).to_be_bytes() != sum {
            return Err(invalid("a record is damaged"));
        }
        let record = codec::decode(&body)?;
        self.sound += 8 + u64::from(length);
        Ok(Some(record))
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Put};
    use openraft::{EntryPayload, entry::RaftEntry};
    use proptest::prelude::*;

    const HEAD: Head = Head { cluster: 1, member: 2, instance: 3 };

    fn entry(index: u64, value: Vec<u8>) -> Entry {
        let put = Put { key: "k".into(), value: value.into(), ..Put::default() };
        let command = Command::At { time: 9, command: Box::new(Command::Put(put)) };
        let id = openraft::testing::log_id::<crate::types::TypeConfig>(1, 1, index);
        Entry::new(id, EntryPayload::Normal(command))
    }

    fn write(path: &Path, records: &[Record]) -> Vec<u8> {
        let mut writer = Writer::create(path, HEAD).unwrap();
        records.iter().for_each(|record| writer.add(record).unwrap());
        writer.sync().unwrap();
        std::fs::read(path).unwrap()
    }

    fn read(path: &Path) -> (Vec<Record>, bool) {
        let Ok(mut reader) = Reader::open(path) else { return (Vec::new(), false) };
        let mut records = Vec::new();
        loop {
            match reader.next() {
                Ok(Some(record)) => records.push(record),
                ended => return (records, ended.is_ok()),
            }
        }
    }

    #[test]
    fn the_format_is_frozen() {
        let folder = tempfile::tempdir().unwrap();
        let mark = Record::Mark(Position { index: 5, revision: 300, time: 9 });
        let bytes = write(&folder.path().join("s"), &[Record::Entry(entry(5, vec![7])), mark]);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expect = concat!(
            "7472697265 6d65206172636869766 50a",
            "00000005 51bf87a2 01 00 010203",
            "00000011 e7a0c929 01 01 010105 01 0812 00 016b 0107 00000000",
            "00000007 4c7407d5 01 02 05 fb5802 12"
        );
        assert_eq!(hex, expect.replace(' ', ""));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// After a cut or a flipped bit the records before it are read, and none that was not written.
        #[test]
        fn what_is_damaged_ends_the_segment(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..20),
            at in any::<prop::sample::Index>(), bit in 0..8,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let records: Vec<_> =
                (1..).zip(values).map(|(index, value)| Record::Entry(entry(index, value))).collect();
            let bytes = write(&path, &records);
            prop_assert_eq!(read(&path), (records.clone(), true));
            let at = at.index(bytes.len());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1u8 << bit;
            for changed in [&bytes[..at], &flipped[..]] {
                std::fs::write(&path, changed).unwrap();
                let (found, _) = read(&path);
                prop_assert!(records.starts_with(&found) && found.len() < records.len());
            }
        }
    }
}
