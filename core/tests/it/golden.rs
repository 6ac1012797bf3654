//! Golden files: what Atlas renders for each case in `core/tests/golden`, as text.
//!
//! A case is a directory with a `fleet.yaml` and perhaps a `settings.yaml`; a new one is a new
//! test. Beside these lie the rendered files that differ from those of the case `minimal`, so that
//! a directory shows what is particular about its fleet:
//!
//! - A file that a case doesn't have is as in `minimal`. That of a node (`paris.routes.yaml`) is
//!   as that of `minimal`'s cluster `tokyo`, with the one name in place of the other.
//! - A file that says the same as the one that the case would inherit fails the test.
//! - `nodes.txt` lists the nodes that get a configuration; no other node has files.
//!
//! `UPDATE_GOLDEN=1` writes and deletes files accordingly.

mod outputs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atlas_core::annotations;
use atlas_core::model::Settings;
use similar::TextDiff;

use crate::cases::{self, Case};
use crate::update_golden::update_golden;

/// The case whose files the others inherit.
const BASE: &str = "minimal";
/// The only cluster of [`BASE`].
const BASE_CLUSTER: &str = "tokyo";

/// Texts of files, by their names.
type Files = BTreeMap<String, String>;

/// The directory of the cases.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn every_case_renders_as_its_golden_files_say() {
    let update = update_golden();
    let mut cases = cases::all(&directory());
    // The base first, since the others are compared with what it has then.
    cases.sort_by_key(|case| case.name != BASE);
    let mut base = None;
    let mut problems = Vec::new();
    for case in &cases {
        let rendered = outputs::outputs(case);
        if update {
            write(case, &own_files(base.as_ref(), &rendered));
        }
        let own = read(case);
        problems.extend(compare(&case.name, &own, base.as_ref(), &rendered));
        base.get_or_insert(own);
    }
    assert!(
        problems.is_empty(),
        "{}\n{} golden files differ. If that is as it should be:\n    UPDATE_GOLDEN=1 cargo test -p atlas-core --test it golden\nand read the diff before you commit it.",
        problems.join("\n"),
        problems.len(),
    );
}

