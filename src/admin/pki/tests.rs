//! Hosts made into a temporary folder, twice.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn host(root: &Path, role: Role, name: &str, sans: &[&str]) -> Host {
    Host {
        dir: root.join(name),
        shared: root.join("shared"),
        role,
        name: name.into(),
        addresses: vec!["10.90.0.11".parse().unwrap()],
        endpoint: "https://10.90.0.2:6443".into(),
        sans: sans.iter().map(|s| (*s).into()).collect(),
        service_address: "10.96.0.1".parse().unwrap(),
        domain: "cluster.local".into(),
    }
}

fn tree(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn run_again_nothing_changes() {
    let root = tempfile::tempdir().unwrap();
    let hosts =
        [host(root.path(), Role::Master, "m1", &["10.90.0.2"]), host(root.path(), Role::Worker, "w1", &[])];
    hosts.iter().for_each(|h| ensure_host(h).unwrap());
    let before = tree(root.path());
    hosts.iter().for_each(|h| ensure_host(h).unwrap());
    assert!(before == tree(root.path()), "a second run changed a file");
}

#[test]
fn private_files_are_private_and_a_worker_has_no_keys() {
    let root = tempfile::tempdir().unwrap();
    ensure_host(&host(root.path(), Role::Master, "m1", &[])).unwrap();
    ensure_host(&host(root.path(), Role::Worker, "w1", &[])).unwrap();
    for (path, text) in tree(root.path()) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let secret =
            text.contains("PRIVATE KEY") || text.contains("client-key-data") || text.contains("token");
        assert_eq!(mode, if secret { 0o600 } else { mode }, "{}", path.display());
        assert!(
            !(text.contains("PRIVATE KEY") && path.starts_with(root.path().join("w1"))),
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_changed_name_makes_that_certificate_again_and_no_authority() {
    let root = tempfile::tempdir().unwrap();
    ensure_host(&host(root.path(), Role::Master, "m1", &[])).unwrap();
    let before = tree(root.path());
    ensure_host(&host(root.path(), Role::Master, "m1", &["balancer.example"])).unwrap();
    let changed: Vec<String> = before
        .iter()
        .zip(tree(root.path()))
        .filter(|(old, new)| **old != *new)
        .map(|(old, _)| old.0.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(changed, ["apiserver.crt", "apiserver.key"]);
}

#[test]
fn half_an_authority_is_never_replaced() {
    let root = tempfile::tempdir().unwrap();
    let host = host(root.path(), Role::Master, "m1", &[]);
    ensure_host(&host).unwrap();
    fs::remove_file(root.path().join("shared/ca.key")).unwrap();
    assert!(matches!(ensure_host(&host), Err(Error::HalfAuthority { .. })));
}

#[test]
fn a_foreign_certificate_is_replaced() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mine = host(root.path(), Role::Master, "m1", &[]);
    ensure_host(&mine).unwrap();
    ensure_host(&host(other.path(), Role::Master, "m1", &[])).unwrap();
    for end in ["crt", "key"] {
        let file = format!("m1/pki/apiserver.{end}");
        fs::copy(other.path().join(&file), root.path().join(&file)).unwrap();
    }
    let foreign = fs::read_to_string(root.path().join("m1/pki/apiserver.crt")).unwrap();
    ensure_host(&mine).unwrap();
    assert_ne!(fs::read_to_string(root.path().join("m1/pki/apiserver.crt")).unwrap(), foreign);
}
