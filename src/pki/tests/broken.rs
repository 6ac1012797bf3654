//! Files in `pki/` that are broken.

use super::*;

/// What is done to a file of a leaf, and a word of what is said of it.
type Damage = (&'static str, fn(&std::path::Path), &'static str);

fn half(path: &std::path::Path) {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, &text[..text.len() / 2]).unwrap();
}

/// The parts of another file in the place of this one's.
fn swapped(path: &std::path::Path, with: &str, key_only: bool) {
    let other = std::fs::read_to_string(path.with_file_name(with)).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let key = |text: &str| text.find("-----BEGIN PRIVATE KEY-----").unwrap();
    let chain = if key_only { &text[..key(&text)] } else { &other[..key(&other)] };
    std::fs::write(path, format!("{chain}{}", &other[key(&other)..])).unwrap();
}

const DAMAGES: &[Damage] = &[
    ("empty", |path| std::fs::write(path, "").unwrap(), "no private key"),
    ("truncated", half, ""),
    ("not text", |path| std::fs::write(path, [0xff; 100]).unwrap(), "no private key"),
    (
        "the certificate is damaged",
        |path| {
            let text = std::fs::read_to_string(path).unwrap();
            std::fs::write(path, text.replacen("\nMII", "\nAAA", 1)).unwrap();
        },
        "not a certificate",
    ),
    ("another's key", |path| swapped(path, "atlas.pem", true), "belongs to another certificate"),
    (
        "another's file",
        |path| swapped(path, "atlas.pem", false),
        "it holds the certificate of spiffe://atlas/atlas",
    ),
];

#[test]
fn a_broken_file_of_a_leaf_is_set_aside_and_issued_anew() {
    for (file, identity) in [
        ("hub.pem", Identity::Hub),
        ("cluster.tokyo.pem", Identity::Cluster("tokyo".parse().unwrap(), 2)),
        ("bootstrap.tokyo.pem", Identity::Bootstrap("tokyo".parse().unwrap(), 2)),
    ] {
        for (what, damage, _) in DAMAGES {
            let dir = tempfile::tempdir().unwrap();
            let (mut first, lock) = pki(dir.path());
            // Its revision is not the first, and survives.
            ensure(&mut first, &["tokyo"], NOW);
            first.forget(&names(&["tokyo"])[0]).unwrap();
            ensure(&mut first, &["tokyo"], NOW);
            let delivered = fingerprints(&first);
            drop((first, lock));
            let path = dir.path().join("pki").join(file);
            damage(&path);
            let broken = std::fs::read(&path).unwrap();
            // A process that only reads, beside a running Atlas, changes nothing.
            Pki::load(
                PkiDirectory::read_only(StateDir::at(dir.path()).unwrap()),
                "atlas".parse().unwrap(),
                Lifetimes::default(),
            )
            .unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), broken);

            let (mut second, _lock) = pki(dir.path());
            let kept = path.with_file_name(format!("{file}.broken-1"));
            assert_eq!(
                (path.exists(), std::fs::read(&kept).unwrap()),
                (false, broken),
                "{file}: {what}"
            );
            let done = issue(&mut second, &["tokyo"], &[], NOW + 60).unwrap();
            assert_eq!(
                done.changed,
                [identity.clone()].into(),
                "{file}: {what}: nothing else is issued"
            );
            let told = done.problems().join("; ");
            assert!(
                told.contains(&format!(
                    "{file}.broken-1 was broken, so it was set aside and issued anew"
                )),
                "{told}"
            );
            assert!(
                second.leaf(&identity).is_some()
                    && delivered.iter().all(|one| second.ledger().accepts(one)),
                "{file}: {what}"
            );
            let again = load(dir.path()).unwrap();
            assert!(again.leaf(&identity).is_some());
            // The file that was set aside is reported until somebody removes it.
            std::fs::remove_file(kept).unwrap();
            assert_eq!(issue(&mut second, &["tokyo"], &[], NOW + 120).unwrap().problems(), [""; 0]);
        }
    }
}

