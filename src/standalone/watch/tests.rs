use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use atlas_core::manifest::Manifest;
use atlas_core::yaml::WriteEvent;
use tempfile::TempDir;
use tokio::sync::watch::{Receiver, channel};
use tokio::task::JoinHandle;

use super::*;
use crate::process::debounce::Debounce;

mod directories;
mod incomplete;
mod quiet;

fn cluster(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  labels:\n    goatlas.io/cluster: \"true\"\n"
    )
}

/// File and name of every manifest, in order: `a.yaml tokyo`.
fn clusters(report: &DirectoryContents) -> Vec<String> {
    let place = |manifest: &Manifest| {
        format!(
            "{} {}",
            manifest.meta().origin.file.clone().unwrap_or_default(),
            manifest.meta().name
        )
    };
    report.manifests.iter().map(place).collect()
}

fn errors(report: &DirectoryContents) -> Vec<String> {
    report.errors.iter().map(ToString::to_string).collect()
}

/// A directory to write to.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(TempDir::new().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("a file");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("a file to remove");
    }

    fn read_once(&self) -> DirectoryContents {
        read_once(self.0.path()).expect("a readable directory")
    }
}

/// Short times, and no rescan: the tests see what events report.
const FAST: WatchTiming = WatchTiming {
    debounce: Debounce { idle: Duration::from_millis(20), longest: Duration::from_millis(200) },
    poll: Duration::from_millis(20),
    quiet: QuietPeriods { usual: Duration::from_millis(50), if_less: Duration::from_millis(200) },
    rescan: Duration::from_secs(1000),
};

/// [`FAST`] with another debounce.
fn debounced(idle: Duration, longest: Duration) -> WatchTiming {
    WatchTiming { debounce: Debounce { idle, longest }, ..FAST }
}

/// A watch on a directory.
struct Watched {
    reports: Receiver<Option<DirectoryContents>>,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Watched {
    fn start(dir: &Path, timing: WatchTiming) -> Self {
        Self::start_after(dir, timing, LastGoodManifests::new())
    }

    /// A watch after an earlier process left these manifests.
    fn start_after(dir: &Path, timing: WatchTiming, last_good: LastGoodManifests) -> Self {
        let ((out, reports), cancel, queue) =
            (channel(None), CancellationToken::new(), Arc::new(UpdateQueue::default()));
        let task = tokio::spawn(watch(
            dir.to_owned(),
            Arc::clone(&queue),
            timing,
            last_good,
            cancel.clone(),
        ));
        tokio::spawn(cancel.clone().run_until_cancelled_owned(async move {
            let (mut index, mut complete) = (ManifestIndex::default(), false);
            loop {
                queue.changed().await;
                let update = queue.drain();
                complete |= update.directories.is_some();
                index.apply(update);
                if complete {
                    out.send_replace(Some(index.contents()));
                }
            }
        }));
        Self { reports, cancel, task }
    }

    /// Waits for contents that fit.
    async fn until(&mut self, fits: impl Fn(&DirectoryContents) -> bool) -> DirectoryContents {
        let wait = self.reports.wait_for(|report| report.as_ref().is_some_and(&fits));
        match tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .map(|report| report.expect("the watch goes on").clone())
        {
            Ok(report) => report.expect("it fits"),
            Err(_) => panic!("not seen; the last report is {:#?}", self.reports.borrow()),
        }
    }

    async fn until_clusters(&mut self, expected: &[&str]) -> DirectoryContents {
        self.until(|report| clusters(report) == expected).await
    }

    async fn until_error(&mut self, part: &str) -> DirectoryContents {
        self.until(|report| errors(report).iter().any(|error| error.contains(part))).await
    }

    /// Checks that nothing is published for a while.
    async fn stays_quiet(&mut self) {
        self.reports.mark_unchanged();
        let change = tokio::time::timeout(Duration::from_millis(400), self.reports.changed()).await;
        assert!(change.is_err(), "published {:#?}", self.reports.borrow());
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("no panic").expect("no error");
    }
}

#[test]
fn subdirectories_are_read_and_editors_files_are_not() {
    let dir = Dir::new();
    for name in ["b.yml", "a.yaml", "asia/c.json", "asia/south/d.YAML"] {
        let cluster = &name.to_lowercase().replace(['/', '.'], "-");
        dir.write(
            name,
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: {cluster}}}}}"),
        );
    }
    for name in [
        ".a.yaml.swp",
        ".hidden.yaml",
        "a.yaml~",
        "#a.yaml#",
        "a.yaml.bak",
        "README.md",
        ".git/e.yaml",
        "old~/f.yaml",
        ".#a.yaml",
    ] {
        dir.write(name, "not: [yaml");
    }
    let report = dir.read_once();
    assert_eq!(errors(&report), [""; 0]);
    assert_eq!(
        clusters(&report),
        [
            "a.yaml a-yaml",
            "asia/c.json asia-c-json",
            "asia/south/d.YAML asia-south-d-yaml",
            "b.yml b-yml"
        ]
    );
}

