//! A path of the node itself, checked or made by its type.

use std::{fs, os::unix::fs::FileTypeExt, path::Path};

use super::{Mounted, Setup, chmod};
use crate::{Error, error::Result};

pub(super) fn set_up(setup: &Setup<'_>) -> Result<Mounted> {
    let source = setup.volume.host_path.clone().unwrap_or_default();
    let path = Path::new(&source.path);
    prepare(path, source.type_.as_deref().unwrap_or_default())?;
    Ok(Mounted { name: setup.volume.name.clone(), path: path.to_owned(), read_only: false })
}

fn prepare(path: &Path, kind: &str) -> Result<()> {
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let check = |fine: bool, what: &str| match fine {
        true => Ok(()),
        false => Err(Error::Volume(format!("hostPath type check failed: {} is not {what}", path.display()))),
    };
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            fs::create_dir_all(path).map_err(Error::file("make directory", path))?;
            chmod(path, 0o755)
        }
        "FileOrCreate" if found.is_none() => {
            fs::File::create(path).map(drop).map_err(Error::file("make file", path))?;
            chmod(path, 0o644)
        }
        "Directory" | "DirectoryOrCreate" => check(found.is_some_and(|kind| kind.is_dir()), "a directory"),
        "File" | "FileOrCreate" => check(found.is_some_and(|kind| kind.is_file()), "a file"),
        "Socket" => check(found.is_some_and(|kind| kind.is_socket()), "a socket file"),
        "CharDevice" => check(found.is_some_and(|kind| kind.is_char_device()), "a character device"),
        "BlockDevice" => check(found.is_some_and(|kind| kind.is_block_device()), "a block device"),
        other => Err(Error::Volume(format!("hostPath type {other} is not known"))),
    }
}
