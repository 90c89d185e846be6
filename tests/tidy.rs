//! The code's own rules, checked like everything else: what a file opens with, how long it may get, which crate may
//! know which, what the README promises. Compilers and clippy check the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines.
const LINES: usize = 500;

/// Files that are longer, with the length that they must not exceed. The list only shrinks.
const RATCHET: &[(&str, usize)] = &[];

/// Files that a program writes: nobody reads them from top to bottom.
const GENERATED: &[&str] = &["/testdata/", "/generated", "src/api/schema/table"];

/// Which crates of the workspace each crate may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("raft", &["serve"]),
    ("chaos", &["api", "client"]),
    ("src/serve", &[]),
    ("src/api", &[]),
    ("src/client", &["api", "serve"]),
    ("src/admin", &["api", "client", "raft"]),
    ("src/apiserver", &["api", "client", "raft", "serve"]),
    ("src/scheduler", &["api", "client", "serve"]),
    ("src/controllers", &["api", "client", "serve"]),
    ("src/kubelet", &["api", "client", "serve"]),
    ("src/proxy", &["api", "client", "serve"]),
    ("src/dns", &["api", "client", "serve"]),
];

/// What must not stand in a file, and what to do instead. Written in halves, or this file would break its own rule.
const BANNED: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "fix it, or open an issue"),
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("XX", "X:"), "say what is meant"),
    (concat!("native", "-tls"), "rustls with aws-lc-rs is the one TLS library"),
    (concat!("todo", "!()"), "write it, or leave it out"),
];

#[test]
fn every_file_says_what_it_keeps_true() {
    let silent = |(path, text): &(String, String)| (!text.starts_with("//!")).then(|| path.clone());
    none(sources().iter().filter_map(silent), "open the file with //! and what it keeps true");
}

#[test]
fn files_stay_short() {
    let long = |(path, text): &(String, String)| {
        let (lines, limit) = (text.lines().count(), limit(path));
        (lines > limit).then(|| format!("{path}: {lines} lines, at most {limit}"))
    };
    none(sources().iter().filter_map(long), "split by what the parts keep true");
}

#[test]
fn the_ratchet_only_tightens() {
    let sources = sources();
    let loose = RATCHET.iter().filter_map(|(path, limit)| {
        let lines = sources.iter().find(|(p, _)| p == path).map_or(0, |(_, text)| text.lines().count());
        (lines <= LINES || lines + 50 < *limit)
            .then(|| format!("{path} has {lines} lines now, the list says {limit}"))
    });
    none(loose, "lower the number in RATCHET, or remove the row");
}

#[test]
fn every_file_is_compiled() {
    none(orphans(&sources()).into_iter(), "name the file with `mod`, or remove it: nothing compiles it");
}

#[test]
fn orphans_are_found() {
    let check = |files: &[(&str, &str)], expect: &[&str]| {
        let files: Vec<_> = files.iter().map(|(p, t)| ((*p).to_string(), (*t).to_string())).collect();
        assert_eq!(orphans(&files), expect);
    };
    let lib = "pub mod a;\n    mod b;\n#[cfg(test)]\npub(crate) mod c;\n";
    check(
        &[("x/lib.rs", lib), ("x/a.rs", ""), ("x/b/mod.rs", ""), ("x/c.rs", "mod d;"), ("x/c/d.rs", "")],
        &[],
    );
    check(&[("x/lib.rs", "// mod a;\nmod ab;"), ("x/a.rs", ""), ("x/ab.rs", "mod a;")], &["x/a.rs"]);
    check(
        &[("x/tests/t.rs", "mod common;"), ("x/tests/common/mod.rs", ""), ("x/tests/common/e.rs", "")],
        &["x/tests/common/e.rs"],
    );
    let path = "#[path = \"../examples/g/main.rs\"]\nmod g;\n";
    check(&[("x/tests/t.rs", path), ("x/examples/g/main.rs", "mod h;"), ("x/examples/g/h.rs", "")], &[]);
    check(&[("x/lib.rs", "#[path = \"a/b.rs\"]\nmod c;"), ("x/a/b.rs", ""), ("x/a/c.rs", "")], &["x/a/c.rs"]);
    check(&[("x/tests/t/main.rs", ""), ("x/tests/t/u.rs", ""), ("x/build.rs", "")], &["x/tests/t/u.rs"]);
}

#[test]
fn nothing_banned() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for (word, instead) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
                found.push(format!("{path}:{}: {word}: {instead}", number + 1));
            }
        }
    }
    none(found.into_iter(), "these words stay out of the code");
}

#[test]
fn only_libraries_hand_on_everything() {
    let hands_on = |(path, text): &(String, String)| {
        let all =
            text.lines().any(|l| l.trim_start().starts_with("pub use ") && l.trim_end().ends_with("::*;"));
        (all && !path.ends_with("/lib.rs")).then(|| path.clone())
    };
    none(sources().iter().filter_map(hands_on), "name what is handed on");
}

