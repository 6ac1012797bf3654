use super::issue::IssueReport;
use super::*;
use crate::standalone::pki_directory::PkiDirectory;
use crate::standalone::state_dir::StateDir;

mod broken;

fn names(names: &[&str]) -> Vec<ClusterName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

const NOW: Time = 1_800_000_000;
const DAY: Time = 86_400;

/// Issues what is due for these clusters, and says what it did. `present` are those whose manifest
/// is wrong.
fn issue(
    pki: &mut Pki<PkiDirectory>,
    clusters: &[&str],
    present: &[&str],
    now: Time,
) -> anyhow::Result<IssueReport> {
    let (clusters, present) =
        (names(clusters).into_iter().collect(), names(present).into_iter().collect());
    pki.issue_due(&Subjects { clusters: &clusters, present: &present, only: None }, now)
}

/// Issues what is due, which must succeed.
fn ensure(pki: &mut Pki<PkiDirectory>, clusters: &[&str], now: Time) -> IssueReport {
    let done = issue(pki, clusters, &[], now).unwrap();
    assert_eq!(done.problems(), [""; 0]);
    done
}

fn has_leaf(pki: &Pki<PkiDirectory>, cluster: &str) -> bool {
    pki.expiries(&NodeId::Cluster(cluster.parse().unwrap())).leaf.is_some()
}

fn revision(pki: &Pki<PkiDirectory>, cluster: &ClusterName) -> u64 {
    pki.trust_for([cluster]).revision(cluster)
}

fn pki(dir: &std::path::Path) -> (Pki<PkiDirectory>, crate::standalone::state_dir::Lock) {
    let state = StateDir::at(dir).unwrap();
    let lock = state.lock().unwrap();
    (
        Pki::load(PkiDirectory::new(state), "atlas".parse().unwrap(), Lifetimes::default())
            .unwrap(),
        lock,
    )
}

#[test]
fn what_was_issued_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let now = NOW;
    let (mut first, lock) = pki(dir.path());
    ensure(&mut first, &["tokyo"], now);
    let trust = first.trust_for(&names(&["tokyo"]));
    drop((first, lock));
    let (mut second, _lock) = pki(dir.path());
    ensure(&mut second, &["tokyo"], now + 60);
    assert_eq!(second.trust_for(&names(&["tokyo"])), trust);
    assert_eq!(second.ledger().credentials().count(), 1);
}

#[test]
fn a_forgotten_cluster_comes_back_under_the_next_revision() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    let tokyo = &names(&["tokyo"])[0];
    ensure(&mut pki, &["tokyo"], NOW);
    let old = pki.ledger().credentials().next().unwrap().fingerprint.clone();
    pki.forget(tokyo).unwrap();
    assert!(!pki.ledger().accepts(&old));
    ensure(&mut pki, &["tokyo"], NOW + 1);
    assert_eq!(revision(&pki, tokyo), 2);
    assert!(has_leaf(&pki, "tokyo"));
}

#[test]
fn a_credential_sleeps_for_a_week_and_is_then_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    let now = NOW;
    ensure(&mut pki, &["tokyo"], now);
    let fingerprint = pki.ledger().credentials().next().unwrap().fingerprint.clone();
    ensure(&mut pki, &[], now + 10);
    ensure(&mut pki, &[], now + 6 * 86_400);
    assert!(pki.ledger().accepts(&fingerprint));
    ensure(&mut pki, &[], now + 8 * 86_400);
    assert!(!pki.ledger().accepts(&fingerprint));
}

#[test]
fn a_broken_root_is_an_error_and_not_a_new_root() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, lock) = pki(dir.path());
    ensure(&mut first, &[], NOW);
    drop((first, lock));
    std::fs::write(dir.path().join("pki/root.pem"), "half").unwrap();
    let state = StateDir::at(dir.path()).unwrap();
    let error = Pki::load(PkiDirectory::new(state), "atlas".parse().unwrap(), Lifetimes::default())
        .err()
        .unwrap();
    assert!(format!("{error:#}").contains("root.pem"), "{error:#}");
}

fn fingerprints(pki: &Pki<PkiDirectory>) -> Vec<String> {
    pki.ledger().credentials().map(|credential| credential.fingerprint.clone()).collect()
}

fn load(dir: &std::path::Path) -> anyhow::Result<Pki<PkiDirectory>> {
    Pki::load(
        PkiDirectory::new(StateDir::at(dir).unwrap()),
        "atlas".parse().unwrap(),
        Lifetimes::default(),
    )
}