#[test]
fn a_directory_that_is_not_there_cannot_be_read_once() {
    let dir = Dir::new();
    let error = read_once(&dir.path("missing")).expect_err("it is missing");
    assert!(
        format!("{error:#}").contains("cannot be read: No such file or directory"),
        "{error:#}"
    );
}

#[test]
fn unreadable_files_are_reported_and_the_rest_is_read() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    dir.write("latin1.yaml", b"# caf\xe9\n");
    dir.write("large.yaml", vec![b'#'; (4 << 20) + 1]);
    symlink("nowhere", dir.path("link.yaml")).expect("a link");
    symlink("loop.yaml", dir.path("loop.yaml")).expect("a link");
    symlink(".", dir.path("again")).expect("a link to the directory itself");
    let _socket = UnixListener::bind(dir.path("socket.yaml")).expect("a socket");
    dir.write("wrong.yaml", "a: 1\n");
    let report = dir.read_once();
    assert_eq!(clusters(&report), ["a.yaml a"]);
    let expected = [
        "large.yaml: is larger than 4 MiB: split it",
        "latin1.yaml: is not UTF-8: byte 6 is wrong",
        "link.yaml: cannot be read: it links to a file that is not there",
        "loop.yaml: cannot be read: Too many levels of symbolic links (os error 40)",
        "socket.yaml: is not a regular file",
        "wrong.yaml:1: apiVersion: is missing: if this is no Kubernetes object, move it out of this directory",
        "wrong.yaml:1: kind: is missing: if this is no Kubernetes object, move it out of this directory",
    ];
    assert_eq!(errors(&report), expected);
}

#[test]
fn of_an_object_in_two_files_the_first_by_path_counts() {
    let dir = Dir::new();
    dir.write("b.yaml", format!("# b\n{}---\n{}", cluster("tokyo"), cluster("osaka")));
    dir.write("a/z.yaml", cluster("tokyo"));
    let report = dir.read_once();
    assert_eq!(clusters(&report), ["a/z.yaml tokyo", "b.yaml osaka"]);
    assert_eq!(
        errors(&report),
        [
            "b.yaml:5: metadata.name: Service tokyo is already in a/z.yaml:4, which counts: remove one of the two"
        ]
    );
}

#[tokio::test]
async fn added_changed_and_removed_files_are_followed() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["a.yaml a"]).await;
    dir.write("b.yaml", cluster("b"));
    watched.until_clusters(&["a.yaml a", "b.yaml b"]).await;
    dir.write("a.yaml", cluster("a2"));
    watched.until_clusters(&["a.yaml a2", "b.yaml b"]).await;
    dir.remove("a.yaml");
    watched.until_clusters(&["b.yaml b"]).await;
    dir.write("asia/south/c.yaml", cluster("c"));
    watched.until_clusters(&["asia/south/c.yaml c", "b.yaml b"]).await;
    fs::remove_dir_all(dir.path("asia")).expect("removed");
    watched.until_clusters(&["b.yaml b"]).await;
    dir.remove("b.yaml");
    watched.until_clusters(&[]).await;
    watched.stop().await;
}

