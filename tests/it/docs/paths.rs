//! How long the first pages may be, and that every file of this repository that a page names is
//! there.

use super::reference::pages;
use super::*;

/// What names of files in pages begin with.
const FOLDERS: [&str; 8] =
    ["src/", "core/", "tests/", "lab/", "xtask/", "charts/", "peers/", "docs/"];

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap()
}

/// The names of files in a text, without the part from the first wildcard or placeholder on.
fn files(text: &str) -> Vec<&str> {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || "/._-*<>{},:@".contains(c);
    let names = text.split(|c: char| !is_of_a_name(c));
    let names = names.filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder)));
    names.filter_map(|name| name.split([':', ',']).next()).map(known_part).collect()
}

/// `a/b/c` of `a/b/c.`, `a/b` of `a/b/<chart>/c`, of `a/b/c*`, and of `a/b/NAME.lua`.
fn known_part(name: &str) -> &str {
    let mut end = 0;
    for part in name.split_inclusive('/') {
        let placeholder = part.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
        let is_placeholder = placeholder.len() > 1
            && placeholder.split('.').next().is_some_and(|stem| {
                stem.chars().all(|c| c.is_ascii_uppercase()) && stem != "README"
            });
        if part.contains(['*', '<', '{']) || is_placeholder {
            break;
        }
        end += part.len();
    }
    name[..end].trim_end_matches(['.', '/'])
}

#[test]
fn every_file_that_a_page_names_is_there() {
    let mut missing = Vec::new();
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for file in files(&text) {
            seen += 1;
            if !root().join(file).exists() {
                let page = page.strip_prefix(root()).unwrap();
                missing.push(format!("{} names {file}", page.display()));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    assert!(seen > 100, "the pages' files are not found: {seen}");
}

#[test]
fn names_of_files_are_found_in_text() {
    let text = "`src/a.rs`, (core/src/b/*.rs), tests/it/{c,d}.rs; docs/e.md. charts/<chart>/f \
                lua/g.lua core/src/h/NAME.rs src/xtask/i";
    let found = ["src/a.rs", "core/src/b", "tests/it", "docs/e.md", "charts", "core/src/h"];
    assert_eq!(files(text), [&found[..], &["src/xtask/i"]].concat());
}

#[test]
fn the_readme_has_at_most_120_lines() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 120, "README.md has {lines} lines");
}

/// As `wc -w` counts.
#[test]
fn the_architecture_has_at_most_2000_words() {
    let words = read("ARCHITECTURE.md").split_whitespace().count();
    assert!(words <= 2000, "ARCHITECTURE.md has {words} words");
}
