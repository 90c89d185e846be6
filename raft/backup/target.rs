//! A data directory in the making: a state becomes the beginning of a new cluster.
//!
//! Keeps true: the directory appears under its name when it is whole and on the disk, or not at all; everybody but
//! its owner is kept out; the new cluster has a number of its own, made of its members and of the state, so members
//! of the old cluster are strangers to it and members that were restored from different states never meet; its
//! revisions begin above all that the old cluster may have given out, and what lies below is compacted. What is put
//! into it is left to `restore.rs`.

use super::{BackupError, flags::NewMember};
use crate::{
    codec,
    engine::{Batch, Engine},
    flags::Config,
    identity::{self, Identity},
    image::{self, ALARM, KV, LEASE, MEMBER, META, STATE, Saved},
    log::Log,
    machine::Machine,
    mvcc::State,
    revision::Revision,
    types::{LogId, Membership, PeerNode, Vote},
};
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;

/// Records removed in one batch.
const BATCH: usize = 1000;
/// The file beside a restored member's identity.
const RESTORED: &str = "restored";

/// Which cluster a restored member answers for.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Restored {
    /// The cluster that its flags name.
    flags: u64,
    /// The cluster that it belongs to.
    cluster: u64,
}

/// The cluster of a restored data directory, if it was restored for a member with these flags.
pub(crate) fn restored_cluster(config: &Config) -> io::Result<Option<u64>> {
    let found = restored(config)?.filter(|found| found.flags == config.cluster);
    Ok(found.map(|found| found.cluster))
}

/// Whether a member was restored and the group has not taken note of it yet.
pub(crate) fn is_fresh(config: &Config, machine: &Machine) -> io::Result<bool> {
    let known = machine.members().iter().any(|member| member.id == config.id);
    Ok(!known && restored(config)?.is_some())
}

/// Whether a data directory was restored, and as what.
pub(crate) fn restored(config: &Config) -> io::Result<Option<Restored>> {
    match fs::read(identity::folder(&config.flags.data_dir).join(RESTORED)) {
        Ok(bytes) => codec::decode(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Restored {
    /// Says it in a member's folder.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(RESTORED), codec::encode(self))?;
        sync(&folder.join(RESTORED))?;
        sync(folder)
    }
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) data_dir: PathBuf,
    /// The revision of what was restored.
    pub(crate) restored: i64,
    /// The revision that the new cluster begins with.
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) cluster: u64,
    pub(crate) member: u64,
}

/// A directory being made. Dropped unfinished, it is gone.
pub(crate) struct Target {
    config: Config,
    member: NewMember,
    /// Where it is made.
    part: PathBuf,
    pub(crate) engine: Option<Engine>,
    closed: mpsc::Receiver<Infallible>,
    open: Option<mpsc::Sender<Infallible>>,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.close();
        if self.part.exists() {
            // The error that led here is the one to be told.
            let _ = fs::remove_dir_all(&self.part);
        }
    }
}

