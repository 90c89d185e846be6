//! Writes a set of files so that a reader sees either the old set or the new: a directory per version, and
//! `..data` as a link that is renamed over the old one, as upstream's atomic writer lays them out.

use std::{
    collections::BTreeMap, fs, io::Write, os::unix::fs::PermissionsExt, os::unix::fs::symlink, path::Path,
};

use crate::{Error, error::Result};

/// Files by relative path, with their modes.
pub(super) type Files = BTreeMap<String, (Vec<u8>, u32)>;

const LINK: &str = "..data";

/// Makes `directory` show exactly these files; true when something changed.
pub(super) fn write(directory: &Path, files: &Files) -> Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    let link = directory.join(LINK);
    let old = fs::read_link(&link).ok();
    if old.as_ref().is_some_and(|old| is_same(&directory.join(old), files)) {
        return Ok(false);
    }
    let version = format!(
        "..{}.{}",
        jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"),
        uuid::Uuid::new_v4().simple()
    );
    let target = directory.join(&version);
    fs::create_dir(&target).map_err(Error::file("make directory", &target))?;
    super::chmod(&target, 0o755)?;
    for (path, (content, mode)) in files {
        write_file(&target.join(path), content, *mode)?;
    }
    let fresh = directory.join("..data_tmp");
    let _ = fs::remove_file(&fresh);
    symlink(&version, &fresh).map_err(Error::file("link", &fresh))?;
    fs::rename(&fresh, &link).map_err(Error::file("rename", &fresh))?;
    link_names(directory, files)?;
    if let Some(old) = old {
        let _ = fs::remove_dir_all(directory.join(old));
    }
    Ok(true)
}

fn check(path: &str) -> Result<()> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.starts_with("..")
        || path.split('/').any(|part| part == "..");
    if bad { Err(Error::Volume(format!("invalid path \"{path}\" in a volume"))) } else { Ok(()) }
}

fn is_same(version: &Path, files: &Files) -> bool {
    let same = |(path, (content, _)): (&String, &(Vec<u8>, u32))| {
        fs::read(version.join(path)).is_ok_and(|known| known == *content)
    };
    count(version) == files.len() && files.iter().all(same)
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("make directory", parent))?;
    }
    let mut file = fs::File::create(path).map_err(Error::file("write", path))?;
    file.write_all(content).map_err(Error::file("write", path))?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::file("change the mode of", path))
}

/// A link per first path element, and none for elements that are gone.
fn link_names(directory: &Path, files: &Files) -> Result<()> {
    let names: std::collections::BTreeSet<&str> =
        files.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &names {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(LINK).join(name), &link).map_err(Error::file("link", &link))?;
        }
    }
    for entry in fs::read_dir(directory).map_err(Error::file("read directory", directory))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !names.contains(name.as_str()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_replaces_the_one_before() {
        let directory = std::env::temp_dir().join(format!("trireme-atomic-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&directory).unwrap();
        let files = |list: &[(&str, &str)]| -> Files {
            list.iter().map(|(path, text)| ((*path).to_owned(), (text.as_bytes().to_vec(), 0o644))).collect()
        };
        assert!(write(&directory, &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert_eq!(fs::read_to_string(directory.join("d/b")).unwrap(), "2");
        assert!(!write(&directory, &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert!(write(&directory, &files(&[("a", "3")])).unwrap());
        assert_eq!(fs::read_to_string(directory.join("a")).unwrap(), "3");
        assert!(!directory.join("d").exists());
        assert!(write(&directory, &files(&[("../x", "3")])).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