#[test]
fn a_cluster_that_was_away_for_long_gets_a_credential_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    ensure(&mut pki, &["tokyo"], NOW);
    let old = fingerprints(&pki);
    ensure(&mut pki, &[], NOW + DAY);
    ensure(&mut pki, &[], NOW + 9 * DAY);
    assert_eq!(fingerprints(&pki), [""; 0]);
    assert!(!dir.path().join("pki/bootstrap.tokyo.pem").exists());
    ensure(&mut pki, &["tokyo"], NOW + 10 * DAY);
    assert!(fingerprints(&pki).len() == 1 && fingerprints(&pki) != old);
    let restarted = load(dir.path()).unwrap();
    assert!(
        restarted.ledger().accepts(
            &restarted.contents.identities[&Identity::Bootstrap("tokyo".parse().unwrap(), 1)]
                .fingerprint()
        )
    );
}

#[test]
fn a_credential_that_the_list_lost_is_issued_anew_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, lock) = pki(dir.path());
    ensure(&mut first, &[], NOW);
    ensure(&mut first, &["paris"], NOW);
    ensure(&mut first, &["paris", "tokyo"], NOW);
    drop((first, lock));
    std::fs::write(dir.path().join("pki/issued/tokyo.json"), Ledger::default().to_json().unwrap())
        .unwrap();
    let (mut second, _lock) = pki(dir.path());
    ensure(&mut second, &["paris", "tokyo"], NOW + 1);
    let tokyo = Identity::Bootstrap("tokyo".parse().unwrap(), 1);
    assert!(second.ledger().accepts(&second.contents.identities[&tokyo].fingerprint()));
}

#[test]
fn a_wrong_manifest_puts_no_credential_to_sleep() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    ensure(&mut pki, &["tokyo"], NOW);
    let before = fingerprints(&pki);
    for day in 1..20 {
        issue(&mut pki, &[], &["tokyo"], NOW + day * DAY).unwrap();
    }
    assert_eq!(fingerprints(&pki), before);
    issue(&mut pki, &[], &["osaka"], NOW + 20 * DAY).unwrap();
    assert_eq!(fingerprints(&pki), before, "and one that has none gets none");
}

#[test]
fn a_missing_list_is_an_error_where_credentials_were_issued() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, lock) = pki(dir.path());
    ensure(&mut first, &[], NOW);
    drop((first, lock));
    load(dir.path()).unwrap();
    let (mut first, lock) = pki(dir.path());
    ensure(&mut first, &["tokyo"], NOW);
    drop((first, lock));
    std::fs::remove_file(dir.path().join("pki/issued/tokyo.json")).unwrap();
    let error = format!("{:#}", load(dir.path()).err().unwrap());
    assert!(
        error.contains("tokyo.json is missing")
            && error.contains("backup")
            && error.contains("bootstrap.tokyo.pem"),
        "{error}"
    );
    assert!(!error.contains("  "), "{error}");
}

#[test]
fn revisions_never_go_backwards() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, lock) = pki(dir.path());
    let tokyo = &names(&["tokyo"])[0];
    ensure(&mut first, &["tokyo"], NOW);
    let backup = std::fs::read(dir.path().join("pki/issued/tokyo.json")).unwrap();
    first.forget(tokyo).unwrap();
    ensure(&mut first, &["tokyo"], NOW);
    drop((first, lock));
    std::fs::write(dir.path().join("pki/issued/tokyo.json"), backup).unwrap();
    let (mut second, _lock) = pki(dir.path());
    ensure(&mut second, &["tokyo"], NOW);
    assert_eq!(revision(&second, tokyo), 2);
    assert!(second.bootstrap_credential(&NodeId::Cluster(tokyo.clone())).is_some());
}

#[test]
fn forgetting_twice_is_forgetting_once_and_finishes_what_a_crash_left() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, lock) = pki(dir.path());
    let tokyo = &names(&["tokyo"])[0];
    ensure(&mut first, &["tokyo"], NOW);
    let node = dir.path().join("nodes/tokyo");
    std::fs::create_dir_all(&node).unwrap();
    let kept =
        ["cluster.tokyo.pem", "bootstrap.tokyo.pem"].map(|file| dir.path().join("pki").join(file));
    let texts = kept.clone().map(|path| std::fs::read(path).unwrap());
    first.forget(tokyo).unwrap();
    first.forget(tokyo).unwrap();
    assert_eq!(revision(&first, tokyo), 2);
    assert!(!node.exists() && kept.iter().all(|path| !path.exists()));
    drop((first, lock));
    // As if the process had died with the list written and the files still there.
    std::fs::create_dir_all(&node).unwrap();
    kept.iter().zip(texts).for_each(|(path, text)| std::fs::write(path, text).unwrap());
    let (mut second, lock) = pki(dir.path());
    second.forget(tokyo).unwrap();
    assert_eq!(revision(&second, tokyo), 2);
    assert!(!node.exists() && kept.iter().all(|path| !path.exists()));
    drop((second, lock));
}

