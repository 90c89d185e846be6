//! Disks whose power can go: every member of a store has a file system of its own, in a file that is a loop device.
//!
//! Keeps true: when the power goes, what was not synced is lost, and nothing that was: the process stops, then the file
//! system is shut down without its journal being written, taken off and put on again, which replays what the journal
//! had; disks are taken off and their loop devices given back when the value is dropped, and by the kernel when the mount namespace
//! ends (`isolated`), whatever became of the process. Members are the caller's: one that still has a file open keeps
//! the file system busy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::command::run;
use crate::members::Members;
use crate::{Error, Result};

/// Bytes of a disk. The file that it is takes only what was written to it.
const SIZE: u64 = 1 << 30;

/// How a disk is mounted. The journal is written when somebody syncs: by itself only every five minutes, so that what
/// a store does not sync is lost for certain.
const OPTIONS: &str = "loop,commit=300";

/// A disk of a member.
struct Disk {
    image: PathBuf,
    place: PathBuf,
}

impl Disk {
    fn make(image: PathBuf, place: PathBuf) -> Result<Self> {
        fs::create_dir_all(&place).map_err(Error::file("make", &place))?;
        let sized = fs::File::create(&image).and_then(|file| file.set_len(SIZE));
        sized.map_err(Error::file("make", &image))?;
        run("mkfs.ext4", &[Path::new("-q"), "-m0".as_ref(), &image])?;
        let this = Self { image, place };
        this.put_on()?;
        // A data directory is empty at first.
        let found = this.place.join("lost+found");
        fs::remove_dir(&found).map_err(Error::file("remove", found))?;
        fs::File::open(&this.place)
            .and_then(|place| place.sync_all())
            .map_err(Error::file("sync", &this.place))?;
        Ok(this)
    }

    fn put_on(&self) -> Result<()> {
        run("mount", &[Path::new("-o"), OPTIONS.as_ref(), &self.image, &self.place]).map(drop)
    }

    fn take_off(&self) -> Result<()> {
        let failed = Error::system(format!("unmount {}: a process may still use it", self.place.display()));
        umount2(&self.place, MntFlags::empty()).map_err(failed)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever still uses it is about to end; the loop device goes with the last of them.
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.image);
    }
}

/// The disks of a store's members.
pub struct Disks {
    cut: PathBuf,
    disks: Vec<Disk>,
}

/// The files of a disk, and how long they are.
pub type Files = BTreeMap<PathBuf, u64>;

impl Disks {
    /// Makes the disks of so many members whose data will lie in a folder.
    pub fn make(folder: &Path, members: usize) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        let cut = compile(folder, "cut", include_str!("cut.c"), &[])?;
        let disk = |number| {
            let place = Members::place(folder, number);
            Disk::make(place.with_extension("ext4"), place)
        };
        Ok(Self { cut, disks: (0..members).map(disk).collect::<Result<_>>()? })
    }

    /// Takes the power from some members at the same time. Their processes do nothing any more, and must be killed.
    pub fn cut(&self, members: &Members, victims: &[usize]) -> Result<()> {
        let mut words = Vec::new();
        for victim in victims {
            let pid = members.pid(*victim).ok_or_else(|| self.not_taken(*victim, "does not run"))?;
            words.extend([pid.to_string(), self.disks[*victim].place.display().to_string()]);
        }
        run(&self.cut.display().to_string(), &words)?;
        for victim in victims {
            if fs::File::create(self.disks[*victim].place.join("powered")).is_ok() {
                return Err(self.not_taken(*victim, "can still be written"));
            }
        }
        Ok(())
    }

    fn not_taken(&self, member: usize, why: &str) -> Error {
        let hint = format!("{} {why}", self.disks[member].place.display());
        Error::Late { what: "a loss of power".into(), seconds: 0, hint }
    }

    /// Gives a disk its power back; what its journal has is replayed. No process may use it.
    pub fn restore(&self, member: usize) -> Result<()> {
        self.disks[member].take_off()?;
        self.disks[member].put_on()
    }

    /// What is on a disk, as a process sees it.
    pub fn files(&self, member: usize) -> Result<Files> {
        let mut files = Files::new();
        let mut folders = vec![self.disks[member].place.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(Error::file("read", &folder))? {
                let path = entry.map_err(Error::file("read", &folder))?.path();
                // Files come and go while a store works.
                match fs::symlink_metadata(&path) {
                    Ok(meta) if meta.is_dir() => folders.push(path),
                    Ok(meta) => drop(files.insert(path, meta.len())),
                    Err(_) => {}
                }
            }
        }
        Ok(files)
    }
}

/// The bytes at the ends of files that are not there any more.
pub fn shortened(before: &Files, after: &Files) -> u64 {
    let length = |path| after.get(path).copied().unwrap_or_default();
    before.iter().map(|(path, was)| was.saturating_sub(length(path))).sum()
}

/// A program on a disk that lies from some time on: it says that everything is synced, and syncs nothing.
pub struct Liar {
    /// What to run instead of the program.
    pub program: PathBuf,
    begun: PathBuf,
}

impl Liar {
    /// Has a program run on such a disk. At first it is honest.
    pub fn make(folder: &Path, program: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        let library = compile(folder, "lie.so", include_str!("lie.c"), &["-shared", "-fPIC"])?;
        let (begun, script) = (folder.join("lies"), folder.join("lying"));
        let word = |path: &Path| format!("'{}'", path.display());
        let text = format!(
            "#!/bin/sh\nTRIREME_LIE={} LD_PRELOAD={} exec {} \"$@\"\n",
            word(&begun),
            word(&library),
            word(program)
        );
        fs::write(&script, text).map_err(Error::file("write", &script))?;
        run("chmod", &[Path::new("755"), &script])?;
        Ok(Self { program: script, begun })
    }

    /// From now on it lies.
    pub fn begin(&self) -> Result<()> {
        fs::write(&self.begun, "").map_err(Error::file("write", &self.begun))
    }
}

/// Compiles a C program: this project's own code has no unsafe Rust.
fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> Result<PathBuf> {
    let (code, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&code, source).map_err(Error::file("write", &code))?;
    let mut words: Vec<&Path> = flags.iter().map(Path::new).collect();
    words.extend([Path::new("-O1"), Path::new("-Wall"), Path::new("-o"), &program, &code]);
    run("cc", &words)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_counted() {
        let files = |sizes: &[(&str, u64)]| sizes.iter().map(|(path, size)| (path.into(), *size)).collect();
        let check = |before: &[(&str, u64)], after: &[(&str, u64)], expect| {
            assert_eq!(shortened(&files(before), &files(after)), expect, "{before:?} {after:?}");
        };
        check(&[("a", 10), ("b", 5)], &[("a", 10), ("b", 5)], 0);
        check(&[("a", 10), ("b", 5)], &[("a", 4)], 11);
        check(&[("a", 10)], &[("a", 12), ("c", 9)], 0);
    }
}
