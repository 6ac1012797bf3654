//! How long a file waits until it is read, without events of the file system.

use std::fs::File;

use super::incomplete::{FOR_EVER, check, fleet};
use super::*;

/// Reads a directory without a watch.
pub(super) struct Reader {
    cache: FileCache,
    index: ManifestIndex,
}

/// Any file may have changed.
fn any_file() -> PendingChanges {
    PendingChanges { whole_directory: true, ..PendingChanges::default() }
}

impl Reader {
    fn new(dir: &Path, quiet: QuietPeriods, last_good: LastGoodManifests) -> Self {
        let mut reader =
            Self { cache: FileCache::new(dir, quiet, last_good), index: ManifestIndex::default() };
        reader.read(&any_file());
        reader
    }

    /// What is there takes effect; a later change that may be incomplete never does by waiting.
    pub(super) fn waiting_for_ever(dir: &Path) -> Self {
        let mut reader = Self::new(dir, QuietPeriods::NONE, LastGoodManifests::new());
        reader.cache.set_quiet(QUIET_FOR_EVER);
        reader
    }

    fn read(&mut self, changes: &PendingChanges) {
        let mut update = DirectoryUpdate::default();
        let read =
            if changes.whole_directory { FileCache::read_all } else { FileCache::read_changed };
        read(&mut self.cache, changes, &BTreeSet::new(), &mut update)
            .expect("a readable directory");
        self.index.apply(update);
    }

    pub(super) fn read_closed(&mut self, file: &str) {
        self.read(&PendingChanges {
            files: [(file.into(), WriteEvent::CloseWrite)].into(),
            ..PendingChanges::default()
        });
    }

    /// Reads a file that somebody is writing to.
    fn read_open(&mut self, file: &str) {
        let mut update = DirectoryUpdate::default();
        let changes = PendingChanges {
            files: [(file.into(), WriteEvent::Unknown)].into(),
            ..PendingChanges::default()
        };
        self.cache
            .read_changed(&changes, &[file.into()].into(), &mut update)
            .expect("a readable directory");
        self.index.apply(update);
    }

    /// Reads the waiting files, as if they were due.
    fn read_waiting(&mut self) {
        let mut update = DirectoryUpdate::default();
        self.cache.read_waiting(&BTreeSet::new(), &mut update).expect("a readable directory");
        self.index.apply(update);
    }

    pub(super) fn clusters(&self) -> Vec<String> {
        clusters(&self.index.contents())
    }

    pub(super) fn errors(&self) -> Vec<String> {
        errors(&self.index.contents())
    }
}

const QUIET_FOR_EVER: QuietPeriods = QuietPeriods { usual: FOR_EVER, if_less: FOR_EVER };

#[test]
fn at_the_start_a_new_file_may_wait_and_an_old_one_does_not() {
    let dir = Dir::new();
    dir.write("all.yaml", cluster("a"));
    let manifests = dir.read_once().manifests.into_iter().map(Arc::new).collect();
    let last_good: LastGoodManifests = [("all.yaml".to_owned(), manifests)].into();
    dir.write("all.yaml", cluster("b"));
    let reader = Reader::new(dir.0.path(), QUIET_FOR_EVER, last_good.clone());
    assert_eq!(reader.clusters(), [""; 0], "the engine adds the last good manifests");
    assert!(reader.index.file("all.yaml").is_some_and(|state| !state.is_valid && !state.was_valid));
    assert!(!reader.cache.lacks_waiting_file());
    assert!(
        Reader::new(dir.0.path(), QUIET_FOR_EVER, LastGoodManifests::new())
            .cache
            .lacks_waiting_file()
    );
    std::thread::sleep(Duration::from_millis(100));
    let short = Duration::from_millis(50);
    let after = |quiet, if_less, last_good: &LastGoodManifests| {
        Reader::new(dir.0.path(), QuietPeriods { usual: quiet, if_less }, last_good.clone())
            .clusters()
    };
    assert_eq!(after(FOR_EVER, short, &last_good), ["all.yaml b"]);
    assert_eq!(after(short, FOR_EVER, &last_good), [""; 0]);
    assert_eq!(after(short, FOR_EVER, &LastGoodManifests::new()), ["all.yaml b"]);
}

