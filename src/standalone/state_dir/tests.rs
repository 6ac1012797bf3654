use super::*;

fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::at(&dir.path().join("state")).unwrap();
    (dir, state)
}

#[test]
fn a_second_process_is_turned_away() {
    let (_dir, state) = state();
    let lock = state.lock().unwrap();
    assert!(state.lock().unwrap_err().to_string().contains("another atlas"));
    drop(lock);
    state.lock().unwrap();
}

#[test]
fn what_is_written_is_private_and_written_once() {
    let (_dir, state) = state();
    let _lock = state.lock().unwrap();
    assert!(state.write("pki/x.pem", "key").unwrap());
    assert!(!state.write("pki/x.pem", "key").unwrap());
    let mode = |path: &str| fs::metadata(state.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("pki/x.pem"), mode("pki")), (0o600, 0o700));
}

#[test]
fn files_are_swapped_together_through_one_link() {
    let (_dir, state) = state();
    let dir = state.node("tokyo");
    let files = |text: &str| [("a".to_owned(), text.to_owned()), ("b".to_owned(), text.to_owned())];
    assert!(swap_files(&dir, &files("1")).unwrap());
    assert!(!swap_files(&dir, &files("1")).unwrap());
    let before = fs::read_link(dir.join("..data")).unwrap();
    assert!(swap_files(&dir, &files("2")).unwrap());
    assert_ne!(fs::read_link(dir.join("..data")).unwrap(), before);
    assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "2");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "..data, its directory, and two links");
}

#[test]
fn a_directory_that_was_there_keeps_its_mode() {
    let (dir, _) = state();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    make_private_dir(dir.path()).unwrap();
    make_private_dir(&dir.path().join("a/b")).unwrap();
    assert_eq!((mode(dir.path()), mode(&dir.path().join("a/b"))), (0o755, 0o700));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(make_private_dir(&dir.path().join("file")).is_err());
}

#[test]
fn what_a_killed_process_left_behind_is_swept() {
    let (_dir, state) = state();
    drop(state.lock().unwrap());
    let node = state.node("tokyo");
    swap_files(&node, &[("tls.key".to_owned(), "key".to_owned())]).unwrap();
    let live = fs::read_link(node.join("..data")).unwrap();
    let left = [
        state.path("pki/.atlas-tmp-AbC123"),
        state.path(".atlas-tmp-AbC123"),
        node.join("..AbC123"),
    ];
    fs::write(&left[0], "key").unwrap();
    fs::write(&left[1], "key").unwrap();
    fs::create_dir(&left[2]).unwrap();
    fs::write(left[2].join("tls.key"), "key").unwrap();
    let others =
        [state.path("pki/.tmp-notes"), state.path("pki/.atlas-tmp-AbC1234"), node.join("..mine")];
    others.iter().for_each(|path| fs::write(path, "").unwrap());
    fs::write(state.node("bad"), "a file").unwrap();
    drop(state.lock().unwrap());
    assert!(left.iter().all(|path| !path.exists()));
    assert!(others.iter().all(|path| path.exists()));
    assert!(node.join(live).exists());
    assert_eq!(fs::read_to_string(node.join("tls.key")).unwrap(), "key");
}

