//! Envoy accepts what Atlas configures: the golden cases of the core, and random fleets. Both the
//! newest and the oldest supported version of Envoy are asked, and neither may warn of a deprecated
//! field.
//!
//! Envoy only validates (`--mode validate`): it opens no port and resolves no name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use atlas_core::envoy::bootstrap::file_secrets;
use atlas_core::install::bootstrap_files;
use atlas_core::model::{Fleet, Settings};
use atlas_core::name::{WEB_PATH_MAX, WebUrl};
use atlas_core::plan::plan;
use atlas_core::render::{self, Secrets};
use atlas_core::validate::validate;
use atlas_core::xds::resource::{Resource, ResourceType};
use atlas_lab::parts::{self, Part};
use atlas_lab::run;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

#[path = "../../core/tests/it/cases.rs"]
#[allow(dead_code, reason = "the core's own tests use the rest")]
mod cases;
#[path = "../../core/tests/it/random.rs"]
mod random;

/// How many random fleets Envoy validates.
const RANDOM_FLEETS: u32 = 12;
/// How many Envoys run at the same time.
const PARALLEL_ENVOYS: usize = 2;

#[test]
fn every_golden_fleet_is_accepted() {
    let validator = Validator::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("core/tests/golden");
    let mut all = Configurations::default();
    for case in cases::all(&golden) {
        all.add(&case.name, &case.validate().fleet, validator.dir.path());
    }
    let complaints = validator.complaints(&all);
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[test]
fn random_fleets_are_accepted() {
    let validator = Validator::new();
    let mut runner =
        TestRunner::new(Config { cases: RANDOM_FLEETS, max_shrink_iters: 64, ..Config::default() });
    let accepted = runner.run(&random::manifests(), |manifests| {
        let mut all = Configurations::default();
        all.add(
            "random",
            &validate(&cases::settings(), &manifests, None).fleet,
            validator.dir.path(),
        );
        let complaints = validator.complaints(&all);
        if complaints.is_empty() {
            Ok(())
        } else {
            Err(TestCaseError::fail(complaints.join("\n\n")))
        }
    });
    accepted.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_longest_path_of_a_web_url_is_accepted() {
    let validator = Validator::new();
    let path = format!("/a.b-c_d~/{}", "x".repeat(WEB_PATH_MAX - 10));
    let settings = Settings {
        web_url: Some(format!("https://tools.example.com{path}").parse().expect("a URL")),
        ..cases::settings()
    };
    let fleet =
        random::manifests().new_tree(&mut TestRunner::deterministic()).expect("a fleet").current();
    let mut all = Configurations::default();
    all.add("a long path", &validate(&settings, &fleet, None).fleet, validator.dir.path());
    assert!(
        all.texts.keys().any(|text| text.contains(&"x".repeat(WEB_PATH_MAX - 10))),
        "the path is in a route"
    );
    let complaints = validator.complaints(&all);
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
    assert!(format!("https://tools.example.com{path}x").parse::<WebUrl>().is_err());
}

#[test]
fn a_configuration_that_envoy_rejects_is_noticed() {
    let validator = Validator::new();
    let fleet =
        random::manifests().new_tree(&mut TestRunner::deterministic()).expect("a fleet").current();
    let mut all = Configurations::default();
    all.add("broken", &validate(&cases::settings(), &fleet, None).fleet, validator.dir.path());
    all.texts = all
        .texts
        .into_iter()
        .map(|(text, label)| (text.replace("cluster_name: ", "cluster_nam: "), label))
        .collect();
    let complaints = validator.complaints(&all);
    assert!(
        complaints.len() == 2 * all.texts.len() && complaints[0].contains("cluster_nam"),
        "{}",
        complaints.join("\n\n")
    );
}

/// Configurations without duplicates, each with the names of the nodes that have it.
#[derive(Default)]
struct Configurations {
    texts: BTreeMap<String, Vec<String>>,
}

impl Configurations {
    /// Adds two files for each node of a fleet: its bootstrap, and its xDS resources as static
    /// ones.
    fn add(&mut self, case: &str, fleet: &Fleet, credential_dir: &Path) {
        let dir = credential_dir.to_str().expect("BUG: a temporary directory has a name in UTF-8");
        let trust = cases::trust(fleet);
        for (node, snapshot) in &plan(fleet, &trust).nodes {
            self.texts
                .entry(render::static_yaml(snapshot, dir))
                .or_default()
                .push(format!("{case}: {node}"));
            if let Ok(bootstrap) = bootstrap_files::node_bootstrap(fleet, &trust, node, dir) {
                let text = render::yaml(&bootstrap, Secrets::Show);
                self.texts.entry(text).or_default().push(format!("{case}: {node}: bootstrap"));
            }
        }
    }
}

/// The Envoys that validate, and a directory with a credential for them.
struct Validator {
    envoys: [PathBuf; 2],
    dir: TempDir,
}

impl Validator {
    fn new() -> Self {
        let envoys =
            [Part::Envoy, Part::EnvoyOldest].map(|part| parts::get(part).expect("Envoy is there"));
        let dir = TempDir::new().expect("a directory");
        write_credential(dir.path()).expect("a credential");
        Self { envoys, dir }
    }

    /// The errors and warnings of all Envoys about all configurations.
    fn complaints(&self, all: &Configurations) -> Vec<String> {
        let jobs = self
            .envoys
            .iter()
            .flat_map(|envoy| all.texts.iter().map(move |(text, labels)| (envoy, text, labels)));
        let jobs = Mutex::new(jobs.enumerate());
        let complaints = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..PARALLEL_ENVOYS {
                scope.spawn(|| {
                    while let Some((number, (envoy, text, labels))) =
                        { jobs.lock().expect("no panic").next() }
                    {
                        let complaint = self.complaint(envoy, &format!("{number}.yaml"), text);
                        complaints.lock().expect("no panic").extend(
                            complaint
                                .map(|complaint| format!("{}: {complaint}", labels.join(", "))),
                        );
                    }
                });
            }
        });
        complaints.into_inner().expect("no panic")
    }

    fn complaint(&self, envoy: &Path, name: &str, text: &str) -> Option<String> {
        let config = self.dir.path().join(name);
        std::fs::write(&config, text).expect("the configuration is written");
        run::validate(envoy, &config).err()
    }
}

/// Writes a key and a certificate where [`render::static_yaml`] and bootstraps expect them. Envoy
/// doesn't check the names in the certificate when it validates.
fn write_credential(dir: &Path) -> anyhow::Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(Vec::new())?.self_signed(&key)?.pem();
    for (file, text) in
        [("tls.crt", &certificate), ("ca.crt", &certificate), ("tls.key", &key.serialize_pem())]
    {
        std::fs::write(dir.join(file), text)?;
    }
    for (file, secret) in file_secrets(&dir.to_string_lossy()) {
        let secret = Resource::new(ResourceType::Secret, secret.name.clone(), &secret);
        std::fs::write(dir.join(file), render::resources_yaml([&*secret], Secrets::Show))?;
    }
    Ok(())
}
