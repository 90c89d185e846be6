//! Unmounting whatever is mounted below a folder: root file systems, shared memory, volumes, pods' namespaces.

use std::path::Path;

use nix::mount::{MntFlags, umount2};

use crate::{Error, Result};

/// Unmounts everything below `folder`, the innermost first. Lazily: nothing uses it any more, or is about to die.
pub(crate) fn clear(folder: &Path) -> Result<()> {
    let table = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(table).map_err(Error::file("read", table))?;
    let mut found = below(&text, folder);
    found.reverse();
    for point in found {
        umount2(Path::new(&point), MntFlags::MNT_DETACH)
            .map_err(Error::system(format!("unmount {point}: something may have been mounted over it")))?;
    }
    Ok(())
}

/// The mount points below `folder` in the order in which they were mounted.
fn below(table: &str, folder: &Path) -> Vec<String> {
    let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape);
    points.filter(|p| Path::new(p).starts_with(folder)).collect()
}

/// The kernel writes space, tab, newline and backslash as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 / /s/w1/a rw - tmpfs t rw\n3 1 8:1 / /s/w10 rw - tmpfs t rw\n\
                     4 2 8:1 / /s/w1/a/b\\040c rw - tmpfs t rw\n";
        assert_eq!(below(table, Path::new("/s/w1")), ["/s/w1/a", "/s/w1/a/b c"]);
    }
}