impl Target {
    /// Checks the flags and begins.
    pub(crate) fn begin(member: NewMember) -> Result<Self, BackupError> {
        let config = member.config()?;
        let path = config.flags.data_dir.clone();
        if !is_free(&path) {
            return Err(BackupError::Exists { path });
        }
        let mut part = path.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let write = |source| BackupError::Write { path: path.clone(), source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(write)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(BackupError::UnderWay { path: part });
            }
            made => made.map_err(write)?,
        }
        let (open, closed) = mpsc::channel(1);
        let mut target = Self { config, member, part, engine: None, closed, open: Some(open) };
        target.engine = Some(target.open_state().map_err(write)?);
        Ok(target)
    }

    fn open_state(&self) -> io::Result<Engine> {
        let folder = self.folder();
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let engine = image::open(&folder)?;
        if let Some(open) = &self.open {
            engine.keep(open.clone());
        }
        Ok(engine)
    }

    fn folder(&self) -> PathBuf {
        self.part.join("member")
    }

    /// The state's database.
    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("open until it is closed")
    }

    /// Waits until the databases are closed.
    fn close(&mut self) {
        self.engine = None;
        self.open = None;
        while self.closed.try_recv() == Err(mpsc::error::TryRecvError::Empty) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Makes a member of what lies in the state's database.
    pub(crate) fn finish(mut self) -> Result<Outcome, BackupError> {
        let path = self.config.flags.data_dir.clone();
        let outcome = self.settle()?;
        let write = |source| BackupError::Write { path: path.clone(), source };
        self.close();
        lock_up(&self.part).map_err(write)?;
        fs::rename(&self.part, &path).map_err(write)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new("."))).map_err(write)?;
        Ok(outcome)
    }

    fn settle(&self) -> Result<Outcome, BackupError> {
        let path = self.config.flags.data_dir.clone();
        let write = |source| BackupError::Write { path: path.clone(), source };
        let (mut state, saved) = image::load(self.engine()).map_err(write)?;
        let restored = saved.revision;
        let (revision, compacted) = self.member.revisions(&saved)?;
        state.compacted = compacted;
        drop_history(self.engine(), &mut state).map_err(write)?;
        let begin = self.begin_of_log();
        let saved = Saved { revision, compacted, ..self.founding(begin).map_err(write)? };
        self.write_state(&saved).map_err(write)?;
        let cluster = self.cluster(&saved).map_err(write)?;
        self.write_log(begin).map_err(write)?;
        self.write_identity(cluster).map_err(write)?;
        Ok(Outcome { data_dir: path, restored, revision, compacted, cluster, member: self.config.id })
    }

    /// The place in the log that the restored state stands for, alike on every member.
    fn begin_of_log(&self) -> LogId {
        let first = self.config.initial.keys().next().copied().unwrap_or(self.config.id);
        LogId::new(openraft::alias::LeaderIdOf::<crate::types::TypeConfig>::new(1, first).to_committed(), 1)
    }

    /// What is saved with a state of which only the members of the flags know.
    fn founding(&self, begin: LogId) -> io::Result<Saved> {
        let node = |urls: &[String]| PeerNode { urls: urls.to_vec(), joining: false };
        let nodes: BTreeMap<u64, PeerNode> =
            self.config.initial.iter().map(|(id, peer)| (*id, node(&peer.urls))).collect();
        let voters = nodes.keys().copied().collect();
        let members = openraft::Membership::new(vec![voters], nodes).map_err(io::Error::other)?;
        let membership = Membership::new(Some(begin), members);
        Ok(Saved { applied: Some(begin), membership, removed: BTreeSet::new(), ..Saved::default() })
    }

    fn write_state(&self, saved: &Saved) -> io::Result<()> {
        let engine = self.engine();
        let mut batch = engine.batch();
        forget(&mut batch, MEMBER)?;
        forget(&mut batch, ALARM)?;
        batch.put(META, STATE, &codec::encode(saved))?;
        image::mark_snapshot(&mut batch)?;
        batch.write()?;
        engine.sync()
    }

    /// The new cluster's number.
    fn cluster(&self, saved: &Saved) -> io::Result<u64> {
        let mut digest = Sha256::new();
        digest.update(codec::encode(&saved.membership));
        digest.update(saved.revision.to_be_bytes());
        digest.update(saved.compacted.to_be_bytes());
        for part in [KV, LEASE] {
            self.engine().scan(part, &[], |key, value| {
                digest.update(u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX).to_be_bytes());
                digest.update(key);
                digest.update(value);
                Ok(true)
            })?;
        }
        let digest = digest.finalize();
        Ok(digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)).max(1))
    }

    fn write_log(&self, begin: LogId) -> io::Result<()> {
        let log = Log::open(&self.folder().join("log"), |_| {})?;
        if let Some(open) = &self.open {
            log.keep(open.clone());
        }
        log.begin(begin, &Vote::new(begin.leader_id.term, begin.leader_id.node_id))
    }

    fn write_identity(&self, cluster: u64) -> io::Result<()> {
        let folder = self.folder();
        identity::write(&folder, &Identity::new(cluster, self.config.id, self.config.id))?;
        Restored { flags: self.config.cluster, cluster }.write(&folder)
    }
}

fn is_free(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn forget(batch: &mut Batch<'_>, part: &'static str) -> io::Result<()> {
    batch.delete_range(part, &[], &[0xff; 16])
}

/// Removes the records that nobody can ask for any more.
fn drop_history(engine: &Engine, state: &mut State) -> io::Result<()> {
    let garbage: Vec<Revision> = state.index.compact(state.compacted);
    garbage.chunks(BATCH).try_for_each(|chunk| image::remove(engine, chunk))
}

/// Files are for their owner alone, and on the disk.
fn lock_up(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            lock_up(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            sync(&path)?;
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    sync(folder)
}

fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
