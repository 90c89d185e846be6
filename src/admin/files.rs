//! Files that are never half written: a new one is written beside its final name, synced and renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// The owner only: private keys, tokens, kubeconfigs.
    Secret = 0o600,
    /// Everybody: certificates, public keys.
    Public = 0o644,
}

pub(crate) fn write(path: &Path, contents: &str, mode: Mode) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_path_buf(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let temporary = beside(path);
    replace(&temporary, path, contents, mode).map_err(failed)?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed)
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

fn replace(temporary: &Path, path: &Path, contents: &str, mode: Mode) -> io::Result<()> {
    let _ = fs::remove_file(temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode as u32).open(temporary)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// The file's text, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_path_buf(), source }),
    }
}

pub(crate) fn print(text: &str) -> Result<(), Error> {
    let failed = |source| Error::Write { path: PathBuf::from("the standard output"), source };
    io::stdout().write_all(text.as_bytes()).map_err(failed)
}