/// The golden files in a case's directory.
fn read(case: &Case) -> Files {
    let mut files = Files::new();
    for entry in std::fs::read_dir(&case.dir).expect("the case's directory can be read") {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != cases::FLEET && name != cases::SETTINGS {
            let text = std::fs::read_to_string(&path);
            files.insert(name, text.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
    files
}

/// Makes `files` the golden files in a case's directory.
fn write(case: &Case, files: &Files) {
    for (name, text) in files {
        std::fs::write(case.dir.join(name), text).expect("a golden file can be written");
    }
    for name in read(case).keys().filter(|name| !files.contains_key(*name)) {
        std::fs::remove_file(case.dir.join(name)).expect("a golden file can be deleted");
    }
}

/// The text that the file `name` of a case has if the case's directory has no such file.
fn inherited(base: Option<&Files>, name: &str) -> Option<String> {
    let base = base?;
    match name.split_once('.') {
        // Cluster names have no dots, so this is the file of a cluster.
        Some((cluster, what)) if what.contains('.') && cluster != "hub" => base
            .get(&format!("{BASE_CLUSTER}.{what}"))
            .map(|text| text.replace(BASE_CLUSTER, cluster)),
        _ => base.get(name).cloned(),
    }
}

/// The files that a case's directory should have.
fn own_files(base: Option<&Files>, rendered: &Files) -> Files {
    let own = rendered.iter().filter(|(name, text)| inherited(base, name).as_ref() != Some(*text));
    own.map(|(name, text)| (name.clone(), text.clone())).collect()
}

/// What is wrong with the files `own` of a case's directory.
fn compare(case: &str, own: &Files, base: Option<&Files>, rendered: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, text) in own {
        if !rendered.contains_key(name) {
            problems.push(format!("{case}/{name}: is there, but nothing renders it"));
        } else if inherited(base, name).as_ref() == Some(text) {
            problems.push(format!("{case}/{name}: says the same as the case {BASE}, so delete it"));
        }
    }
    for (name, text) in rendered {
        let expected = own.get(name).cloned().or_else(|| inherited(base, name));
        match expected {
            Some(expected) if expected == *text => (),
            expected => {
                let golden = expected.unwrap_or_default();
                problems.push(difference(&format!("{case}/{name}"), &golden, text));
            }
        }
    }
    problems
}

fn difference(name: &str, golden: &str, rendered: &str) -> String {
    let diff = TextDiff::from_lines(golden, rendered);
    diff.unified_diff()
        .context_radius(4)
        .header(&format!("{name} (golden)"), &format!("{name} (rendered)"))
        .to_string()
}

fn files(files: &[(&str, &str)]) -> Files {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_difference_is_shown_by_its_lines() {
    let problems = compare("case", &files(&[("a", "a\nb\n")]), None, &files(&[("a", "a\nc\n")]));
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.contains("--- case/a (golden)") && problem.contains("\n-b\n+c\n"), "{problem}");
}

#[test]
fn a_case_has_only_the_files_that_differ_from_the_base() {
    let base = files(&[
        ("findings.txt", "none"),
        ("hub.routes.yaml", "to tokyo"),
        ("tokyo.routes.yaml", "of tokyo"),
        ("tokyo.clusters.yaml", "tokyo and paris"),
    ]);
    let rendered = files(&[
        ("findings.txt", "one"),
        ("hub.routes.yaml", "to tokyo"),
        ("paris.routes.yaml", "of paris"),
        ("paris.clusters.yaml", "paris"),
        ("objects.yaml", "some"),
    ]);
    let expected = files(&[
        ("findings.txt", "one"),
        ("paris.clusters.yaml", "paris"),
        ("objects.yaml", "some"),
    ]);
    let own = own_files(Some(&base), &rendered);
    assert_eq!(own, expected);
    assert_eq!(compare("paris", &own, Some(&base), &rendered), Vec::<String>::new());
    // Each file that is missing is a difference.
    for name in own.keys() {
        let mut fewer = own.clone();
        fewer.remove(name);
        let problems = compare("paris", &fewer, Some(&base), &rendered);
        assert!(problems.len() == 1 && problems[0].contains(name), "{problems:?}");
    }
    // So is each that says nothing of its own, and each that nothing renders.
    for (name, text, problem) in [
        ("paris.routes.yaml", "of paris", "paris.routes.yaml: says the same"),
        ("tokyo.routes.yaml", "of tokyo", "tokyo.routes.yaml: is there, but nothing renders it"),
    ] {
        let mut more = own.clone();
        more.insert(name.into(), text.into());
        let problems = compare("paris", &more, Some(&base), &rendered);
        assert!(problems.len() == 1 && problems[0].contains(problem), "{problems:?}");
    }
}

#[test]
fn every_key_is_written_in_some_case() {
    let cases = cases::all(&directory());
    let texts: Vec<String> = cases
        .iter()
        .map(|case| std::fs::read_to_string(case.dir.join(cases::FLEET)).unwrap())
        .collect();
    let keys = [
        annotations::CLUSTER_LABELS,
        annotations::CLUSTER_ANNOTATIONS,
        &[annotations::THANOS_SIDECAR, "externalIPs"],
    ]
    .concat();
    let missing: Vec<&str> = keys
        .into_iter()
        .filter(|key| !texts.iter().any(|text| text.contains(&format!("{key}:"))))
        .collect();
    assert!(missing.is_empty(), "no case in core/tests/golden has {missing:?}");
}

#[test]
fn every_setting_differs_from_its_default_in_some_case() {
    let fields = |settings: &Settings| -> BTreeMap<String, String> {
        let text = format!("{settings:#?}");
        let mut fields = BTreeMap::new();
        let mut name = String::new();
        for line in text.lines().filter(|line| line.starts_with("    ")) {
            if let Some((field, _)) = line[4..]
                .split_once(": ")
                .filter(|(field, _)| !field.starts_with([' ', '}', ']', ')']))
            {
                name = field.to_owned();
            }
            fields.entry(name.clone()).or_insert_with(String::new).push_str(line);
        }
        fields
    };
    let default = fields(&Settings::default());
    let cases = cases::all(&directory());
    let differs = |(name, value): (&String, &String)| {
        cases.iter().any(|case| fields(&case.settings).get(name) != Some(value))
    };
    let missing: Vec<&String> =
        default.iter().filter(|field| !differs(*field)).map(|(name, _)| name).collect();
    assert!(
        missing.is_empty() && default.len() > 15,
        "no case in core/tests/golden sets {missing:?}"
    );
}
