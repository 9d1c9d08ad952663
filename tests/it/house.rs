//! The house's laws, read off the source: who may know whom, and how large a file may grow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which rooms a room may import. `command` assembles the program and may know everybody; nobody
/// may know `command`.
const IMPORTS: [(&str, &[&str]); 13] = [
    ("admin", &["api", "connection", "drain", "protocol", "relay", "report", "telemetry"]),
    ("api", &[]),
    ("child", &[]),
    ("connection", &["drain", "net", "protocol", "relay", "telemetry"]),
    ("controller", &["api"]),
    (
        "demo",
        &[
            "admin",
            "api",
            "child",
            "connection",
            "controller",
            "drain",
            "net",
            "relay",
            "report",
            "telemetry",
        ],
    ),
    ("drain", &[]),
    ("inject", &["api"]),
    ("net", &[]),
    ("protocol", &[]),
    ("relay", &["drain", "net", "protocol"]),
    ("report", &["api", "connection", "drain"]),
    ("telemetry", &["drain"]),
];
/// Rooms without a rule of their own: they import nothing of ours.
const LEAVES: [&str; 1] = ["signal"];

/// Crates that a pure room may not use: no I/O, no clock, no logging.
const IMPURE: [&str; 6] = ["tokio", "tracing", "metrics", "hyper", "socket2", "rustix"];

/// Aim at 120 production lines a file, think at 300, split at 450.
const MAX_LINES: usize = 450;

/// Rooms that would gather whatever has no place.
const NO_ROOMS: [&str; 8] =
    ["util", "utils", "helper", "helpers", "common", "shared", "types", "misc"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file with its path below src/, its room and its text.
fn files() -> Vec<(String, String, String)> {
    let mut files = Vec::new();
    let mut open = vec![src()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(src()).expect("below src/").to_owned();
                let room = below.iter().next().expect("a first part").to_string_lossy();
                let room = room.trim_end_matches(".rs").to_owned();
                let text = std::fs::read_to_string(&path).expect("readable");
                files.push((below.to_string_lossy().into_owned(), room, text));
            }
        }
    }
    assert!(files.len() > 50, "this does not see the source");
    files
}

/// The text without comments, and without what is compiled for tests only.
fn production(path: &str, text: &str) -> String {
    if path.ends_with("tests.rs") || path.contains("/tests/") {
        return String::new();
    }
    let mut production = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // A `mod tests {` to its closing brace, or one line.
            let indent = line.len() - line.trim_start().len();
            let opened = lines.next().unwrap_or_default();
            if opened.trim_end().ends_with('{') {
                let end = format!("{}}}", " ".repeat(indent));
                while lines.next_if(|line| *line != end).is_some() {}
                lines.next();
            }
            continue;
        }
        let code = line.split("//").next().unwrap_or_default();
        if !code.trim().is_empty() {
            production.push_str(code);
            production.push('\n');
        }
    }
    production
}

/// The names behind each `crate::`, also in `use crate::{a::B, c}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    for (at, _) in code.match_indices("crate::") {
        // `$crate` and `other_crate::` are somebody else's.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut name = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => name = true,
                c if name && c.is_alphabetic() => {
                    found.insert(word(&group[at..]));
                    name = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn rooms_import_only_whom_they_may() {
    let rules: BTreeMap<_, _> = IMPORTS.into_iter().collect();
    let files = files();
    let rooms: BTreeSet<&str> = files.iter().map(|(_, room, _)| room.as_str()).collect();
    for (path, room, text) in &files {
        if ["main", "lib", "command"].contains(&room.as_str()) {
            continue;
        }
        let allowed: &[&str] = match rules.get(room.as_str()) {
            Some(allowed) => allowed,
            None if LEAVES.contains(&room.as_str()) => &[],
            None => panic!("src/{room} is a new room: say in IMPORTS whom it may know"),
        };
        for import in imports(&production(path, text)) {
            let known = import == *room || allowed.contains(&import.as_str());
            // What is no room is an item of lib.rs, of which there are none.
            assert!(rooms.contains(import.as_str()), "src/{path}: crate::{import} is no room");
            assert!(known, "src/{path}: `{room}` may not know `{import}`, only {allowed:?}");
        }
    }
}

#[test]
fn trackers_do_no_io_and_know_no_clock() {
    let pure = |path: &str, room: &str| {
        room == "protocol"
            || ["drain/schedule.rs", "drain/phase.rs", "controller/decide.rs"].contains(&path)
    };
    let mut looked = 0;
    for (path, room, text) in files() {
        if !pure(&path, &room) {
            continue;
        }
        looked += 1;
        let code = production(&path, &text);
        for name in IMPURE {
            assert!(!code.contains(&format!("{name}::")), "src/{path} uses {name}");
        }
        for clock in ["Instant::now", "SystemTime::now"] {
            assert!(!code.contains(clock), "src/{path} reads the clock");
        }
    }
    assert!(looked >= 4, "the pure files have moved");
}

#[test]
fn no_file_grows_too_large() {
    for (path, _, text) in files() {
        let lines = production(&path, &text).lines().count();
        assert!(lines <= MAX_LINES, "src/{path} has {lines} production lines: split it");
    }
}

#[test]
fn there_is_no_room_for_whatever_has_no_place() {
    for (path, ..) in files() {
        for part in &Path::new(&path).with_extension("") {
            let name = part.to_string_lossy();
            assert!(!NO_ROOMS.contains(&name.as_ref()), "src/{path}: name it after what it does");
        }
    }
}

#[test]
fn unsafe_code_stays_in_one_file() {
    for (path, _, text) in files() {
        let code = production(&path, &text);
        let is_there = code.contains("unsafe {") || code.contains("unsafe fn");
        assert!(!is_there || path == "net/options.rs", "src/{path}");
    }
}

/// The checks themselves: each sees what it is there to see.
#[test]
fn the_reader_of_imports_sees_them_all() {
    let code = "use crate::drain::Drain;\nuse crate::{api::{a, b}, net, report::X as Y};\n\
                fn f() { crate::admin::g(); $crate::no(); my_crate::no(); }";
    let names: Vec<_> = imports(code).into_iter().collect();
    assert_eq!(names, ["admin", "api", "drain", "net", "report"]);
    let text = "a\n// no\n\n#[cfg(test)]\nmod tests;\nb\n#[cfg(test)]\nmod tests {\n    c\n}\nd\n";
    assert_eq!(production("x.rs", text), "a\nb\nd\n");
}