#[test]
fn what_was_set_aside_of_a_cluster_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    ensure(&mut pki(dir.path()).0, &["tokyo", "tokyo2"], NOW);
    let files = || {
        std::fs::read_dir(dir.path().join("pki"))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
    };
    for file in ["cluster.tokyo.pem", "bootstrap.tokyo.pem", "cluster.tokyo2.pem"] {
        half(&dir.path().join("pki").join(file));
    }
    let (mut second, _lock) = pki(dir.path());
    assert_eq!(
        issue(&mut second, &["tokyo", "tokyo2"], &[], NOW + 60).unwrap().problems().len(),
        3
    );
    second.forget(&names(&["tokyo"])[0]).unwrap();
    assert_eq!(files().filter(|file| file.contains(".tokyo.")).collect::<Vec<_>>(), [""; 0]);
    let problems = issue(&mut second, &["tokyo2"], &[], NOW + 120).unwrap().problems().join("; ");
    assert!(
        problems.contains("cluster.tokyo2.pem.broken-1") && !problems.contains("tokyo.pem"),
        "{problems}"
    );
}

#[test]
fn what_is_broken_says_how() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, _lock) = pki(dir.path());
    ensure(&mut first, &["tokyo"], NOW);
    let path = dir.path().join("pki/cluster.tokyo.pem");
    let good = std::fs::read(&path).unwrap();
    for (what, damage, why) in DAMAGES {
        std::fs::write(&path, &good).unwrap();
        damage(&path);
        let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap_or_default();
        let root = first.contents.authorities.get(&Authority::Root);
        let error = crate::standalone::pki_directory::parse_identity_file(
            &text,
            "pki/cluster.tokyo.pem",
            &"atlas".parse().unwrap(),
            &mut pem::IssuerVerifier::new(root),
        );
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(why), "{what}: {error}");
    }
}

#[test]
fn a_leaf_below_another_root_is_set_aside() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&dir, &other] {
        ensure(&mut pki(dir.path()).0, &["tokyo"], NOW);
    }
    // A restore of some files of a directory that was another's.
    for file in ["hub.pem", "bootstrap.tokyo.pem"] {
        std::fs::copy(other.path().join("pki").join(file), dir.path().join("pki").join(file))
            .unwrap();
    }
    let (mut pki, _lock) = pki(dir.path());
    let done = issue(&mut pki, &["tokyo"], &[], NOW + 60).unwrap();
    assert_eq!(
        done.changed,
        [Identity::Hub, Identity::Bootstrap("tokyo".parse().unwrap(), 1)].into()
    );
    assert!(dir.path().join("pki/hub.pem.broken-1").exists());
    // One that an earlier authority below the same root issued is as good as ever.
    let later = NOW + 50 * DAY;
    assert!(issue(&mut pki, &["tokyo"], &[], later).unwrap().authorities);
    let restarted = load(dir.path()).unwrap();
    assert_eq!(
        restarted.contents.identities.len(),
        4,
        "{:?}",
        restarted.contents.identities.keys()
    );
}

#[test]
fn authorities_and_the_list_are_never_set_aside() {
    for (file, damage) in [
        ("root.pem", true),
        ("issuing.pem", true),
        ("bootstrap-ca.pem", true),
        ("issued/tokyo.json", false),
    ] {
        for text in ["", "half"] {
            let dir = tempfile::tempdir().unwrap();
            ensure(&mut pki(dir.path()).0, &["tokyo"], NOW);
            let path = dir.path().join("pki").join(file);
            std::fs::write(&path, text).unwrap();
            // Also where the credential's own file is broken.
            std::fs::write(dir.path().join("pki/bootstrap.tokyo.pem"), "").unwrap();
            let error = format!("{:#}", load(dir.path()).err().unwrap());
            assert!(error.contains(file) && error.contains("docs/backup.md"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert!(dir.path().join("pki/bootstrap.tokyo.pem").exists());
            if damage {
                swapped_authority(dir.path(), file);
            }
        }
    }
}

/// Puts another PKI's file of an authority, and its hub's certificate, in place of this one's.
fn swapped_authority(dir: &std::path::Path, file: &str) {
    let fresh = tempfile::tempdir().unwrap();
    ensure(&mut pki(fresh.path()).0, &["tokyo"], NOW);
    let path = dir.join("pki").join(file);
    std::fs::copy(fresh.path().join("pki").join(file), &path).unwrap();
    std::fs::copy(fresh.path().join("pki/hub.pem"), dir.join("pki/hub.pem")).unwrap();
    swapped(&path, "hub.pem", true);
    let error = format!("{:#}", load(dir).err().unwrap());
    assert!(error.contains(file) && error.contains("belongs to another certificate"), "{error}");
}
