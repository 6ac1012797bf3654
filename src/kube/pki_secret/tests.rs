use std::collections::BTreeSet;

use atlas_core::kubernetes::lease::Epoch;
use atlas_core::kubernetes::lease::fence::KnownVersion;
use atlas_core::name::TrustDomain;
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

/// Writes a secret and reads it back, as an API server would give it.
fn stored(contents: &Contents, secret: &PkiSecret) -> StoredSecret {
    let mut manifest =
        secret.manifest(&secret.data(contents, Some(&"{}".to_owned())).unwrap(), &term(), None);
    manifest["metadata"]["resourceVersion"] = "1".into();
    StoredSecret::read(serde_json::from_value(manifest).unwrap(), &domain())
}

#[test]
fn secrets_are_read_as_they_were_written() {
    let before = contents();
    let mut after = Contents::default();
    for secret in
        [PkiSecret::Leaves, PkiSecret::Root, PkiSecret::Issuers, PkiSecret::Cluster(tokyo())]
    {
        let stored = stored(&before, &secret);
        assert_eq!(
            stored.known_version(),
            KnownVersion::Present { version: ResourceVersion("1".into()), term: Some(term()) }
        );
        adopt(&mut after, &secret, stored.data.unwrap());
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
fn watched_secrets_hold_no_key_of_an_authority() {
    let parsed = stored(&contents(), &PkiSecret::Leaves).data.unwrap();
    assert!(parsed.authorities[&Authority::Root].key.expose().is_empty());
    assert_eq!(
        parsed.identities.keys().cloned().collect::<BTreeSet<_>>(),
        [Identity::Atlas, Identity::Hub].into()
    );
}

#[test]
fn certificates_that_are_gone_from_atlas_leaves_are_forgotten() {
    let issued = contents();
    let leader = || {
        let mut all = Contents::default();
        for secret in [PkiSecret::Root, PkiSecret::Leaves] {
            adopt(&mut all, &secret, stored(&issued, &secret).data.unwrap());
        }
        all
    };
    let follower = || {
        let mut all = Contents::default();
        adopt(&mut all, &PkiSecret::Leaves, stored(&issued, &PkiSecret::Leaves).data.unwrap());
        all
    };
    for (mut all, keeps_root) in [(leader(), true), (follower(), false)] {
        assert_eq!((all.identities.len(), all.authorities.len()), (2, 1));
        let mut data = stored(&issued, &PkiSecret::Leaves).data.unwrap();
        data.identities.remove(&Identity::Hub);
        data.authorities.clear();
        adopt(&mut all, &PkiSecret::Leaves, data);
        assert_eq!(all.identities.keys().collect::<Vec<_>>(), [&Identity::Atlas]);
        assert_eq!(all.authorities.contains_key(&Authority::Root), keeps_root);
    }
}

#[test]
fn a_forgotten_cluster_keeps_its_revision_and_no_key() {
    let mut all = contents();
    all.ledger.forget(&tokyo());
    let secret = PkiSecret::Cluster(tokyo());
    let data = secret.data(&all, None).unwrap();
    let patch = secret.manifest(&data, &term(), Some(&ResourceVersion("5".into())));
    assert_eq!(patch["metadata"]["resourceVersion"], "5");
    for key in [LEAF, BOOTSTRAP, SERVICE, "leaf.pem.broken", "bootstrap.pem.broken"] {
        assert!(
            patch["data"].get(key).is_some_and(Value::is_null),
            "{key}: a merge patch removes what is null"
        );
    }
    let mut after = Contents::default();
    adopt(&mut after, &secret, stored(&all, &secret).data.unwrap());
    assert_eq!((after.ledger.revision(&tokyo()), after.identities.len()), (2, 0));
}

#[test]
fn a_secret_of_one_cluster_changes_no_other() {
    let mut all = contents();
    let osaka: ClusterName = "osaka".parse().unwrap();
    let parsed = stored(&all, &PkiSecret::Cluster(tokyo())).data.unwrap();
    adopt(&mut all, &PkiSecret::Cluster(osaka.clone()), parsed);
    assert!(
        all.identities
            .keys()
            .all(|identity| PkiSecret::of_identity(identity) != PkiSecret::Cluster(osaka.clone()))
    );
    assert!(!all.ledger.has_credentials(&osaka) && all.ledger.has_credentials(&tokyo()));
}

#[test]
fn the_certificate_of_another_identity_is_broken() {
    let all = contents();
    let text =
        |identity: Identity| ByteString(pki::to_pem(&all.identities[&identity]).into_bytes());
    for (secret, key, identity, whose) in [
        (PkiSecret::Leaves, "hub.pem", Identity::Atlas, "spiffe://atlas/atlas"),
        (PkiSecret::Cluster(tokyo()), LEAF, Identity::Bootstrap(tokyo(), 1), "bootstrap/tokyo"),
        (
            PkiSecret::Cluster("osaka".parse().unwrap()),
            LEAF,
            Identity::Cluster(tokyo(), 1),
            "cluster/tokyo",
        ),
    ] {
        let mut manifest = secret.manifest(&secret.data(&all, None).unwrap(), &term(), None);
        manifest["data"][key] = json!(text(identity));
        manifest["metadata"]["resourceVersion"] = "1".into();
        let parsed =
            StoredSecret::read(serde_json::from_value(manifest).unwrap(), &domain()).data.unwrap();
        let reason = &parsed.broken[key].reason;
        assert!(
            reason.contains("it holds the certificate of") && reason.contains(whose),
            "{reason}"
        );
    }
}

#[test]
fn certificates_below_another_root_are_broken() {
    let (ours, other) = (contents(), contents());
    for (secret, keys) in [
        (PkiSecret::Leaves, ["atlas.pem", "hub.pem"]),
        (PkiSecret::Cluster(tokyo()), [BOOTSTRAP, LEAF]),
    ] {
        let (mut own, mut foreign) =
            (stored(&ours, &secret).data.unwrap(), stored(&other, &secret).data.unwrap());
        for parsed in [&mut own, &mut foreign] {
            parsed.reject_other_roots(&secret, ours.authorities.get(&Authority::Root));
        }
        assert_eq!((own.identities.len(), own.broken.len()), (2, 0));
        assert_eq!(
            (foreign.identities.len(), foreign.broken.keys().copied().collect::<Vec<_>>()),
            (0, keys.to_vec())
        );
    }
}

/// A secret in which one key is half.
fn spoilt(secret: &PkiSecret, key: &str) -> Result<SecretData, String> {
    let mut manifest = secret.manifest(&secret.data(&contents(), None).unwrap(), &term(), None);
    manifest["data"][key] = "aGFsZg==".into();
    manifest["metadata"]["resourceVersion"] = "1".into();
    StoredSecret::read(serde_json::from_value(manifest).unwrap(), &domain()).data
}

#[test]
fn a_secret_with_a_broken_authority_or_list_is_unreadable() {
    let cases = [
        (PkiSecret::Root, "root.pem"),
        (PkiSecret::Issuers, "issuing.pem"),
        (PkiSecret::Leaves, "roots.pem"),
        (PkiSecret::Cluster(tokyo()), LIST),
    ];
    for (secret, key) in cases {
        let error = spoilt(&secret, key).unwrap_err();
        assert!(
            error.contains(&secret.name())
                && error.contains(key)
                && error.contains("docs/backup.md"),
            "{error}"
        );
    }
}

#[test]
fn a_broken_certificate_doesnt_affect_the_others() {
    let cases = [
        (PkiSecret::Leaves, "hub.pem"),
        (PkiSecret::Cluster(tokyo()), LEAF),
        (PkiSecret::Cluster(tokyo()), BOOTSTRAP),
    ];
    for (secret, key) in cases {
        let parsed = spoilt(&secret, key).unwrap();
        assert_eq!(
            parsed
                .broken
                .iter()
                .map(|(key, broken)| (*key, broken.text.as_str()))
                .collect::<Vec<_>>(),
            [(key, "half")]
        );
        assert_eq!(
            (parsed.identities.len(), parsed.set_aside.len()),
            (1, 0),
            "the other one counts"
        );
        let mut all = Contents::default();
        adopt(&mut all, &secret, parsed);
        assert!(
            secret
                .identity(key, &all.ledger)
                .is_some_and(|identity| !all.identities.contains_key(&identity)),
            "it is due"
        );
    }
}

#[test]
fn secrets_have_names_that_no_cluster_can_take() {
    for secret in [PkiSecret::Leaves, PkiSecret::Cluster(tokyo())] {
        assert_eq!(PkiSecret::from_name(&secret.name()), Some(secret));
    }
    assert_eq!(PkiSecret::from_name("atlas-root-ca"), None, "it is never watched");
    assert_eq!(PkiSecret::from_name("tokyo-envoy-values"), None);
}
