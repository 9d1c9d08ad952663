//! The house's laws, read off the source: who may know whom, and how large a file may grow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates that a pure room may not use: no I/O, no clock, no logging.
const IMPURE: [&str; 6] = ["tokio", "tracing", "metrics", "hyper", "socket2", "rustix"];

/// Aim at 120 production lines a file, think at 300, split at 450.
const MAX_LINES: usize = 450;

/// Rooms that would gather whatever has no place.
const NO_ROOMS: [&str; 8] =
    ["util", "utils", "helper", "helpers", "common", "shared", "types", "misc"];

/// The crates below crates/, each of which is a room.
const CRATES: [&str; 3] = ["api", "controller", "protocol"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every folder with sources, and the room that all of it belongs to, if it is one.
fn sources() -> Vec<(PathBuf, Option<&'static str>)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let of_crate = |name: &'static str| (crates.join(name).join("src"), Some(name));
    CRATES.into_iter().map(of_crate).chain([(src(), None)]).collect()
}

/// Every source file with its path below src/ (a crate counts as a folder of it), its room and its text.
fn files() -> Vec<(String, String, String)> {
    let mut files = Vec::new();
    let mut open: Vec<_> =
        sources().into_iter().map(|(root, room)| (root.clone(), root, room)).collect();
    while let Some((dir, root, of_crate)) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push((path, root.clone(), of_crate));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("below src/");
                let below = Path::new(of_crate.unwrap_or_default()).join(below);
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

/// The rooms that a file names: behind `crate::`, or as a crate.
fn known(room: &str, code: &str) -> BTreeSet<String> {
    let mut found = if CRATES.contains(&room) { BTreeSet::new() } else { imports(code) };
    let uses = |name: &&&str| code.contains(&format!("ebbtide_{name}::"));
    found.extend(CRATES.iter().filter(uses).map(|&name| name.to_owned()));
    found
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

/// The words between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(|word| word.trim_end_matches('/').to_owned()).collect()
}

/// Which rooms each room may import, as the table in ARCHITECTURE.md says; `None` for everything.
fn rules() -> BTreeMap<String, Option<Vec<String>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md");
    let mut lines = text.lines().skip_while(|line| !line.ends_with("| may import |"));
    assert!(lines.next().is_some(), "ARCHITECTURE.md has a table with a column `may import`");
    let mut rules = BTreeMap::new();
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.split('|').collect();
        let allowed = (!cells[3].contains("everything")).then(|| quoted(cells[3]));
        let says_nothing = allowed.as_ref().is_some_and(Vec::is_empty);
        assert!(!says_nothing || cells[3].contains("nothing"), "what may it import? {line}");
        for room in quoted(cells[1]) {
            rules.insert(room, allowed.clone());
        }
    }
    rules
}

#[test]
fn rooms_import_only_whom_they_may() {
    let rules = rules();
    let files = files();
    let rooms: BTreeSet<&str> = files
        .iter()
        .map(|(_, room, _)| room.as_str())
        .filter(|it| !["main", "lib"].contains(it))
        .collect();
    let ruled: BTreeSet<&str> = rules.keys().map(String::as_str).collect();
    assert_eq!(rooms, ruled, "the rooms, and those in the table of ARCHITECTURE.md");
    let mut used = BTreeSet::new();
    for (path, room, text) in &files {
        let Some(Some(allowed)) = rules.get(room) else { continue };
        for import in known(room, &production(path, text)) {
            assert!(rooms.contains(import.as_str()), "src/{path}: crate::{import} is no room");
            let known = import == *room || allowed.contains(&import);
            assert!(known, "src/{path}: `{room}` may not know `{import}`, only {allowed:?}");
            used.insert((room.clone(), import));
        }
    }
    for (room, allowed) in rules {
        for import in
            allowed.unwrap_or_default().into_iter().filter(|name| rooms.contains(name.as_str()))
        {
            let pair = (room.clone(), import);
            assert!(used.contains(&pair), "`{}` may import `{}` and does not", pair.0, pair.1);
        }
    }
}

#[test]
fn trackers_do_no_io_and_know_no_clock() {
    let pure = |path: &str, room: &str| {
        room == "protocol"
            || ["drain/schedule.rs", "api/phase.rs", "controller/decide.rs"].contains(&path)
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
