//! The reference against `atlas --help` and the keys that Atlas reads; and every link of every
//! page.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use atlas_core::annotations;

use super::*;

/// Variables that `atlas` doesn't read itself.
const OTHERS: [&str; 1] = ["ATLAS_CACHE"];

fn reference() -> String {
    std::fs::read_to_string(root().join("docs/reference.md")).unwrap()
}

/// What is between backticks there, without what follows a blank.
fn names() -> BTreeSet<String> {
    let text = reference();
    let words = text.split('`').skip(1).step_by(2);
    words.filter_map(|word| word.split_whitespace().next()).map(str::to_owned).collect()
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(crate::atlas()).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "atlas {arguments:?} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command but those of clap itself.
fn commands() -> Vec<String> {
    let help = help(&[]);
    let list = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Flags and variables of a command.
fn taken(command: &str) -> (Vec<String>, Vec<String>) {
    let help = help(&[command]);
    let flag = |line: &str| {
        let line = line.trim_start();
        let line = line
            .split_once(", ")
            .filter(|(short, _)| short.len() == 2)
            .map_or(line, |(_, long)| long);
        line.starts_with("--").then(|| line.split_whitespace().next().unwrap().to_owned())
    };
    // Wrapped text may begin with a flag, but stands further in.
    let flags =
        help.lines().filter(|line| line.len() - line.trim_start().len() <= 6).filter_map(flag);
    let variables = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    (flags.collect(), variables.map(str::to_owned).collect())
}

#[test]
fn the_reference_has_every_command_flag_and_variable() {
    let (names, commands) = (names(), commands());
    assert!(commands.len() > 9, "{commands:?}");
    let mut known = BTreeSet::new();
    for command in &commands {
        assert!(
            reference().contains(&format!("`atlas {command}")),
            "docs/reference.md has no atlas {command}"
        );
        let (flags, variables) = taken(command);
        assert!(flags.len() > 2, "{command}: {flags:?}");
        for name in flags.iter().chain(&variables) {
            assert!(names.contains(name), "docs/reference.md has no {name} of atlas {command}");
        }
        known.extend(variables);
    }
    for name in names.iter().filter(|name| name.starts_with("ATLAS_")) {
        assert!(
            known.contains(name) || OTHERS.contains(&name.as_str()),
            "docs/reference.md: no command reads {name}"
        );
    }
}

#[test]
fn the_reference_has_every_key() {
    let names = names();
    for key in annotations::CLUSTER_LABELS.iter().chain(annotations::CLUSTER_ANNOTATIONS) {
        let short = key.trim_start_matches("goatlas.io/");
        assert!(names.contains(*key) || names.contains(short), "docs/reference.md has no {key}");
    }
}

/// Every page of the project.
pub fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut directories = Vec::from(["docs", "charts", "peers"].map(|name| root().join(name)));
    let top = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file());
    pages.extend(top);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { pages.push(path) }
        }
    }
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
}

/// A heading's name in links, as GitHub makes it.
fn anchor(line: &str) -> String {
    let words = line.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    assert!(pages.len() > 30, "{pages:?}");
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        for rest in text.split("](").skip(1) {
            let (target, wanted) = rest
                .split(')')
                .next()
                .map(|link| link.split_once('#').unwrap_or((link, "")))
                .unwrap();
            if target.contains("://") {
                continue;
            }
            let path = if target.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(target.replace('\n', ""))
            };
            assert!(path.exists(), "{}: {target} is not there", page.display());
            if !wanted.is_empty() {
                let text = std::fs::read_to_string(&path).unwrap();
                let found = text
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line) == wanted);
                assert!(found, "{}: {target} has no heading #{wanted}", page.display());
            }
        }
    }
}

#[test]
fn headers_that_pass_10904_are_listed() {
    let text = reference();
    for headers in
        [atlas_core::envoy::web::REQUEST_HEADERS, atlas_core::envoy::web::RESPONSE_HEADERS]
    {
        let list: Vec<String> = headers.iter().map(|name| format!("`{name}`")).collect();
        let paragraphs =
            text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>());
        assert!(
            paragraphs.into_iter().any(|words| words == list),
            "docs/reference.md should list: {}",
            list.join(" ")
        );
    }
}