#[test]
fn arrows_point_one_way() {
    let crates: BTreeSet<&str> = ARROWS.iter().map(|(path, _)| name(path)).collect();
    let mut wrong = Vec::new();
    for (path, allowed) in ARROWS {
        let manifest = read(&root().join(path).join("Cargo.toml"));
        for used in dependencies(&manifest).into_iter().filter(|d| crates.contains(d.as_str())) {
            if !allowed.contains(&used.as_str()) {
                wrong.push(format!("{path} must not depend on {used}"));
            }
        }
    }
    none(wrong.into_iter(), "components reach each other over the wire only");
}

#[test]
fn every_crate_has_a_row() {
    let rows: BTreeSet<String> = ARROWS.iter().map(|(path, _)| (*path).to_string()).collect();
    let folders = fs::read_dir(root().join("src")).expect("src is readable").flatten();
    let crates = folders.filter(|e| e.path().join("Cargo.toml").exists());
    let there: BTreeSet<String> =
        crates.map(|e| format!("src/{}", e.file_name().to_string_lossy())).collect();
    none(there.difference(&rows).cloned(), "give the crate a row in ARROWS");
}

#[test]
fn the_readme_maps_every_folder() {
    let readme = read(&root().join("README.md"));
    let mapped = |path: &str| readme.contains(&format!("`{path}`"));
    let folders = ARROWS.iter().map(|(path, _)| *path).chain(["tests", "deploy"]);
    none(
        folders.filter(|p| !mapped(p)).map(String::from),
        "the README's code map must name it, in backticks",
    );
}

#[test]
fn scripts_say_what_they_do() {
    let mut silent = Vec::new();
    for folder in ["deploy", "tests", ".ci"] {
        for entry in fs::read_dir(root().join(folder)).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_file() && path.extension().is_none() {
                let text = read(&path);
                let first = text.lines().find(|l| !l.starts_with("#!"));
                if !first.is_some_and(|l| l.starts_with("# ")) {
                    silent.push(path.display().to_string());
                }
            }
        }
    }
    none(silent.into_iter(), "open the script with a comment: what it is for");
}

/// Files that are no crate's root and that no `mod` names.
fn orphans(files: &[(String, String)]) -> Vec<String> {
    let named = |path: &str| {
        let whole = path.strip_suffix("/mod.rs").map_or_else(|| path.to_string(), |p| format!("{p}.rs"));
        let (folder, file) = whole.rsplit_once('/').unwrap_or(("", &whole));
        let declares = |text: &str| text.lines().any(|line| declared(line) == file.strip_suffix(".rs"));
        files.iter().any(|(parent, text)| {
            (may_name(parent, folder) && declares(text)) || by_path(parent, text).any(|named| named == path)
        })
    };
    files.iter().map(|(path, _)| path).filter(|path| !is_root(path) && !named(path)).cloned().collect()
}

/// Whether cargo finds a file by itself: a library, a program, a build script, a test, an example.
fn is_root(path: &str) -> bool {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let of_many = |folder: &str| matches!(name(folder), "tests" | "examples");
    matches!(file, "lib.rs" | "main.rs" | "build.rs") || (of_many(folder) && file != "mod.rs")
}

/// Whether the modules that a file names lie in this folder.
fn may_name(parent: &str, folder: &str) -> bool {
    let (own, file) = parent.rsplit_once('/').unwrap_or(("", parent));
    let beside = is_root(parent) || file == "mod.rs";
    if beside { own == folder } else { parent.strip_suffix(".rs") == Some(folder) }
}

/// The files that a file names with `#[path = "…"]`, from the workspace's folder.
fn by_path<'t>(parent: &'t str, text: &'t str) -> impl Iterator<Item = String> + 't {
    let paths = text.lines().filter_map(|line| line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]"));
    paths.map(move |path| {
        let mut parts: Vec<&str> = parent.rsplit_once('/').map_or("", |(own, _)| own).split('/').collect();
        for part in path.split('/') {
            match part {
                ".." => _ = parts.pop(),
                part => parts.push(part),
            }
        }
        parts.join("/")
    })
}

/// The module that a line names: `pub(crate) mod name;`.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim();
    let rest = match line.strip_prefix("pub") {
        Some(rest) => rest.trim_start_matches("(crate)").trim_start_matches("(super)").trim_start(),
        None => line,
    };
    rest.strip_prefix("mod ")?.strip_suffix(';')
}

/// All source files of the workspace with their text, generated ones left out.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["src", "raft", "chaos", "tests"] {
        collect(&root().join(folder), &mut found);
    }
    let path = |p: &PathBuf| p.strip_prefix(root()).expect("found below it").display().to_string();
    let all = found.iter().map(|p| (path(p), read(p)));
    all.filter(|(path, _)| !GENERATED.iter().any(|g| path.contains(g))).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The names in a manifest's table of dependencies; those for tests may point anywhere.
fn dependencies(manifest: &str) -> Vec<String> {
    let table = manifest.split("\n[").find(|t| t.starts_with("dependencies]")).unwrap_or_default();
    let key = |line: &str| line.split(['.', '=', ' ']).next().unwrap_or_default().to_string();
    table.lines().skip(1).filter(|l| !l.is_empty() && !l.starts_with('#')).map(key).collect()
}

fn limit(path: &str) -> usize {
    RATCHET.iter().find(|(p, _)| *p == path).map_or(LINES, |(_, limit)| *limit)
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn none(found: impl Iterator<Item = String>, advice: &str) {
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "{advice}:\n  {}", found.join("\n  "));
}