#[tokio::test]
async fn a_half_written_file_keeps_what_it_said_until_it_is_valid_again() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["a.yaml a"]).await;
    dir.write("a.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  na");
    let report = watched.until_error("a.yaml:").await;
    assert_eq!(clusters(&report), ["a.yaml a"]);
    dir.write("a.yaml", "");
    let report = watched.until_error("a.yaml: is empty").await;
    assert_eq!(clusters(&report), ["a.yaml a"]);
    dir.write("a.yaml", cluster("a2"));
    let report = watched.until_clusters(&["a.yaml a2"]).await;
    assert_eq!(errors(&report), [""; 0]);
    dir.write("a.yaml", "# none\n");
    watched.until_clusters(&[]).await;
    watched.stop().await;
}

#[tokio::test]
async fn a_wrong_file_that_is_removed_takes_its_manifests_with_it() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    dir.write("b.yaml", cluster("b"));
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["a.yaml a", "b.yaml b"]).await;
    dir.write("a.yaml", "wrong");
    watched.until_error("a.yaml:1").await;
    dir.remove("a.yaml");
    let report = watched.until_clusters(&["b.yaml b"]).await;
    assert_eq!(errors(&report), [""; 0]);
    watched.stop().await;
}

#[tokio::test]
async fn a_file_that_becomes_unreadable_keeps_its_manifests() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["a.yaml a"]).await;
    dir.write("a.yaml", b"\xff");
    let report = watched
        .until_error("is not UTF-8: byte 1 is wrong: what was read before stays in force")
        .await;
    assert_eq!(clusters(&report), ["a.yaml a"]);
    dir.write("a.yaml", cluster("a"));
    assert_eq!(errors(&watched.until(|report| report.errors.is_empty()).await), [""; 0]);
    watched.stop().await;
}

#[tokio::test]
async fn a_file_that_is_renamed_over_another_replaces_it() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["a.yaml a"]).await;
    dir.write(".a.yaml.new", cluster("a2"));
    fs::rename(dir.path(".a.yaml.new"), dir.path("a.yaml")).expect("renamed");
    watched.until_clusters(&["a.yaml a2"]).await;
    fs::rename(dir.path("a.yaml"), dir.path("b.yaml")).expect("renamed");
    watched.until_clusters(&["b.yaml a2"]).await;
    watched.stop().await;
}

#[tokio::test]
async fn equal_content_publishes_nothing() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut watched =
        Watched::start(dir.0.path(), WatchTiming { rescan: Duration::from_millis(50), ..FAST });
    watched.until_clusters(&["a.yaml a"]).await;
    dir.write("a.yaml", cluster("a"));
    dir.write("a.yaml~", cluster("b"));
    dir.write("notes.txt", "x");
    watched.stays_quiet().await;
    watched.stop().await;
}

#[tokio::test]
async fn a_change_without_an_event_is_found_by_the_rescan() {
    let (dir, outside) = (Dir::new(), Dir::new());
    outside.write("a.yaml", cluster("a"));
    // There are no events of a file that a link leads to.
    symlink(outside.path("a.yaml"), dir.path("a.yaml")).expect("a link");
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["a.yaml a"]).await;
    outside.write("a.yaml", cluster("a2"));
    watched.stays_quiet().await;
    watched.stop().await;

    let mut watched =
        Watched::start(dir.0.path(), WatchTiming { rescan: Duration::from_millis(50), ..FAST });
    watched.until_clusters(&["a.yaml a2"]).await;
    outside.write("a.yaml", cluster("a3"));
    watched.until_clusters(&["a.yaml a3"]).await;
    watched.stop().await;
}