#[test]
fn a_closed_file_whose_last_line_has_no_end_waits() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.120"));
    let mut reader = Reader::new(dir.0.path(), QuietPeriods::NONE, LastGoodManifests::new());
    reader.cache.set_quiet(QUIET_FOR_EVER);
    dir.write("all.yaml", fleet("203.0.113.123").strip_suffix("23\n").expect("its end"));
    reader.read_closed("all.yaml");
    check(&reader.index.contents(), "203.0.113.120");
    assert!(
        reader.errors()[0].starts_with("all.yaml: has just been changed"),
        "{:?}",
        reader.errors()
    );
    dir.write("all.yaml", fleet("203.0.113.123"));
    reader.read_closed("all.yaml");
    check(&reader.index.contents(), "203.0.113.123");
    assert_eq!(reader.errors(), [""; 0]);
}

#[test]
fn a_cluster_that_moves_to_a_waiting_file_is_never_gone() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("tokyo"));
    let mut reader = Reader::new(dir.0.path(), QuietPeriods::NONE, LastGoodManifests::new());
    reader.cache.set_quiet(QUIET_FOR_EVER);
    fs::rename(dir.path("a.yaml"), dir.path("b.yaml")).expect("renamed");
    // As on NFS: there is no event of the renaming.
    reader.read(&any_file());
    assert_eq!(reader.clusters(), ["a.yaml tokyo"]);
    assert!(
        reader.errors()[0].starts_with("a.yaml: is gone, while other files may be half"),
        "{:?}",
        reader.errors()
    );
    // Once the other file takes effect, this one is gone.
    reader.read_closed("b.yaml");
    assert_eq!((reader.clusters(), reader.errors()), (vec!["b.yaml tokyo".to_owned()], vec![]));
    // It stays for its quiet period, however long the other file waits.
    fs::rename(dir.path("b.yaml"), dir.path("c.yaml")).expect("renamed");
    reader.cache.set_quiet(QuietPeriods { usual: FOR_EVER, if_less: Duration::ZERO });
    reader.read(&any_file());
    assert_eq!(reader.clusters(), [""; 0]);
}

#[test]
fn files_of_a_replaced_link_are_complete_those_of_a_new_directory_not() {
    let dir = Dir::new();
    dir.write("one/a.yaml", cluster("a"));
    dir.write("two/b.yaml", cluster("b"));
    symlink("one", dir.path("current")).expect("a link");
    let mut reader =
        Reader::new(&dir.path("current"), QuietPeriods::NONE, LastGoodManifests::new());
    reader.cache.set_quiet(QUIET_FOR_EVER);
    dir.remove("current");
    symlink("two", dir.path("current")).expect("a link");
    reader.read(&any_file());
    assert_eq!(reader.clusters(), ["b.yaml b"]);
    fs::remove_dir_all(dir.path("two")).expect("removed");
    dir.write("two/b.yaml", cluster("c"));
    reader.read(&any_file());
    assert_eq!(reader.clusters(), ["b.yaml b"]);
}

#[test]
fn changes_of_mode_and_times_are_no_writes() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut reader = Reader::new(dir.0.path(), QuietPeriods::NONE, LastGoodManifests::new());
    reader.cache.set_quiet(QUIET_FOR_EVER);
    dir.write("a.yaml", format!("{}---\n{}", cluster("a"), cluster("b")));
    let file = File::options().write(true).open(dir.path("a.yaml")).expect("a file");
    file.set_modified(std::time::SystemTime::now() - FOR_EVER).expect("set");
    reader.read_closed("a.yaml");
    assert_eq!(reader.clusters(), ["a.yaml a", "a.yaml b"]);
    let metadata = notify::Event::new(notify::EventKind::Modify(
        notify::event::ModifyKind::Metadata(notify::event::MetadataKind::Any),
    ));
    let closed = notify::Event::new(notify::EventKind::Access(notify::event::AccessKind::Close(
        notify::event::AccessMode::Write,
    )));
    let events = PendingEvents::default();
    for event in [closed, metadata] {
        events.record(dir.0.path(), Ok(event.add_path(dir.path("a.yaml"))));
    }
    assert_eq!(events.drain().files, [(PathBuf::from("a.yaml"), WriteEvent::CloseWrite)].into());
}

