//! Removing the control groups that a sandbox's containers leave, in whatever hierarchies there are.

use std::fs;
use std::path::Path;

/// Removes the group and all below it, in every hierarchy. What is busy stays and is removed by the next call.
pub(crate) fn remove(group: &str) {
    let relative = group.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    remove_tree(&root.join(relative));
    for hierarchy in fs::read_dir(root).into_iter().flatten().flatten() {
        remove_tree(&hierarchy.path().join(relative));
    }
}

fn remove_tree(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
