use proptest::prelude::*;

use atlas_core::model::Settings;

use super::*;
use crate::engine::ingest::Inputs;
use crate::engine::provider::Changes;
use crate::standalone::provider::source;
use crate::standalone::watch::read_index;

const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: tokyo, labels: {goatlas.io/cluster: \"true\", goatlas.io/replicas: \"2\"}}\nspec: {externalIPs: [10.0.0.1]}\n";

/// A directory of manifests and a state directory; each [`Scene::start`] is a new process.
struct Scene {
    from: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { from: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() }
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.from.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// One reconcile of a new process: the clusters in force and what is wrong.
    fn start(&self) -> (Vec<String>, Vec<String>) {
        let state = StateDir::at(self.state.path()).unwrap();
        let _lock = state.lock().unwrap();
        let mut files = LastGoodFiles::load(state);
        let mut update = read_index(self.from.path()).unwrap().1;
        let mut index = ManifestIndex::default();
        files.complete(&mut update, &index);
        let (mut sources, mut manifests) = (BTreeMap::new(), Vec::new());
        let names: Vec<String> = update.files.keys().cloned().collect();
        for key in index.apply(update) {
            let manifest = index.manifest(&key).cloned();
            manifests.push((key, manifest));
        }
        for file in names {
            let source = source(&index, &file);
            sources.insert(file, source);
        }
        let mut inputs = Inputs::new(&Settings::default(), files.manifests().clone(), &sources);
        inputs.ingest(&mut Changes { manifests, sources, ..Changes::default() });
        files.note(&inputs.last_good, None);
        assert_eq!(files.write(), [""; 0]);
        let clusters = inputs.manifests.fleet().clusters.values();
        let stores =
            clusters.map(|cluster| format!("{} {}", cluster.name, cluster.stores.len())).collect();
        (stores, index.errors().iter().map(ToString::to_string).collect())
    }

    fn kept(&self) -> Vec<String> {
        StateDir::at(self.state.path()).unwrap().list(DIR).unwrap()
    }
}

#[test]
fn a_file_that_is_wrong_at_the_start_says_what_it_said_before() {
    let scene = Scene::new();
    scene.write("asia/tokyo.yaml", GOOD);
    assert_eq!(scene.start(), (vec!["tokyo 2".into()], vec![]));
    assert_eq!(scene.kept(), ["asia%2Ftokyo.yaml"]);
    for wrong in ["apiVersion: v1\nkind: Service\nmetadata: {name: tok", "", "\u{0}"] {
        scene.write("asia/tokyo.yaml", wrong);
        for _ in 0..2 {
            let (clusters, errors) = scene.start();
            assert_eq!(clusters, ["tokyo 2"]);
            assert!(errors.iter().any(|error| error.ends_with("stays in force")), "{errors:?}");
        }
    }
    scene.write("asia/tokyo.yaml", "# nothing\n");
    assert_eq!(scene.start(), (vec![], vec![]));
    scene.write("asia/tokyo.yaml", "wrong");
    assert_eq!(scene.start().0, [""; 0]);
}

#[test]
fn a_cluster_that_is_rejected_at_the_start_is_as_it_was_before() {
    let scene = Scene::new();
    scene.write("tokyo.yaml", GOOD);
    scene.start();
    scene.write("tokyo.yaml", &GOOD.replace("\"2\"", "x"));
    for _ in 0..2 {
        assert_eq!(scene.start().0, ["tokyo 2"]);
    }
    scene.write("tokyo.yaml", &GOOD.replace("\"2\"", "\"3\""));
    assert_eq!(scene.start().0, ["tokyo 3"]);
}

#[test]
fn what_was_never_right_and_what_is_gone_count_for_nothing() {
    let scene = Scene::new();
    scene.write("tokyo.yaml", &GOOD.replace("\"2\"", "x"));
    assert_eq!(scene.start().0, [""; 0]);
    scene.write("tokyo.yaml", GOOD);
    scene.start();
    std::fs::remove_file(scene.from.path().join("tokyo.yaml")).unwrap();
    assert_eq!(scene.start(), (vec![], vec![]));
    assert_eq!(scene.kept(), [""; 0]);
    scene.write("tokyo.yaml", "wrong");
    assert_eq!(scene.start().0, [""; 0]);
}

#[test]
fn an_object_that_moved_to_another_file_is_that_file_s() {
    let scene = Scene::new();
    scene.write("tokyo.yaml", GOOD);
    scene.start();
    scene.write("tokyo.yaml", "wrong");
    scene.write("zz.yaml", &GOOD.replace("\"2\"", "\"3\""));
    assert_eq!(scene.start().0, ["tokyo 3"]);
}

#[test]
fn a_path_that_is_too_long_for_a_name_is_not_kept() {
    assert_eq!(encode(&"a/".repeat(100)), None);
}

proptest! {
    #[test]
    fn every_path_has_a_name_of_its_own(path in "[^\u{0}]{1,60}") {
        if let Some(name) = encode(&path) {
            prop_assert!(!name.starts_with('.') && !name.contains('/'));
            prop_assert_eq!(decode(&name), Some(path));
        }
    }
}

const PAIR: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: tokyo, labels: {goatlas.io/cluster: \"true\", goatlas.io/replicas: \"2\"}}\nspec: {externalIPs: [10.0.0.1]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: paris, labels: {goatlas.io/cluster: \"true\"}}\nspec: {externalIPs: [10.0.0.2]}\n";

#[test]
fn what_was_removed_beside_a_wrong_neighbour_does_not_come_back() {
    let scene = Scene::new();
    scene.write("a.yaml", PAIR);
    assert_eq!(scene.start().0, ["paris 1", "tokyo 2"]);
    // tokyo becomes wrong, then paris goes, then the file breaks.
    let wrong = PAIR.replace("\"2\"", "x");
    scene.write("a.yaml", &wrong);
    assert_eq!(scene.start().0, ["paris 1", "tokyo 2"]);
    scene.write("a.yaml", wrong.split("---").next().unwrap());
    assert_eq!(scene.start().0, ["tokyo 2"]);
    scene.write("a.yaml", "half: [");
    assert_eq!(scene.start().0, ["tokyo 2"]);
}

#[test]
fn a_blank_file_keeps_what_it_said_and_a_forgotten_cluster_is_gone() {
    let scene = Scene::new();
    scene.write("a.yaml", PAIR);
    scene.start();
    scene.write("a.yaml", "\n");
    assert_eq!(scene.start().0, ["paris 1", "tokyo 2"]);
    LastGoodFiles::load(StateDir::at(scene.state.path()).unwrap())
        .forget(&"paris".parse().unwrap())
        .unwrap();
    assert_eq!(scene.start().0, ["tokyo 2"]);
}

#[test]
fn a_directory_that_lost_everything_is_noticed() {
    let scene = Scene::new();
    scene.write("a.yaml", PAIR);
    scene.start();
    std::fs::remove_file(scene.from.path().join("a.yaml")).unwrap();
    let last_good = LastGoodFiles::load(StateDir::at(scene.state.path()).unwrap());
    assert!(last_good.all_gone(&read_index(scene.from.path()).unwrap().1));
}
