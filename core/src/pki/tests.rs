use super::*;
use proptest::prelude::*;

const NOW: Time = 1_800_000_000;

fn apply(issued: &mut IssuedCertificates, requests: &[IssueRequest]) -> Result<(), TestCaseError> {
    for request in requests {
        match request {
            IssueRequest::Authority(authority, validity) => {
                if let Some(root) = issued.authorities.get(&Authority::Root) {
                    prop_assert!(validity.not_after <= root.not_after);
                }
                issued.authorities.insert(*authority, *validity);
            }
            IssueRequest::Identity(identity, validity) => {
                let issuer = issued.authorities[&Authority::of(identity)];
                prop_assert!(
                    validity.not_after <= issuer.not_after,
                    "{identity:?} outlives its issuer"
                );
                issued.identities.insert(identity.clone(), *validity);
            }
        }
    }
    Ok(())
}

/// The certificates after issuing once.
fn issued(wanted: &BTreeSet<Identity>, lifetimes: &Lifetimes) -> IssuedCertificates {
    let mut issued = IssuedCertificates::default();
    apply(&mut issued, &requests_due(&IssuedCertificates::default(), wanted, lifetimes, NOW))
        .unwrap();
    issued
}

fn tokyo() -> BTreeSet<Identity> {
    required_identities(&["tokyo".parse().unwrap()], |_| 1)
}

proptest! {
    /// Whatever the clock shows and however near the root's end is: what was just issued isn't due
    /// again, and something is due at the time that `next_due` gives.
    #[test]
    fn what_was_issued_is_not_due_again_at_once(
        lifetimes in (1000..1_000_000i64, 1000..1_000_000i64, 1000..1_000_000i64, 10..1_000_000i64, 10..1_000_000i64),
        steps in prop::collection::vec(-300_000..400_000i64, 1..60),
    ) {
        let (root, issuing, bootstrap_ca, leaf, bootstrap) = lifetimes;
        let lifetimes = Lifetimes { root, issuing, bootstrap_ca, leaf, bootstrap };
        let wanted = tokyo();
        let mut issued = IssuedCertificates::default();
        let mut now = NOW;
        for step in steps {
            let requests = requests_due(&issued, &wanted, &lifetimes, now);
            apply(&mut issued, &requests)?;
            prop_assert_eq!(requests_due(&issued, &wanted, &lifetimes, now), []);
            let root = issued.authorities[&Authority::Root];
            if !root.contains(now) {
                prop_assert_eq!(requests, []);
                let problem = root_problem(&issued, now);
                prop_assert!(matches!(problem, Some(Problem::RootNotYet(_) | Problem::RootEnded)), "{:?}", problem);
            } else if let Some(next) = next_due(&issued, &wanted, &lifetimes) {
                prop_assert!(next > now);
                prop_assert_eq!(requests_due(&issued, &wanted, &lifetimes, next - 1), []);
                prop_assert_ne!(requests_due(&issued, &wanted, &lifetimes, next), []);
            } else {
                prop_assert_eq!(requests_due(&issued, &wanted, &lifetimes, root.not_after - 1), []);
            }
            now += step;
        }
    }

    /// While the root is valid, so is every certificate.
    #[test]
    fn after_issuing_every_certificate_is_valid(
        lifetimes in (100_000..1_000_000i64, 1000..1_000_000i64, 1000..1_000_000i64, 10..1_000_000i64, 10..1_000_000i64),
        steps in prop::collection::vec(-300_000..400_000i64, 1..60),
    ) {
        let (root, issuing, bootstrap_ca, leaf, bootstrap) = lifetimes;
        let lifetimes = Lifetimes { root, issuing, bootstrap_ca, leaf, bootstrap };
        let wanted = tokyo();
        let mut issued = IssuedCertificates::default();
        let mut now = NOW;
        for step in steps {
            let requests = requests_due(&issued, &wanted, &lifetimes, now);
            apply(&mut issued, &requests)?;
            if issued.authorities[&Authority::Root].contains(now) {
                for validity in issued.authorities.values().chain(issued.identities.values()) {
                    prop_assert!(validity.contains(now), "{:?} at {}", validity, now);
                }
            }
            now += step;
        }
    }

    #[test]
    fn no_certificate_outlives_its_issuer(
        lifetimes in (1000..1_000_000i64, 1000..1_000_000i64, 1000..1_000_000i64, 10..1_000_000i64, 10..1_000_000i64),
        steps in prop::collection::vec(0..400_000i64, 1..60),
    ) {
        let (root, issuing, bootstrap_ca, leaf, bootstrap) = lifetimes;
        let lifetimes = Lifetimes { root, issuing, bootstrap_ca, leaf, bootstrap };
        let names: Vec<ClusterName> = ["tokyo", "paris"].map(|name| name.parse().unwrap()).into();
        let wanted = required_identities(&names, |_| 1);
        let mut issued = IssuedCertificates::default();
        let mut now = 1_800_000_000;
        for step in steps {
            let requests = requests_due(&issued, &wanted, &lifetimes, now);
            apply(&mut issued, &requests)?;
            now += step;
        }
    }

    #[test]
    fn what_was_just_issued_is_not_due(now in CLOCK_IS_SET..2_000_000_000i64) {
        let wanted = required_identities(&["tokyo".parse().unwrap()], |_| 1);
        let mut issued = IssuedCertificates::default();
        let requests = requests_due(&issued, &wanted, &Lifetimes::default(), now);
        prop_assert_eq!(requests.len(), 3 + 4);
        apply(&mut issued, &requests)?;
        prop_assert!(requests_due(&issued, &wanted, &Lifetimes::default(), now + 1).is_empty());
        let next = next_due(&issued, &wanted, &Lifetimes::default()).unwrap();
        prop_assert!(requests_due(&issued, &wanted, &Lifetimes::default(), next - 1).is_empty());
        prop_assert!(!requests_due(&issued, &wanted, &Lifetimes::default(), next).is_empty());
    }
}

