//! For what is waited, and for how long: without a watch.

use std::fs::File;

use super::half::{FOR_EVER, check, fleet};
use super::*;

/// Reads without a watch, and says what counts.
pub(super) struct Reader {
    memory: Memory,
    shelf: Shelf,
}

/// That any file may have changed.
fn others() -> Seen {
    Seen { others: true, ..Seen::default() }
}

impl Reader {
    fn new(dir: &Path, patience: Patience, earlier: Earlier) -> Self {
        let mut reader =
            Self { memory: Memory::new(dir, patience, earlier), shelf: Shelf::default() };
        reader.sees(&others());
        reader
    }

    /// What is there counts; what comes doesn't by mere waiting.
    pub(super) fn patient(dir: &Path) -> Self {
        let mut reader = Self::new(dir, Patience::none(), Earlier::new());
        reader.memory.set_patience(PATIENCE);
        reader
    }

    fn sees(&mut self, seen: &Seen) {
        let mut update = Update::default();
        let read = if seen.others { Memory::refresh } else { Memory::refresh_some };
        read(&mut self.memory, seen, &BTreeSet::new(), &mut update).expect("a readable directory");
        self.shelf.apply(update);
    }

    pub(super) fn sees_closed(&mut self, file: &str) {
        self.sees(&Seen {
            files: [(file.into(), WriteEvent::CloseWrite)].into(),
            ..Seen::default()
        });
    }

    /// That somebody writes to it.
    fn sees_open(&mut self, file: &str) {
        let mut update = Update::default();
        let seen = Seen { files: [(file.into(), WriteEvent::Unknown)].into(), ..Seen::default() };
        self.memory
            .refresh_some(&seen, &[file.into()].into(), &mut update)
            .expect("a readable directory");
        self.shelf.apply(update);
    }

    /// At what is waited for, since it is time.
    fn looks_again(&mut self) {
        let mut update = Update::default();
        self.memory.look_again(&BTreeSet::new(), &mut update).expect("a readable directory");
        self.shelf.apply(update);
    }

    pub(super) fn clusters(&self) -> Vec<String> {
        clusters(&self.shelf.report())
    }

    pub(super) fn errors(&self) -> Vec<String> {
        errors(&self.shelf.report())
    }
}

const PATIENCE: Patience = Patience { quiet: FOR_EVER, quiet_if_less: FOR_EVER };

#[test]
fn what_is_half_at_start_waits_and_what_is_old_does_not() {
    let dir = Dir::new();
    dir.write("all.yaml", cluster("a"));
    let said = dir.read_once().manifests.into_iter().map(Arc::new).collect();
    let earlier: Earlier = [("all.yaml".to_owned(), said)].into();
    dir.write("all.yaml", cluster("b"));
    let reader = Reader::new(dir.0.path(), PATIENCE, earlier.clone());
    assert_eq!(reader.clusters(), [""; 0], "what was kept of it is the controller's to say");
    assert!(reader.shelf.file("all.yaml").is_some_and(|state| !state.is_right && !state.was_right));
    assert!(!reader.memory.lacks_something());
    assert!(Reader::new(dir.0.path(), PATIENCE, Earlier::new()).memory.lacks_something());
    std::thread::sleep(Duration::from_millis(100));
    let short = Duration::from_millis(50);
    let after = |quiet, quiet_if_less, earlier: &Earlier| {
        Reader::new(dir.0.path(), Patience { quiet, quiet_if_less }, earlier.clone()).clusters()
    };
    assert_eq!(after(FOR_EVER, short, &earlier), ["all.yaml b"]);
    assert_eq!(after(short, FOR_EVER, &earlier), [""; 0]);
    assert_eq!(after(short, FOR_EVER, &Earlier::new()), ["all.yaml b"]);
}

#[test]
fn a_closed_file_whose_last_line_has_no_end_waits() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.120"));
    let mut reader = Reader::new(dir.0.path(), Patience::none(), Earlier::new());
    reader.memory.set_patience(PATIENCE);
    dir.write("all.yaml", fleet("203.0.113.123").strip_suffix("23\n").expect("its end"));
    reader.sees_closed("all.yaml");
    check(&reader.shelf.report(), "203.0.113.120");
    assert!(
        reader.errors()[0].starts_with("all.yaml: has just been changed"),
        "{:?}",
        reader.errors()
    );
    dir.write("all.yaml", fleet("203.0.113.123"));
    reader.sees_closed("all.yaml");
    check(&reader.shelf.report(), "203.0.113.123");
    assert_eq!(reader.errors(), [""; 0]);
}

