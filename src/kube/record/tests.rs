use std::collections::BTreeSet;

use atlas_core::kubernetes::lease::Epoch;
use atlas_core::pki::Lifetimes;

use super::*;
use crate::pki::{Pki, PkiStore};
use crate::standalone::pki_directory::PkiDirectory;
use crate::standalone::state_dir::StateDir;

const NOW: i64 = 1_800_000_000;

fn domain() -> TrustDomain {
    "atlas".parse().unwrap()
}

fn tokyo() -> ClusterName {
    "tokyo".parse().unwrap()
}

/// What a real PKI holds, of one cluster.
fn contents() -> Contents {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::at(dir.path()).unwrap();
    let _lock = state.lock().unwrap();
    let mut pki =
        Pki::load(PkiDirectory::new(state.clone()), domain(), Lifetimes::default()).unwrap();
    let clusters = [tokyo()].into();
    pki.issue_due(
        &crate::pki::Subjects { clusters: &clusters, present: &Default::default(), only: None },
        NOW,
    )
    .unwrap();
    PkiDirectory::new(state).load(&domain()).unwrap()
}

fn term() -> Term {
    Term { epoch: Epoch(7), holder: "atlas-0_abc".into() }
}

/// Writes a record and reads it back, as an API server would give it.
fn stored(contents: &Contents, record: &Record) -> Stored {
    let mut manifest =
        record.manifest(&record.data(contents, Some(&"{}".to_owned())).unwrap(), &term(), None);
    manifest["metadata"]["resourceVersion"] = "1".into();
    Stored::read(serde_json::from_value(manifest).unwrap(), &domain())
}

#[test]
fn what_is_written_is_read_back() {
    let before = contents();
    let mut after = Contents::default();
    for record in [Record::Leaves, Record::Root, Record::Issuers, Record::Cluster(tokyo())] {
        let stored = stored(&before, &record);
        assert_eq!(
            stored.known(),
            KnownVersion::Present { version: ResourceVersion("1".into()), term: Some(term()) }
        );
        adopt(&mut after, &record, stored.parsed.unwrap());
    }
    let texts = |contents: &Contents| {
        let authorities: Vec<_> =
            contents.authorities.iter().map(|(who, signed)| (*who, pki::to_pem(signed))).collect();
        let identities: Vec<_> = contents
            .identities
            .iter()
            .map(|(who, signed)| (who.clone(), pki::to_pem(signed)))
            .collect();
        (authorities, identities, contents.ledger.clone())
    };
    assert_eq!(texts(&after), texts(&before));
    assert_eq!(after.authorities.len(), 3);
}

#[test]
fn what_everyone_reads_holds_no_authority_s_key() {
    let parsed = stored(&contents(), &Record::Leaves).parsed.unwrap();
    assert!(parsed.authorities[&Authority::Root].key.expose().is_empty());
    assert_eq!(
        parsed.identities.keys().cloned().collect::<BTreeSet<_>>(),
        [Identity::Atlas, Identity::Hub].into()
    );
}

#[test]
fn a_forgotten_cluster_keeps_its_revision_and_no_key() {
    let mut all = contents();
    all.ledger.forget(&tokyo());
    let record = Record::Cluster(tokyo());
    let data = record.data(&all, None).unwrap();
    let patch = record.manifest(&data, &term(), Some(&ResourceVersion("5".into())));
    assert_eq!(patch["metadata"]["resourceVersion"], "5");
    for key in [LEAF, BOOTSTRAP, SERVICE, "leaf.pem.broken", "bootstrap.pem.broken"] {
        assert!(
            patch["data"].get(key).is_some_and(Value::is_null),
            "{key}: a merge patch removes what is null"
        );
    }
    let mut after = Contents::default();
    adopt(&mut after, &record, stored(&all, &record).parsed.unwrap());
    assert_eq!((after.ledger.revision(&tokyo()), after.identities.len()), (2, 0));
}

#[test]
fn a_cluster_s_record_says_nothing_of_another() {
    let mut all = contents();
    let osaka: ClusterName = "osaka".parse().unwrap();
    let parsed = stored(&all, &Record::Cluster(tokyo())).parsed.unwrap();
    adopt(&mut all, &Record::Cluster(osaka.clone()), parsed);
    assert!(
        all.identities
            .keys()
            .all(|identity| Record::of_identity(identity) != Record::Cluster(osaka.clone()))
    );
    assert!(!all.ledger.has_credentials(&osaka) && all.ledger.has_credentials(&tokyo()));
}