#[test]
fn leftovers_of_an_earlier_revision_go_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, lock) = pki(dir.path());
    let tokyo = &names(&["tokyo"])[0];
    ensure(&mut first, &["tokyo"], NOW);
    let pem = dir.path().join("pki/cluster.tokyo.pem");
    let text = std::fs::read(&pem).unwrap();
    first.forget(tokyo).unwrap();
    drop((first, lock));
    std::fs::write(&pem, text).unwrap();
    let (mut second, _lock) = pki(dir.path());
    ensure(&mut second, &[], NOW);
    assert!(!pem.exists());
}

#[test]
fn a_credential_stays_valid_after_its_renewal_until_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    ensure(&mut pki, &["tokyo"], NOW);
    let old = fingerprints(&pki);
    ensure(&mut pki, &["tokyo"], NOW + 183 * DAY);
    let both = fingerprints(&pki);
    assert!(both.len() == 2 && both.contains(&old[0]), "{both:?}");
}

#[test]
fn a_clock_that_was_ahead_for_a_while_costs_no_credential() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    ensure(&mut pki, &["tokyo"], NOW);
    let delivered = fingerprints(&pki);
    ensure(&mut pki, &["tokyo"], NOW + 400 * DAY);
    ensure(&mut pki, &["tokyo"], NOW + DAY);
    assert!(fingerprints(&pki).contains(&delivered[0]), "its Envoy still has this one");
}

#[test]
fn the_list_does_not_grow_with_time() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    for month in 0..100 {
        ensure(&mut pki, &["tokyo", "paris"], NOW + month * 30 * DAY);
        assert!(fingerprints(&pki).len() <= 2 * 8, "{}", fingerprints(&pki).len());
    }
}

#[test]
fn one_that_cannot_be_issued_stops_nobody_else_and_does_not_fill_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    std::fs::create_dir_all(dir.path().join("pki/bootstrap.paris.pem/in-the-way")).unwrap();
    for n in 0..5 {
        let problems = issue(&mut pki, &["paris", "tokyo"], &[], NOW + n).unwrap();
        assert!(
            matches!(problems.failed.as_slice(), [one] if one.contains("bootstrap/paris")),
            "{problems:?}"
        );
    }
    assert_eq!(fingerprints(&pki).len(), 1);
    assert!(pki.bootstrap_credential(&NodeId::Cluster("tokyo".parse().unwrap())).is_some());
    assert!(has_leaf(&pki, "paris"));
}

#[test]
fn a_clock_that_was_not_set_makes_no_root() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    let error = issue(&mut pki, &[], &[], 5).unwrap_err().to_string();
    assert!(error.contains("the clock"), "{error}");
    assert!(!dir.path().join("pki/root.pem").exists());
}

#[test]
fn an_ended_root_is_told_and_signs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    ensure(&mut pki, &["tokyo"], NOW);
    let problems = issue(&mut pki, &["tokyo"], &[], NOW + 3651 * DAY).unwrap();
    assert!(
        problems.needs_operator[0].contains("has ended") && problems.failed.is_empty(),
        "{problems:?}"
    );
}

#[test]
fn what_concerns_one_cluster_looks_at_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pki, _lock) = pki(dir.path());
    ensure(&mut pki, &["paris", "tokyo"], NOW);
    let only: BTreeSet<ClusterName> = names(&["osaka"]).into_iter().collect();
    let done = pki
        .issue_due(
            &Subjects { clusters: &only, present: &BTreeSet::new(), only: Some(&only) },
            NOW + 10 * DAY,
        )
        .unwrap();
    let of_osaka = |identity: &&Identity| matches!(identity, Identity::Cluster(name, _) | Identity::Bootstrap(name, _) if name.as_str() == "osaka");
    assert_eq!(done.changed.iter().filter(of_osaka).count(), 2);
    // The hub's and Atlas's own are looked at each time; paris and tokyo are due too, and have
    // their manifests.
    assert_eq!(done.changed.len(), 4, "{:?}", done.changed);
    assert!(
        pki.ledger().credentials().all(|credential| credential.without_manifest_since.is_none())
    );
    // A cluster that goes has none.
    pki.issue_due(
        &Subjects { clusters: &BTreeSet::new(), present: &BTreeSet::new(), only: Some(&only) },
        NOW + 10 * DAY,
    )
    .unwrap();
    let without_manifest: Vec<&str> = pki
        .ledger()
        .credentials()
        .filter(|one| one.without_manifest_since.is_some())
        .map(|one| one.cluster.as_str())
        .collect();
    assert_eq!(without_manifest, ["osaka"]);
}