#[test]
fn a_cluster_that_moves_to_a_file_that_is_waited_for_is_never_gone() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("tokyo"));
    let mut reader = Reader::new(dir.0.path(), Patience::none(), Earlier::new());
    reader.memory.set_patience(PATIENCE);
    fs::rename(dir.path("a.yaml"), dir.path("b.yaml")).expect("renamed");
    // As on NFS: nobody tells that it was moved.
    reader.sees(&others());
    assert_eq!(reader.clusters(), ["a.yaml tokyo"]);
    assert!(
        reader.errors()[0].starts_with("a.yaml: is gone, while other files may be half"),
        "{:?}",
        reader.errors()
    );
    // Once it counts there, it goes here.
    reader.sees_closed("b.yaml");
    assert_eq!((reader.clusters(), reader.errors()), (vec!["b.yaml tokyo".to_owned()], vec![]));
    // And what waits for ever keeps it for so long only.
    fs::rename(dir.path("b.yaml"), dir.path("c.yaml")).expect("renamed");
    reader.memory.set_patience(Patience { quiet: FOR_EVER, quiet_if_less: Duration::ZERO });
    reader.sees(&others());
    assert_eq!(reader.clusters(), [""; 0]);
}

#[test]
fn a_link_that_turns_brings_whole_files_and_a_directory_that_is_made_again_does_not() {
    let dir = Dir::new();
    dir.write("one/a.yaml", cluster("a"));
    dir.write("two/b.yaml", cluster("b"));
    symlink("one", dir.path("current")).expect("a link");
    let mut reader = Reader::new(&dir.path("current"), Patience::none(), Earlier::new());
    reader.memory.set_patience(PATIENCE);
    dir.remove("current");
    symlink("two", dir.path("current")).expect("a link");
    reader.sees(&others());
    assert_eq!(reader.clusters(), ["b.yaml b"]);
    fs::remove_dir_all(dir.path("two")).expect("removed");
    dir.write("two/b.yaml", cluster("c"));
    reader.sees(&others());
    assert_eq!(reader.clusters(), ["b.yaml b"]);
}

#[test]
fn what_is_done_to_a_closed_file_s_mode_and_times_is_no_writing() {
    let dir = Dir::new();
    dir.write("a.yaml", cluster("a"));
    let mut reader = Reader::new(dir.0.path(), Patience::none(), Earlier::new());
    reader.memory.set_patience(PATIENCE);
    dir.write("a.yaml", format!("{}---\n{}", cluster("a"), cluster("b")));
    let file = File::options().write(true).open(dir.path("a.yaml")).expect("a file");
    file.set_modified(std::time::SystemTime::now() - FOR_EVER).expect("set");
    reader.sees_closed("a.yaml");
    assert_eq!(reader.clusters(), ["a.yaml a", "a.yaml b"]);
    let metadata = notify::Event::new(notify::EventKind::Modify(
        notify::event::ModifyKind::Metadata(notify::event::MetadataKind::Any),
    ));
    let closed = notify::Event::new(notify::EventKind::Access(notify::event::AccessKind::Close(
        notify::event::AccessMode::Write,
    )));
    let sight = Sight::default();
    for event in [closed, metadata] {
        sight.note(dir.0.path(), Ok(event.add_path(dir.path("a.yaml"))));
    }
    assert_eq!(sight.take().files, [(PathBuf::from("a.yaml"), WriteEvent::CloseWrite)].into());
}

#[test]
fn without_events_a_changed_file_is_waited_for() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.120"));
    let mut reader = Reader::patient(dir.0.path());
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
        reader.sees(&others());
        check(&reader.shelf.report(), "203.0.113.120");
        assert!(
            reader.errors()[0].starts_with(&format!("all.yaml: {told}")),
            "{:?}",
            reader.errors()
        );
    }
    reader.memory.set_patience(Patience::none());
    reader.looks_again();
    check(&reader.shelf.report(), "203.0.113.123");
    assert_eq!(reader.errors(), [""; 0]);
}

/// A generator writes the same every few seconds, in place.
#[test]
fn a_removal_counts_also_where_the_file_is_written_again_and_again() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.7"));
    let mut reader = Reader::patient(dir.0.path());
    let writes = |reader: &mut Reader| {
        dir.write("all.yaml", cluster("a"));
        reader.sees_open("all.yaml");
        reader.sees_closed("all.yaml");
    };
    writes(&mut reader);
    assert_eq!(reader.clusters().len(), 10);
    std::thread::sleep(Duration::from_secs(1));
    writes(&mut reader);
    assert_eq!(reader.clusters().len(), 10);
    reader.memory.set_patience(Patience { quiet: FOR_EVER, quiet_if_less: Duration::from_secs(1) });
    reader.looks_again();
    assert_eq!(reader.clusters(), ["all.yaml a"]);
}

