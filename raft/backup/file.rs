//! A state as a file: what `Maintenance.Snapshot` streams and `etcdctl snapshot save` writes down.
//!
//! Keeps true: the first bytes say what it is; then the chunks of `snapshot.rs`, each after its length, zeros up to a
//! multiple of a block, and the SHA-256 of all that, by which etcdctl knows a whole file. A file is handed out only
//! after its hash, every chunk and the number of items were checked: what is damaged is not half restored.

use super::BackupError;
use crate::{
    codec,
    image::{KV, META, STATE, Saved, TIME},
    record,
    snapshot::{self, Items},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 16] = b"trireme snapshot";
/// A file is a multiple of this, and its hash.
const BLOCK: u64 = 512;
const HASH: u64 = 32;
/// Where bbolt, etcd's database, says what it is, and how.
const BOLT: (usize, [u8; 4]) = (16, 0xED0C_DAED_u32.to_le_bytes());

/// Makes a file's bytes of chunks.
#[derive(Default)]
pub(crate) struct Framing {
    digest: Sha256,
    bytes: u64,
}

impl Framing {
    /// The bytes of the next chunk.
    pub(crate) fn chunk(&mut self, chunk: &[u8]) -> io::Result<Bytes> {
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?.to_be_bytes();
        let magic: &[u8] = if self.bytes == 0 { MAGIC } else { &[] };
        let bytes = [magic, &length, chunk].concat();
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.into())
    }

    /// How many bytes there are so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The last bytes, after all chunks.
    pub(crate) fn end(mut self) -> Bytes {
        let missing = self.bytes.next_multiple_of(BLOCK) - self.bytes;
        let mut tail = vec![0; usize::try_from(missing).expect("less than a block")];
        self.digest.update(&tail);
        tail.extend(self.digest.finalize());
        tail.into()
    }
}

/// What a file holds.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// The first bytes of the SHA-256 of its chunks.
    pub(crate) hash: u32,
    /// What was saved with the state.
    pub(crate) saved: Saved,
    /// When its newest change was made, in milliseconds since 1970; 0 if that is not known.
    pub(crate) time: i64,
    /// Revisions of keys.
    pub(crate) keys: u64,
    /// The file's size.
    pub(crate) size: u64,
}

/// A file that was checked.
pub(crate) struct SnapshotFile {
    path: PathBuf,
    body: u64,
    pub(crate) status: Status,
}

impl SnapshotFile {
    /// Checks a file whole.
    pub(crate) fn open(path: &Path, skip_hash: bool) -> Result<Self, BackupError> {
        let read = |source| BackupError::Read { path: path.into(), source };
        let mut file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        if let Some(what) = other_kind(&mut file).map_err(read)? {
            return Err(BackupError::NotSnapshot { path: path.into(), what });
        }
        let hashed = size % BLOCK == HASH;
        if !hashed && !skip_hash {
            return Err(BackupError::NoHash { path: path.into() });
        }
        let body = if hashed { size - HASH } else { size };
        let found = digest(&mut file, body).map_err(read)?;
        if hashed && !skip_hash {
            let mut expected = [0; HASH as usize];
            file.read_exact(&mut expected).map_err(read)?;
            if expected != found {
                let path = path.into();
                return Err(BackupError::WrongHash { path, expected: hex(&expected), found: hex(&found) });
            }
        }
        let hash = u32::from_be_bytes([found[0], found[1], found[2], found[3]]);
        let status = Status { hash, saved: Saved::default(), time: 0, keys: 0, size };
        let mut checked = Self { path: path.into(), body, status };
        checked.status = checked.examine().map_err(|source| checked.damaged(source))?;
        Ok(checked)
    }

    fn examine(&self) -> io::Result<Status> {
        let mut status = self.status.clone();
        let mut has_state = false;
        self.each(|part, items| {
            for (key, value) in &items {
                match (part, key.as_ref()) {
                    (KV, _) => {
                        record::check(value)?;
                        status.keys += 1;
                    }
                    (META, STATE) => (has_state, status.saved) = (true, codec::decode(value)?),
                    (META, TIME) => status.time = codec::decode(value)?,
                    _ => {}
                }
            }
            Ok(())
        })?;
        let none = || io::Error::new(io::ErrorKind::InvalidData, "it says nothing of a revision");
        has_state.then_some(status).ok_or_else(none)
    }

