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
    let left = [state.path("pki/.atlas-tmp-AbC123"), state.path(".atlas-tmp-AbC123"), node.join("..AbC123")];
    fs::write(&left[0], "key").unwrap();
    fs::write(&left[1], "key").unwrap();
    fs::create_dir(&left[2]).unwrap();
    fs::write(left[2].join("tls.key"), "key").unwrap();
    let others = [state.path("pki/.tmp-notes"), state.path("pki/.atlas-tmp-AbC1234"), node.join("..mine")];
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
        let writing = scope.spawn(|| (1..300).for_each(|n| assert!(swap_files(&dir, &files(n)).unwrap())));
        while !writing.is_finished() {
            let read = read_swapped(&dir, &["a", "b"]).unwrap();
            assert_eq!(read[0].1, read[1].1);
        }
    });
    assert!(read_swapped(&dir, &["c"]).is_err());
    assert!(read_swapped(&state.node("paris"), &["a"]).is_err());
}