#[test]
fn without_events_a_changed_file_waits() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.120"));
    let mut reader = Reader::waiting_for_ever(dir.0.path());
    let text = fleet("203.0.113.123");
    let c5 = text
        .find("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: c5")
        .expect("it is there");
    for (end, told) in [
        (c5, "no longer says Service c5"),
        (text.len() - 3, "has just been changed, and its last line has no end"),
        (text.len(), "has just been changed: that counts"),
    ] {
        dir.write("all.yaml", &text[..end]);
        reader.read(&any_file());
        check(&reader.index.contents(), "203.0.113.120");
        assert!(
            reader.errors()[0].starts_with(&format!("all.yaml: {told}")),
            "{:?}",
            reader.errors()
        );
    }
    reader.cache.set_quiet(QuietPeriods::NONE);
    reader.read_waiting();
    check(&reader.index.contents(), "203.0.113.123");
    assert_eq!(reader.errors(), [""; 0]);
}

/// A generator writes the same text in place every few seconds.
#[test]
fn a_removal_takes_effect_although_the_file_is_written_repeatedly() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.7"));
    let mut reader = Reader::waiting_for_ever(dir.0.path());
    let writes = |reader: &mut Reader| {
        dir.write("all.yaml", cluster("a"));
        reader.read_open("all.yaml");
        reader.read_closed("all.yaml");
    };
    writes(&mut reader);
    assert_eq!(reader.clusters().len(), 10);
    std::thread::sleep(Duration::from_secs(1));
    writes(&mut reader);
    assert_eq!(reader.clusters().len(), 10);
    reader.cache.set_quiet(QuietPeriods { usual: FOR_EVER, if_less: Duration::from_secs(1) });
    reader.read_waiting();
    assert_eq!(reader.clusters(), ["all.yaml a"]);
}

/// As on a file server whose clock is behind. At the start such a file can't be told from an old
/// one.
#[test]
fn a_file_that_appears_later_is_never_old() {
    let (dir, outside) = (Dir::new(), Dir::new());
    dir.write("z.yaml", cluster("z"));
    outside.write("half.yaml", cluster("half"));
    outside.write("new.yaml", cluster("new"));
    std::thread::sleep(Duration::from_millis(3100));
    symlink(outside.path("new.yaml"), dir.path("a.yaml")).expect("a link");
    let patience = QuietPeriods { usual: Duration::from_secs(3), if_less: Duration::from_secs(3) };
    assert_eq!(
        Reader::new(dir.0.path(), patience, LastGoodManifests::new()).clusters(),
        ["a.yaml new", "z.yaml z"],
        "at start"
    );
    dir.remove("a.yaml");
    let mut reader = Reader::new(dir.0.path(), patience, LastGoodManifests::new());
    symlink(outside.path("new.yaml"), dir.path("a.yaml")).expect("a link");
    reader.read(&any_file());
    assert_eq!(reader.clusters(), ["z.yaml z"], "a running Atlas knows that it is new");
    assert!(
        reader.errors()[0].starts_with("a.yaml: has just been changed"),
        "{:?}",
        reader.errors()
    );
    // It was open, and no event showed that it was closed.
    reader.read_open("z.yaml");
    dir.remove("z.yaml");
    symlink(outside.path("half.yaml"), dir.path("z.yaml")).expect("a link");
    reader.read(&any_file());
    assert_eq!(reader.clusters(), ["z.yaml z"], "it was open");
}