#[test]
fn another_s_certificate_is_broken() {
    let all = contents();
    let text =
        |identity: Identity| ByteString(pki::to_pem(&all.identities[&identity]).into_bytes());
    for (record, key, identity, whose) in [
        (Record::Leaves, "hub.pem", Identity::Atlas, "spiffe://atlas/atlas"),
        (Record::Cluster(tokyo()), LEAF, Identity::Bootstrap(tokyo(), 1), "bootstrap/tokyo"),
        (
            Record::Cluster("osaka".parse().unwrap()),
            LEAF,
            Identity::Cluster(tokyo(), 1),
            "cluster/tokyo",
        ),
    ] {
        let mut manifest = record.manifest(&record.data(&all, None).unwrap(), &term(), None);
        manifest["data"][key] = json!(text(identity));
        manifest["metadata"]["resourceVersion"] = "1".into();
        let parsed =
            Stored::read(serde_json::from_value(manifest).unwrap(), &domain()).parsed.unwrap();
        let why = &parsed.broken[key].why;
        assert!(why.contains("it holds the certificate of") && why.contains(whose), "{why}");
    }
}

#[test]
fn what_was_issued_below_another_root_is_broken() {
    let (ours, other) = (contents(), contents());
    for (record, keys) in
        [(Record::Leaves, ["atlas.pem", "hub.pem"]), (Record::Cluster(tokyo()), [BOOTSTRAP, LEAF])]
    {
        let (mut own, mut foreign) =
            (stored(&ours, &record).parsed.unwrap(), stored(&other, &record).parsed.unwrap());
        for parsed in [&mut own, &mut foreign] {
            parsed.doubt_foreign(&record, ours.authorities.get(&Authority::Root));
        }
        assert_eq!((own.identities.len(), own.broken.len()), (2, 0));
        assert_eq!(
            (foreign.identities.len(), foreign.broken.keys().copied().collect::<Vec<_>>()),
            (0, keys.to_vec())
        );
    }
}

/// A record in which one key is half.
fn spoilt(record: &Record, key: &str) -> Result<Parsed, String> {
    let mut manifest = record.manifest(&record.data(&contents(), None).unwrap(), &term(), None);
    manifest["data"][key] = "aGFsZg==".into();
    manifest["metadata"]["resourceVersion"] = "1".into();
    Stored::read(serde_json::from_value(manifest).unwrap(), &domain()).parsed
}

#[test]
fn what_cannot_be_made_again_is_broken_as_a_whole_and_says_what_to_do() {
    let cases = [
        (Record::Root, "root.pem"),
        (Record::Issuers, "issuing.pem"),
        (Record::Leaves, "roots.pem"),
        (Record::Cluster(tokyo()), LIST),
    ];
    for (record, key) in cases {
        let error = spoilt(&record, key).unwrap_err();
        assert!(
            error.contains(&record.secret())
                && error.contains(key)
                && error.contains("docs/backup.md"),
            "{error}"
        );
    }
}

#[test]
fn a_broken_certificate_is_set_aside_and_the_rest_counts() {
    let cases = [
        (Record::Leaves, "hub.pem"),
        (Record::Cluster(tokyo()), LEAF),
        (Record::Cluster(tokyo()), BOOTSTRAP),
    ];
    for (record, key) in cases {
        let parsed = spoilt(&record, key).unwrap();
        assert_eq!(
            parsed
                .broken
                .iter()
                .map(|(key, broken)| (*key, broken.text.as_str()))
                .collect::<Vec<_>>(),
            [(key, "half")]
        );
        assert_eq!((parsed.identities.len(), parsed.aside.len()), (1, 0), "the other one counts");
        let mut all = Contents::default();
        adopt(&mut all, &record, parsed);
        assert!(
            record
                .identity(key, &all.ledger)
                .is_some_and(|identity| !all.identities.contains_key(&identity)),
            "it is due"
        );
    }
}

#[test]
fn secrets_have_names_that_no_cluster_can_take() {
    for record in [Record::Leaves, Record::Cluster(tokyo())] {
        assert_eq!(Record::of_secret(&record.secret()), Some(record));
    }
    assert_eq!(Record::of_secret("atlas-root-ca"), None, "it is never watched");
    assert_eq!(Record::of_secret("tokyo-envoy-values"), None);
}