#[test]
fn files_are_read_of_one_turn() {
    let (_dir, state) = state();
    let dir = state.node("tokyo");
    let files = |n: u32| [("a".to_owned(), n.to_string()), ("b".to_owned(), n.to_string())];
    swap_files(&dir, &files(0)).unwrap();
    std::thread::scope(|scope| {
        let writing =
            scope.spawn(|| (1..300).for_each(|n| assert!(swap_files(&dir, &files(n)).unwrap())));
        while !writing.is_finished() {
            let read = read_swapped(&dir, &["a", "b"]).unwrap();
            assert_eq!(read[0].1, read[1].1);
        }
    });
    assert!(read_swapped(&dir, &["c"]).is_err());
    assert!(read_swapped(&state.node("paris"), &["a"]).is_err());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// All files and directories below, but for links.
fn below(dir: &Path) -> Vec<PathBuf> {
    let paths = entries(dir)
        .filter(|entry| !entry.file_type().unwrap().is_symlink())
        .map(|entry| entry.path());
    paths.flat_map(|path| [vec![path.clone()], below(&path)].concat()).collect()
}

/// A state directory with a file of each kind.
fn filled(state: &StateDir) {
    let _lock = state.lock().unwrap();
    for file in [
        "pki/root.pem",
        "pki/issued/tokyo.json",
        "last-good/tokyo.yaml",
        "endpoints.yaml",
        "atlas.zone",
    ] {
        state.write(file, "x").unwrap();
    }
    swap_files(&state.node("tokyo"), &[("tls.key".into(), "key".into())]).unwrap();
}

#[test]
fn what_a_restore_opened_to_others_is_theirs_no_more() {
    let (dir, state) = state();
    filled(&state);
    for path in below(state.root()) {
        // As `chmod -R a+rX` does.
        set_mode(&path, mode(&path) | if path.is_dir() { 0o055 } else { 0o044 });
    }
    set_mode(state.root(), 0o755);
    let public = state.path("public");
    fs::create_dir(&public).unwrap();
    set_mode(&public, 0o755);
    let lock = state.lock().unwrap();
    for path in below(state.root()) {
        let expected = if path == public {
            0o755
        } else if path.is_dir() {
            0o700
        } else {
            0o600
        };
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    assert_eq!(mode(state.root()), 0o755, "others may rely on it");
    // While it runs too.
    for path in [state.path("pki"), state.path("pki/root.pem")] {
        set_mode(&path, 0o755);
    }
    state.keep_private().unwrap();
    assert_eq!((mode(&state.path("pki")), mode(&state.path("pki/root.pem"))), (0o700, 0o600));
    drop((lock, dir));
}

#[test]
fn a_link_to_what_others_may_read_is_refused_and_left_as_it_is() {
    let (dir, state) = state();
    filled(&state);
    let elsewhere = dir.path().join("pki_store");
    fs::rename(state.path("pki"), &elsewhere).unwrap();
    symlink(&elsewhere, state.path("pki")).unwrap();
    state.lock().unwrap();
    set_mode(&elsewhere.join("root.pem"), 0o640);
    let error = format!("{:#}", state.lock().unwrap_err());
    assert!(
        error.contains("pki leads to ") && error.contains("root.pem (mode 640): chmod -R go= "),
        "{error}"
    );
    assert_eq!(mode(&elsewhere.join("root.pem")), 0o640);
}

#[test]
fn a_state_directory_that_everybody_may_write_to_is_refused() {
    let (_dir, state) = state();
    filled(&state);
    set_mode(state.root(), 0o777);
    let error = format!("{:#}", state.lock().unwrap_err());
    assert!(
        error.contains("everybody may write to the state directory") && error.contains("chmod o-w"),
        "{error}"
    );
    // As in /tmp, where nobody can put anything in another's place.
    fs::set_permissions(state.root(), Permissions::from_mode(0o1777)).unwrap();
    state.lock().unwrap();
    set_mode(state.root(), 0o775);
    state.lock().unwrap();
}

#[test]
fn what_others_are_to_read_has_a_place_of_its_own() {
    let (dir, state) = state();
    filled(&state);
    for path in [
        state.root().to_owned(),
        state.path("pki"),
        state.node("tokyo"),
        state.path("nodes/../last-good"),
    ] {
        let error = state.ensure_apart(&path).unwrap_err().to_string();
        assert!(error.contains("--public-dir"), "{error}");
    }
    state.ensure_apart(dir.path()).unwrap();
    let file = dir.path().join("endpoints.yaml");
    write_public(&file, "x").unwrap();
    // Also where a restore has closed it.
    set_mode(&file, 0o600);
    write_public(&file, "x").unwrap();
    assert_eq!(mode(&file), 0o644);
}

#[test]
fn another_s_keys_are_refused_and_other_files_of_others_not() {
    let path = Path::new("/state/pki/root.pem");
    let error = modes::ensure_owned_by(0, path, 1000, true).unwrap_err().to_string();
    assert!(
        error.contains("/state/pki/root.pem belongs to user 1000") && error.contains("chown -R 0"),
        "{error}"
    );
    modes::ensure_owned_by(1000, path, 1000, true).unwrap();
    modes::ensure_owned_by(0, Path::new("/state/atlas.zone"), 1000, false).unwrap();
}

#[test]
fn what_lies_among_keys_and_is_not_read_may_be_another_s() {
    for (path, is_dir) in [
        ("pki", true),
        ("pki/issued", true),
        ("nodes/tokyo", true),
        ("pki/root.pem", false),
        ("pki/hub.pem.broken-1", false),
        ("pki/issued/tokyo.json", false),
        ("nodes/tokyo/tls.key", false),
        ("nodes/tokyo/envoy.yaml", false),
    ] {
        assert!(modes::is_used(Path::new(path), is_dir), "{path}");
    }
    for (path, is_dir) in [
        ("pki/lost+found", true),
        ("pki/README", false),
        ("pki/.DS_Store", false),
        ("nodes/.nfs000001.key", false),
    ] {
        assert!(!modes::is_used(Path::new(path), is_dir), "{path}");
    }
}

/// Only the superuser can give a file away, and only where a name space has another user.
#[test]
fn another_s_note_among_the_keys_stops_no_start() {
    let (_dir, state) = state();
    filled(&state);
    let note = state.path("pki/README");
    fs::write(&note, "restored on Monday").unwrap();
    let key = state.path("pki/root.pem");
    let given = std::os::unix::fs::chown(&note, Some(1), None).is_ok();
    state.lock().unwrap();
    if given {
        std::os::unix::fs::chown(&key, Some(1), None).unwrap();
        assert!(format!("{:#}", state.lock().unwrap_err()).contains("root.pem belongs to user 1"));
    }
}
