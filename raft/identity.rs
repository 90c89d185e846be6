//! Whose a data directory is, and what becomes of a damaged one.
//!
//! Keeps true: the record of it is whole or known to be damaged; it is on the disk before anything else is; damaged
//! data is set aside, not removed, and the newest of it is kept. Whether a member may go on with a directory is
//! decided in `run.rs` and `rejoin.rs`.

use crate::codec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Bytes of the checksum at the end.
const CHECK: usize = 8;

/// Which member a data directory belongs to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster: u64,
    /// The member's number.
    pub(crate) id: u64,
    /// Drawn when the directory was made.
    pub(crate) instance: u64,
    /// The number that the flags give to the member: `id` is another one if the member was replaced since.
    pub(crate) origin: u64,
}

impl Identity {
    /// A new directory's.
    pub(crate) fn new(cluster: u64, id: u64, origin: u64) -> Self {
        Self { cluster, id, instance: rand::random(), origin }
    }
}

/// Where a member keeps everything that must not be lost.
pub(crate) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("member")
}

/// The record of whose a directory is, if it has one; `InvalidData` if it is damaged.
pub(crate) fn read(folder: &Path) -> io::Result<Option<Identity>> {
    match fs::read(folder.join("identity")) {
        Ok(bytes) => checked(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the directory if it is not there, and the record in it.
pub(crate) fn write(folder: &Path, identity: &Identity) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = folder.join("identity.new");
    fs::write(&temporary, with_check(codec::encode(identity)))?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, folder.join("identity"))?;
    File::open(folder)?.sync_all()?;
    sync_parent(folder)
}

/// A record with its checksum.
pub(crate) fn with_check(mut record: Vec<u8>) -> Vec<u8> {
    let check = Sha256::digest(&record);
    record.extend_from_slice(&check[..CHECK]);
    record
}

/// What a record with its checksum says.
pub(crate) fn checked<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a record's checksum does not match");
    let (record, check) = bytes.split_last_chunk::<CHECK>().ok_or_else(damaged)?;
    if Sha256::digest(record)[..CHECK] != *check {
        return Err(damaged());
    }
    codec::decode(record)
}

/// Sets a member's folder aside, under the name that is returned, and removes what was set aside before.
pub(crate) fn set_aside(folder: &Path) -> io::Result<Option<PathBuf>> {
    let Some(parent) = folder.parent().filter(|_| folder.exists()) else { return Ok(None) };
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("member.lost-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = parent.join(format!("member.lost-{seconds}"));
    fs::rename(folder, &aside)?;
    sync_parent(folder)?;
    Ok(Some(aside))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let identity = Identity::new(7, 8, 9);
        write(folder.path(), &identity).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(identity));
        let file = folder.path().join("identity");
        let bytes = fs::read(&file).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, flipped).unwrap();
            assert_eq!(read(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bit}");
        }
        fs::write(&file, &bytes[..3]).unwrap();
        assert_eq!(read(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_newest_of_what_was_set_aside_is_kept() {
        let data = tempfile::tempdir().unwrap();
        let member = folder(data.path());
        assert_eq!(set_aside(&member).unwrap(), None);
        fs::create_dir_all(data.path().join("member.lost-1/log")).unwrap();
        write(&member, &Identity::new(1, 2, 3)).unwrap();
        let aside = set_aside(&member).unwrap().unwrap();
        assert_eq!(read(&aside).unwrap().unwrap().id, 2);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1);
    }
}
