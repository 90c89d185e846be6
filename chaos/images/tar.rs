//! Writing a tar archive (POSIX ustar) with the same bytes every time: no times, owner root.

const BLOCK: usize = 512;

/// An archive in the making.
#[derive(Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.entry(&format!("{path}/"), mode, b'5', "", &[]);
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, mode, b'0', "", contents);
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, 0o777, b'2', target, &[]);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn entry(&mut self, path: &str, mode: u32, kind: u8, target: &str, contents: &[u8]) {
        self.0.extend(header(path, mode, kind, target, contents.len()));
        self.0.extend(contents);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

fn header(path: &str, mode: u32, kind: u8, target: &str, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block, 0, path);
    put(&mut block, 100, &format!("{mode:07o}"));
    put(&mut block, 108, "0000000");
    put(&mut block, 116, "0000000");
    put(&mut block, 124, &format!("{size:011o}"));
    put(&mut block, 136, "00000000000");
    // The checksum is taken with its own field full of spaces.
    put(&mut block, 148, "        ");
    block[156] = kind;
    put(&mut block, 157, target);
    put(&mut block, 257, "ustar");
    put(&mut block, 263, "00");
    put(&mut block, 265, "root");
    put(&mut block, 297, "root");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    put(&mut block, 148, &format!("{sum:06o}\0 "));
    block
}

fn put(block: &mut [u8; BLOCK], at: usize, text: &str) {
    block[at..at + text.len()].copy_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_tar_reads_it() {
        let mut tar = Tar::default();
        tar.folder("etc", 0o755);
        tar.file("etc/x", 0o644, b"hello\n");
        tar.link("etc/y", "x");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar");
        std::fs::write(&file, tar.finish()).unwrap();
        let words = ["-xf", file.to_str().unwrap(), "-C", folder.path().to_str().unwrap()];
        crate::command::run("tar", &words).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("etc/y")).unwrap(), "hello\n");
    }
}