#[test]
fn a_moved_directory_shows_nothing_about_other_files() {
    let (dir, outside) = (Dir::new(), Dir::new());
    dir.write("z.yaml", cluster("z"));
    let mut reader = Reader::waiting_for_ever(dir.0.path());
    outside.write("asia/a.yaml", cluster("a"));
    fs::rename(outside.path("asia"), dir.path("asia")).expect("moved");
    dir.write("half.yaml", cluster("half"));
    let moved = notify::Event::new(notify::EventKind::Modify(notify::event::ModifyKind::Name(
        notify::event::RenameMode::To,
    )));
    let events = PendingEvents::default();
    events.record(dir.0.path(), Ok(moved.add_path(dir.path("asia"))));
    reader.read(&events.drain());
    assert_eq!(reader.clusters(), ["asia/a.yaml a", "z.yaml z"]);
}

/// Otherwise Atlas would scan again at once, and for ever.
#[test]
fn nothing_is_due_while_nothing_can_be_read() {
    let dir = Dir::new();
    dir.write("clusters/all.yaml", fleet("203.0.113.7"));
    let timing = WatchTiming {
        quiet: QuietPeriods { usual: Duration::ZERO, if_less: Duration::from_millis(100) },
        ..FAST
    };
    let scanner = Scanner::new(
        &dir.path("clusters"),
        Arc::new(PendingEvents::default()),
        &timing,
        LastGoodManifests::new(),
    );
    let (scanner, _) = scanner.scan(ScanReason::Rescan);
    dir.write("clusters/all.yaml", cluster("a"));
    let (scanner, result) = scanner.scan(ScanReason::Rescan);
    assert!(result.due.is_some());
    fs::rename(dir.path("clusters"), dir.path("elsewhere")).expect("renamed");
    let (scanner, result) = scanner.scan(ScanReason::WaitingFile);
    assert_eq!((result.due, result.retry), (None, true), "it is gone");
    fs::create_dir(dir.path("clusters")).expect("made");
    let (_, result) = scanner.scan(ScanReason::WaitingFile);
    assert_eq!((result.due, result.retry), (None, true), "it is another one");
}

#[test]
fn a_waiting_file_that_is_gone_is_looked_at_once() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.7"));
    dir.write("z.yaml", cluster("z"));
    let mut reader = Reader::waiting_for_ever(dir.0.path());
    dir.write("all.yaml", cluster("a"));
    reader.read_closed("all.yaml");
    assert!(reader.cache.due().is_some());
    dir.remove("all.yaml");
    reader.read_waiting();
    assert_eq!(
        (reader.cache.due(), reader.clusters().len()),
        (None, 11),
        "it may have been deleted to be written again"
    );
    reader.read(&any_file());
    assert_eq!(reader.clusters(), ["z.yaml z"]);
}

#[test]
fn last_good_manifests_end_with_a_valid_text_or_a_removal() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.7"));
    dir.write("gone.yaml", fleet("203.0.113.7"));
    let manifests = |file: &str| {
        let of = |manifest: &Manifest| manifest.meta().origin.file.as_deref() == Some(file);
        (file.to_owned(), dir.read_once().manifests.into_iter().filter(of).map(Arc::new).collect())
    };
    let last_good: LastGoodManifests = ["all.yaml", "gone.yaml"].map(manifests).into();
    dir.remove("gone.yaml");
    let mut reader = Reader::new(dir.0.path(), QuietPeriods::NONE, last_good);
    reader.cache.set_quiet(QUIET_FOR_EVER);
    dir.remove("all.yaml");
    reader.read(&any_file());
    // Files of these names that are written later are new files.
    for file in ["all.yaml", "gone.yaml"] {
        dir.write(file, cluster("a"));
        reader.read_closed(file);
        assert_eq!(reader.errors(), [""; 0]);
        dir.remove(file);
        reader.read(&any_file());
    }
}