/// As on a file server whose clock is behind: only at start that can't be told from what is old.
#[test]
fn what_comes_later_is_never_old() {
    let (dir, outside) = (Dir::new(), Dir::new());
    dir.write("z.yaml", cluster("z"));
    outside.write("half.yaml", cluster("half"));
    outside.write("new.yaml", cluster("new"));
    std::thread::sleep(Duration::from_millis(3100));
    symlink(outside.path("new.yaml"), dir.path("a.yaml")).expect("a link");
    let patience =
        Patience { quiet: Duration::from_secs(3), quiet_if_less: Duration::from_secs(3) };
    assert_eq!(
        Reader::new(dir.0.path(), patience, Earlier::new()).clusters(),
        ["a.yaml new", "z.yaml z"],
        "at start"
    );
    dir.remove("a.yaml");
    let mut reader = Reader::new(dir.0.path(), patience, Earlier::new());
    symlink(outside.path("new.yaml"), dir.path("a.yaml")).expect("a link");
    reader.sees(&others());
    assert_eq!(reader.clusters(), ["z.yaml z"], "what is new to a running Atlas");
    assert!(
        reader.errors()[0].starts_with("a.yaml: has just been changed"),
        "{:?}",
        reader.errors()
    );
    // After it was open, and nobody told of its closing.
    reader.sees_open("z.yaml");
    dir.remove("z.yaml");
    symlink(outside.path("half.yaml"), dir.path("z.yaml")).expect("a link");
    reader.sees(&others());
    assert_eq!(reader.clusters(), ["z.yaml z"], "what was open");
}

#[test]
fn a_directory_that_is_moved_into_its_place_says_nothing_of_other_files() {
    let (dir, outside) = (Dir::new(), Dir::new());
    dir.write("z.yaml", cluster("z"));
    let mut reader = Reader::patient(dir.0.path());
    outside.write("asia/a.yaml", cluster("a"));
    fs::rename(outside.path("asia"), dir.path("asia")).expect("moved");
    dir.write("half.yaml", cluster("half"));
    let moved = notify::Event::new(notify::EventKind::Modify(notify::event::ModifyKind::Name(
        notify::event::RenameMode::To,
    )));
    let sight = Sight::default();
    sight.note(dir.0.path(), Ok(moved.add_path(dir.path("asia"))));
    reader.sees(&sight.take());
    assert_eq!(reader.clusters(), ["asia/a.yaml a", "z.yaml z"]);
}

/// Otherwise Atlas would look again at once, and for ever.
#[test]
fn nothing_is_due_while_nothing_can_be_read() {
    let dir = Dir::new();
    dir.write("clusters/all.yaml", fleet("203.0.113.7"));
    let timing =
        Timing { quiet: Duration::ZERO, quiet_if_less: Duration::from_millis(100), ..FAST };
    let source =
        Source::new(&dir.path("clusters"), Arc::new(Sight::default()), timing, Earlier::new());
    let (source, _) = source.pass(Wake::Due);
    dir.write("clusters/all.yaml", cluster("a"));
    let (source, pass) = source.pass(Wake::Due);
    assert!(pass.due.is_some());
    fs::rename(dir.path("clusters"), dir.path("elsewhere")).expect("renamed");
    let (source, pass) = source.pass(Wake::Waiting);
    assert_eq!((pass.due, pass.retry), (None, true), "it is gone");
    fs::create_dir(dir.path("clusters")).expect("made");
    let (_, pass) = source.pass(Wake::Waiting);
    assert_eq!((pass.due, pass.retry), (None, true), "it is another one");
}

#[test]
fn a_file_that_went_unseen_while_it_was_waited_for_is_looked_at_once() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.7"));
    dir.write("z.yaml", cluster("z"));
    let mut reader = Reader::patient(dir.0.path());
    dir.write("all.yaml", cluster("a"));
    reader.sees_closed("all.yaml");
    assert!(reader.memory.due().is_some());
    dir.remove("all.yaml");
    reader.looks_again();
    assert_eq!(
        (reader.memory.due(), reader.clusters().len()),
        (None, 11),
        "who deletes it may put it back"
    );
    reader.sees(&others());
    assert_eq!(reader.clusters(), ["z.yaml z"]);
}

#[test]
fn what_an_earlier_process_read_counts_until_a_file_says_something_or_goes() {
    let dir = Dir::new();
    dir.write("all.yaml", fleet("203.0.113.7"));
    dir.write("gone.yaml", fleet("203.0.113.7"));
    let manifests = |file: &str| {
        let of = |manifest: &Manifest| manifest.meta().origin.file.as_deref() == Some(file);
        (file.to_owned(), dir.read_once().manifests.into_iter().filter(of).map(Arc::new).collect())
    };
    let earlier: Earlier = ["all.yaml", "gone.yaml"].map(manifests).into();
    dir.remove("gone.yaml");
    let mut reader = Reader::new(dir.0.path(), Patience::none(), earlier);
    reader.memory.set_patience(PATIENCE);
    dir.remove("all.yaml");
    reader.sees(&others());
    // Made again hours later, both are new.
    for file in ["all.yaml", "gone.yaml"] {
        dir.write(file, cluster("a"));
        reader.sees_closed(file);
        assert_eq!(reader.errors(), [""; 0]);
        dir.remove(file);
        reader.sees(&others());
    }
}