#[tokio::test]
async fn a_burst_is_read_once_it_ends() {
    let dir = Dir::new();
    let mut watched = Watched::start(
        dir.0.path(),
        debounced(Duration::from_millis(300), Duration::from_secs(100)),
    );
    watched.until(|_| true).await;
    // The first file doesn't wait.
    dir.write("a.yaml", cluster("a"));
    watched.until_clusters(&["a.yaml a"]).await;
    watched.reports.mark_unchanged();
    for name in ["b", "c", "d"] {
        dir.write(&format!("{name}.yaml"), cluster(name));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(
            !watched.reports.has_changed().expect("the watch goes on"),
            "before the burst has ended"
        );
    }
    let report = watched.until(|report| report.manifests.len() > 1).await;
    assert_eq!(report.manifests.len(), 4);
    watched.stop().await;
}

#[tokio::test]
async fn a_file_that_is_deleted_and_put_back_was_never_gone() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut watched =
        Watched::start(dir.0.path(), debounced(Duration::from_millis(300), FAST.debounce.longest));
    watched.until_clusters(&["a.yaml a"]).await;
    watched.reports.mark_unchanged();
    dir.remove("a.yaml");
    tokio::time::sleep(Duration::from_millis(100)).await;
    dir.write("a.yaml", format!("{}---\n{}", cluster("a"), cluster("a2")));
    watched.reports.changed().await.expect("the watch goes on");
    assert_eq!(
        clusters(watched.reports.borrow().as_ref().expect("a report")),
        ["a.yaml a", "a.yaml a2"]
    );
    watched.stop().await;
}

#[test]
fn only_the_changed_file_is_read() {
    let dir = Dir::new();
    for n in 0..50 {
        dir.write(&format!("c{n}.yaml"), cluster(&format!("c{n}")));
    }
    let mut cache = FileCache::new(dir.0.path(), QuietPeriods::NONE, LastGoodManifests::new());
    cache
        .read_all(&PendingChanges::default(), &BTreeSet::new(), &mut DirectoryUpdate::default())
        .expect("a readable directory");
    dir.write("c7.yaml", cluster("seven"));
    dir.write("c8.yaml", cluster("eight"));
    let mut update = DirectoryUpdate::default();
    cache
        .read_changed(
            &PendingChanges {
                files: [("c7.yaml".into(), WriteEvent::CloseWrite)].into(),
                ..PendingChanges::default()
            },
            &BTreeSet::new(),
            &mut update,
        )
        .expect("a readable directory");
    assert_eq!(
        update.files.keys().collect::<Vec<_>>(),
        ["c7.yaml"],
        "c8.yaml has not been named yet"
    );
    assert_eq!(update.directories, None);
}

#[tokio::test]
async fn a_burst_without_end_is_read_after_the_longest_wait() {
    let dir = Dir::new();
    let mut watched = Watched::start(
        dir.0.path(),
        debounced(Duration::from_secs(100), Duration::from_millis(100)),
    );
    watched.until(|_| true).await;
    dir.write("a.yaml", cluster("a"));
    watched.until_clusters(&["a.yaml a"]).await;
    watched.stop().await;
}

#[tokio::test]
async fn reading_causes_no_further_scan() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let events = Arc::new(PendingEvents::default());
    let scanner = Scanner::new(
        dir.0.path(),
        Arc::clone(&events),
        &WatchTiming { quiet: QuietPeriods { usual: Duration::ZERO, ..FAST.quiet }, ..FAST },
        LastGoodManifests::new(),
    );
    let (scanner, result) = scanner.scan(ScanReason::Rescan);
    assert!(result.update.files.len() == 1 && !result.retry);
    let (_source, result) = scanner.scan(ScanReason::Events);
    assert!(result.update.is_empty());
    assert!(tokio::time::timeout(Duration::from_millis(300), events.changed()).await.is_err());
}

#[tokio::test]
async fn cancelling_ends_the_watch_while_it_waits_for_its_directory() {
    let dir = Dir::new();
    let watched = Watched::start(&dir.path("missing"), FAST);
    tokio::time::timeout(Duration::from_secs(5), watched.stop()).await.expect("it ends");
}