#[test]
fn leaves_are_renewed_about_half_way() {
    let wanted = required_identities(&[], |_| 1);
    let mut issued = IssuedCertificates::default();
    let requests = requests_due(&issued, &wanted, &Lifetimes::default(), NOW);
    apply(&mut issued, &requests).unwrap();
    assert!(requests_due(&issued, &wanted, &Lifetimes::default(), NOW + 3 * DAY).is_empty());
    assert_eq!(requests_due(&issued, &wanted, &Lifetimes::default(), NOW + 7 * DAY / 2).len(), 2);
}

#[test]
fn a_cluster_s_new_revision_is_issued_beside_the_old() {
    let name: ClusterName = "tokyo".parse().unwrap();
    assert!(
        required_identities(std::slice::from_ref(&name), |_| 2)
            .contains(&Identity::Cluster(name, 2))
    );
}

#[test]
fn a_key_does_not_show_itself() {
    let leaf = Leaf { chain: "chain".into(), key: PrivateKey::new("SECRET".into()) };
    assert!(!format!("{leaf:?}").contains("SECRET"));
}

#[test]
fn what_was_issued_while_the_clock_was_ahead_is_issued_anew() {
    let (wanted, lifetimes) = (tokyo(), Lifetimes::default());
    let mut issued = issued(&wanted, &lifetimes);
    let ahead = requests_due(&issued, &wanted, &lifetimes, NOW + 200 * DAY);
    assert_eq!(ahead.len(), 1 + 4, "all but the root and the bootstrap CA");
    apply(&mut issued, &ahead).unwrap();
    let back = requests_due(&issued, &wanted, &lifetimes, NOW + DAY);
    assert_eq!(back.len(), 1 + 4, "{back:?}");
    apply(&mut issued, &back).unwrap();
    assert_eq!(requests_due(&issued, &wanted, &lifetimes, NOW + DAY + 1), []);
}

#[test]
fn a_clock_before_the_root_s_beginning_issues_nothing() {
    let (wanted, lifetimes) = (tokyo(), Lifetimes::default());
    let issued = issued(&wanted, &lifetimes);
    let now = NOW - 30 * DAY;
    assert_eq!(requests_due(&issued, &wanted, &lifetimes, now), []);
    let problem = root_problem(&issued, now).unwrap().to_string();
    assert!(problem.contains("begins in 29 days: set the clock"), "{problem}");
}

#[test]
fn no_root_is_made_by_a_clock_that_was_not_set() {
    let issued = IssuedCertificates::default();
    for now in [0, CLOCK_IS_SET - 1] {
        assert_eq!(requests_due(&issued, &tokyo(), &Lifetimes::default(), now), []);
        assert_eq!(root_problem(&issued, now), Some(Problem::ClockNotSet));
    }
    assert_eq!(root_problem(&issued, CLOCK_IS_SET), None);
}

#[test]
fn the_root_s_end_is_a_problem_a_year_ahead() {
    let (wanted, lifetimes) = (tokyo(), Lifetimes::default());
    let issued = issued(&wanted, &lifetimes);
    let end = NOW + lifetimes.root;
    assert_eq!(root_problem(&issued, end - 366 * DAY), None);
    assert_eq!(
        root_problem(&issued, end - 100 * DAY),
        Some(Problem::RootEnds(TimeUntil(100 * DAY)))
    );
    assert_eq!(root_problem(&issued, end), Some(Problem::RootEnded));
    assert_eq!(requests_due(&issued, &wanted, &lifetimes, end), []);
}