    /// Hands out everything that is in it, part after part.
    pub(crate) fn each(&self, visit: impl FnMut(&'static str, Items) -> io::Result<()>) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
        let chunks = BufReader::with_capacity(1 << 16, file.take(self.body - MAGIC.len() as u64));
        snapshot::each_item(chunks, visit)
    }

    /// What a failure to read it means, now that it was checked.
    pub(crate) fn damaged(&self, source: io::Error) -> BackupError {
        BackupError::Damaged { path: self.path.clone(), source }
    }
}

/// What a file is that does not begin as a snapshot does; `None` if it does.
fn other_kind(file: &mut File) -> io::Result<Option<&'static str>> {
    let mut head = Vec::new();
    (&mut *file).take(64).read_to_end(&mut head)?;
    Ok(match head.as_slice() {
        [] => Some("an empty file"),
        head if head.starts_with(MAGIC) => None,
        head if head.get(BOLT.0..BOLT.0 + 4) == Some(&BOLT.1) => {
            Some("an etcd's database (bbolt): etcdutl restores it, for an etcd")
        }
        _ => Some("something else: give it what `etcdctl snapshot save` wrote"),
    })
}

fn digest(file: &mut File, body: u64) -> io::Result<[u8; HASH as usize]> {
    file.rewind()?;
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 16];
    let mut body = (&mut *file).take(body);
    loop {
        match body.read(&mut block)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(&block[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::KeyValue,
        image::{LEASE, MEMBER},
    };
    use proptest::prelude::*;

    fn write(items: &[(&'static str, Items)]) -> tempfile::NamedTempFile {
        let mut framing = Framing::default();
        let chunks = snapshot::chunks_of(items).into_iter().map(|chunk| framing.chunk(&chunk).unwrap());
        let mut bytes = chunks.collect::<Vec<_>>().concat();
        bytes.extend(framing.end());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn state() -> (&'static str, Items) {
        let saved = Saved { revision: 300, compacted: 7, ..Saved::default() };
        (META, vec![(Bytes::from_static(STATE), codec::encode(&saved).into())])
    }

    #[test]
    fn the_format_is_frozen() {
        let lease = (LEASE, vec![(Bytes::from_static(b"77777777"), Bytes::from_static(&[1, 5]))]);
        let bytes = std::fs::read(write(&[lease, state()]).path()).unwrap();
        let expect = concat!(
            "7472697265 6d6520736e617073686f74",
            "00000010 01000101 08 3737373737373737 02 0105",
            "00000015 01000301 05 7374617465 0a 01 00 00 0000 fb5802 0e 00",
            "00000003 01 01 02"
        );
        assert_eq!(hex(&bytes[..68]), expect.replace(' ', ""));
        assert_eq!(bytes.len(), 512 + 32);
        assert_eq!(hex(&Sha256::digest(&bytes[..512])), hex(&bytes[512..]));
    }

    fn parts() -> impl Strategy<Value = Vec<(&'static str, Items)>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let items = prop::collection::vec((bytes(), bytes()), 1..20);
        let part = (prop::sample::select(vec![KV, LEASE, MEMBER]), items);
        prop::collection::vec(part.prop_map(|(part, items)| (part, records(part, items))), 0..20)
    }

    /// The items, as records where these belong.
    fn records(part: &str, items: Items) -> Items {
        let record = |value| record::encode(&KeyValue { value, ..KeyValue::default() }).into();
        let item = |(key, value)| (key, if part == KV { record(value) } else { value });
        items.into_iter().map(item).collect()
    }

    #[test]
    fn records_of_another_version_are_not_taken_for_whole() {
        let old = (KV, vec![(Bytes::from_static(b"123456789012"), Bytes::from_static(&[1, 1, b'k']))]);
        let refused = SnapshotFile::open(write(&[old, state()]).path(), false).err().unwrap();
        assert!(format!("{refused:?}").contains("record version 1 is not known"), "{refused:?}");
    }

    proptest! {
        /// Whatever is written is read, and after any change nothing is.
        #[test]
        fn a_file_is_read_as_it_was_written_or_not_at_all(
            mut parts in parts(), at in any::<prop::sample::Index>(), bit in 0..8, cut in any::<prop::sample::Index>()
        ) {
            parts.push(state());
            let file = write(&parts);
            let read = SnapshotFile::open(file.path(), false).unwrap();
            let mut found = Vec::new();
            read.each(|part, items| { found.push((part, items)); Ok(()) }).unwrap();
            prop_assert_eq!(&found, &parts);
            let keys = parts.iter().filter(|(part, _)| *part == KV).map(|(_, items)| items.len() as u64).sum::<u64>();
            prop_assert_eq!((read.status.keys, read.status.saved.revision), (keys, 300));
            let bytes = std::fs::read(file.path()).unwrap();
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= 1u8 << bit;
            std::fs::write(file.path(), changed).unwrap();
            prop_assert!(SnapshotFile::open(file.path(), false).is_err());
            std::fs::write(file.path(), &bytes[..cut.index(bytes.len())]).unwrap();
            prop_assert!(SnapshotFile::open(file.path(), false).is_err());
        }
    }
}
