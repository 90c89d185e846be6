//! What is not whole, or is something else, is not restored, and nothing is left behind.

use crate::{
    harness::{Cluster, put},
    save, store,
};
use std::path::Path;

const TAIL: usize = 32;

async fn saved() -> (Cluster, Vec<u8>) {
    let cluster = Cluster::started(1, "").await;
    for number in 0..40 {
        cluster.kv(0).put(put(&format!("k{number}"), &"v".repeat(100))).await.unwrap();
    }
    let file = save(&cluster, 0).await;
    let bytes = std::fs::read(&file).unwrap();
    (cluster, bytes)
}

/// Restores a file of these bytes; what it was refused with.
async fn refused(folder: &Path, bytes: &[u8], flags: &str) -> String {
    let (file, data) = (folder.join("damaged.db"), folder.join("restored"));
    std::fs::write(&file, bytes).unwrap();
    let words = format!("snapshot restore {} --data-dir {} {flags}", file.display(), data.display());
    let error = store(&words).await.expect_err("it was restored");
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let left = left.iter().filter(|name| name.to_string_lossy().starts_with("restored")).count();
    assert_eq!(left, 0, "something was left behind");
    let source = std::error::Error::source(&error);
    format!("{error}{}", source.map(|source| format!(": {source}")).unwrap_or_default())
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << (at % 8);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_refused() {
    let (cluster, whole) = saved().await;
    let check = async |bytes: &[u8], flags: &str, expect: &str| {
        let said = refused(cluster.folder.path(), bytes, flags).await;
        assert!(said.contains(expect), "{said:?} does not say {expect:?}");
    };
    for at in (16..whole.len()).step_by(997) {
        check(&flipped(&whole, at), "", "expected sha256").await;
    }
    for at in 0..16 {
        check(&flipped(&whole, at), "--skip-hash-check", "is no snapshot of this store").await;
    }
    check(&flipped(&whole, whole.len() - 1), "", "expected sha256").await;
    check(&whole[..whole.len() - 1], "", "snapshot missing hash but --skip-hash-check=false").await;
    check(&whole[..whole.len() - TAIL], "", "snapshot missing hash but --skip-hash-check=false").await;
    let cut = [&whole[..512], &whole[whole.len() - TAIL..]].concat();
    check(&cut, "", "expected sha256").await;
    for bytes in [&whole[..17], &whole[..100], &whole[..512], &whole[..512 + TAIL]] {
        check(bytes, "--skip-hash-check", "is damaged; use another copy").await;
    }
    check(&[], "", "is no snapshot of this store but an empty file").await;
    check(b"no database at all", "", "is no snapshot of this store but something else").await;
    let mut bolt = vec![0; 4096 + TAIL];
    bolt[16..20].copy_from_slice(&[0xed, 0xda, 0x0c, 0xed]);
    check(&bolt, "", "but an etcd's database (bbolt)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_left_alone() {
    let (cluster, whole) = saved().await;
    let folder = cluster.folder.path();
    std::fs::write(folder.join("whole.db"), &whole).unwrap();
    let restore = async |data: &str, flags: &str| {
        let file = folder.join("whole.db").display().to_string();
        let words = format!("snapshot restore {file} --data-dir {}/{data} {flags}", folder.display());
        store(&words).await.map_err(|error| error.to_string())
    };
    let check = async |data: &str, flags: &str, expect: &str| {
        let said = restore(data, flags).await.unwrap_err();
        assert!(said.contains(expect), "{said:?} does not say {expect:?}");
    };
    std::fs::create_dir_all(folder.join("full")).unwrap();
    std::fs::write(folder.join("full/file"), "mine").unwrap();
    check("full", "", "not empty or could not be read").await;
    check("whole.db", "", "not empty or could not be read").await;
    assert_eq!(std::fs::read(folder.join("full/file")).unwrap(), b"mine");
    std::fs::create_dir_all(folder.join("other.part")).unwrap();
    check("other", "", "another restore into this data directory is under way or was killed").await;
    assert!(folder.join("other.part").exists() && !folder.join("other").exists());

    check("d", "--name x --initial-cluster y=http://127.0.0.1:1", "--initial-cluster: does not name").await;
    check("d", "--initial-cluster default=http://127.0.0.1:1", "--initial-advertise-peer-urls: ").await;
    check("d", "--bump-revision 0", "--mark-compacted: required if --bump-revision > 0").await;
    check("d", "--mark-compacted=false", "--mark-compacted: required if --bump-revision > 0").await;
    check("d", "--bump-revision 9223372036854775807", "is more than there can be").await;
    assert!(!folder.join("d").exists() && !folder.join("d.part").exists());

    std::fs::create_dir_all(folder.join("empty")).unwrap();
    restore("empty", "").await.unwrap();
    restore("new/deep", "").await.unwrap();
    assert!(folder.join("empty/member/identity").exists() && folder.join("new/deep/member/log").exists());
}
