//! Where the state machine's values are read: the records on disk.
//!
//! Keeps true: what is read is the record of exactly the revision asked for; many are read together. Which revisions
//! a reader wants is left to `index.rs` and `query.rs`, writing and removing them to `machine.rs`.

use crate::{
    command::KeyValue,
    engine::Engine,
    image::KV,
    mvcc::Values,
    record::{self, Reader, Record},
    revision::Revision,
};
use std::{io, sync::Arc};

/// Values on disk. Who reads several of them keeps them from being removed meanwhile.
pub(crate) struct Disk<'a>(pub(crate) &'a Engine);

impl Values for Disk<'_> {
    fn load(&self, revision: Revision) -> io::Result<Option<Arc<KeyValue>>> {
        let found = self.0.get(KV, &revision.to_bytes())?;
        found.map(|bytes| record::decode(&bytes).map(Arc::new)).transpose()
    }

    /// Records written together lie together: they are read in the order of revisions, step by step where most
    /// follow one another.
    fn records(&self, revisions: &[Revision]) -> io::Result<Vec<Option<Record>>> {
        let mut order: Vec<usize> = (0..revisions.len()).collect();
        order.sort_unstable_by_key(|place| revisions[*place]);
        let keys: Vec<[u8; 12]> = order.iter().map(|place| revisions[*place].to_bytes()).collect();
        let near = |pair: &&[usize]| revisions[pair[1]].main - revisions[pair[0]].main <= 1;
        let dense = order.windows(2).filter(near).count() * 4 >= order.len() * 3;
        let mut records = vec![None; revisions.len()];
        let mut reader = Reader::new(revisions.len());
        let keep = |at: usize, value: Option<&[u8]>| {
            records[order[at]] = value.map(|bytes| reader.read(bytes)).transpose()?;
            Ok(())
        };
        if dense {
            self.0.walk(KV, &keys, keep)?
        } else {
            self.0.get_all(KV, &keys, keep)?
        }
        Ok(records)
    }
}
