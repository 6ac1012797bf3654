use super::*;
use proptest::prelude::*;

const NOW: Time = 1_800_000_000;

fn apply(inventory: &mut Inventory, orders: &[IssueRequest]) -> Result<(), TestCaseError> {
    for order in orders {
        match order {
            IssueRequest::Authority(authority, validity) => {
                if let Some(root) = inventory.authorities.get(&Authority::Root) {
                    prop_assert!(validity.not_after <= root.not_after);
                }
                inventory.authorities.insert(*authority, *validity);
            }
            IssueRequest::Identity(identity, validity) => {
                let issuer = inventory.authorities[&Authority::of(identity)];
                prop_assert!(
                    validity.not_after <= issuer.not_after,
                    "{identity:?} outlives its issuer"
                );
                inventory.identities.insert(identity.clone(), *validity);
            }
        }
    }
    Ok(())
}

/// What there is after a first round.
fn issued(wanted: &BTreeSet<Identity>, lifetimes: &Lifetimes) -> Inventory {
    let mut inventory = Inventory::default();
    apply(&mut inventory, &due(&Inventory::default(), wanted, lifetimes, NOW)).unwrap();
    inventory
}

fn tokyo() -> BTreeSet<Identity> {
    required_identities(&["tokyo".parse().unwrap()], |_| 1)
}

proptest! {
    /// Whatever the clock does, and however near the root's end: what was just issued isn't due again, and what is said
    /// to be due next is.
    #[test]
    fn nothing_is_issued_for_ever(
        lifetimes in (1000..1_000_000i64, 1000..1_000_000i64, 1000..1_000_000i64, 10..1_000_000i64, 10..1_000_000i64),
        steps in prop::collection::vec(-300_000..400_000i64, 1..60),
    ) {
        let (root, issuing, bootstrap_ca, leaf, bootstrap) = lifetimes;
        let lifetimes = Lifetimes { root, issuing, bootstrap_ca, leaf, bootstrap };
        let wanted = tokyo();
        let mut inventory = Inventory::default();
        let mut now = NOW;
        for step in steps {
            let orders = due(&inventory, &wanted, &lifetimes, now);
            apply(&mut inventory, &orders)?;
            prop_assert_eq!(due(&inventory, &wanted, &lifetimes, now), []);
            let root = inventory.authorities[&Authority::Root];
            if !root.holds(now) {
                prop_assert_eq!(orders, []);
                let trouble = root_problem(&inventory, now);
                prop_assert!(matches!(trouble, Some(Problem::RootNotYet(_) | Problem::RootEnded)), "{:?}", trouble);
            } else if let Some(next) = next_due(&inventory, &wanted, &lifetimes) {
                prop_assert!(next > now);
                prop_assert_eq!(due(&inventory, &wanted, &lifetimes, next - 1), []);
                prop_assert_ne!(due(&inventory, &wanted, &lifetimes, next), []);
            } else {
                prop_assert_eq!(due(&inventory, &wanted, &lifetimes, root.not_after - 1), []);
            }
            now += step;
        }
    }

    /// While the root lives, nobody is left with a certificate that doesn't hold.
    #[test]
    fn after_a_round_everything_holds(
        lifetimes in (100_000..1_000_000i64, 1000..1_000_000i64, 1000..1_000_000i64, 10..1_000_000i64, 10..1_000_000i64),
        steps in prop::collection::vec(-300_000..400_000i64, 1..60),
    ) {
        let (root, issuing, bootstrap_ca, leaf, bootstrap) = lifetimes;
        let lifetimes = Lifetimes { root, issuing, bootstrap_ca, leaf, bootstrap };
        let wanted = tokyo();
        let mut inventory = Inventory::default();
        let mut now = NOW;
        for step in steps {
            let orders = due(&inventory, &wanted, &lifetimes, now);
            apply(&mut inventory, &orders)?;
            if inventory.authorities[&Authority::Root].holds(now) {
                for validity in inventory.authorities.values().chain(inventory.identities.values()) {
                    prop_assert!(validity.holds(now), "{:?} at {}", validity, now);
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
        let mut inventory = Inventory::default();
        let mut now = 1_800_000_000;
        for step in steps {
            let orders = due(&inventory, &wanted, &lifetimes, now);
            apply(&mut inventory, &orders)?;
            now += step;
        }
    }

    #[test]
    fn what_was_just_issued_is_not_due(now in CLOCK_IS_SET..2_000_000_000i64) {
        let wanted = required_identities(&["tokyo".parse().unwrap()], |_| 1);
        let mut inventory = Inventory::default();
        let orders = due(&inventory, &wanted, &Lifetimes::default(), now);
        prop_assert_eq!(orders.len(), 3 + 4);
        apply(&mut inventory, &orders)?;
        prop_assert!(due(&inventory, &wanted, &Lifetimes::default(), now + 1).is_empty());
        let next = next_due(&inventory, &wanted, &Lifetimes::default()).unwrap();
        prop_assert!(due(&inventory, &wanted, &Lifetimes::default(), next - 1).is_empty());
        prop_assert!(!due(&inventory, &wanted, &Lifetimes::default(), next).is_empty());
    }
}

#[test]
fn leaves_are_renewed_about_half_way() {
    let wanted = required_identities(&[], |_| 1);
    let mut inventory = Inventory::default();
    let orders = due(&inventory, &wanted, &Lifetimes::default(), NOW);
    apply(&mut inventory, &orders).unwrap();
    assert!(due(&inventory, &wanted, &Lifetimes::default(), NOW + 3 * DAY).is_empty());
    assert_eq!(due(&inventory, &wanted, &Lifetimes::default(), NOW + 7 * DAY / 2).len(), 2);
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
    let mut inventory = issued(&wanted, &lifetimes);
    let ahead = due(&inventory, &wanted, &lifetimes, NOW + 200 * DAY);
    assert_eq!(ahead.len(), 1 + 4, "all but the root and the bootstrap CA");
    apply(&mut inventory, &ahead).unwrap();
    let back = due(&inventory, &wanted, &lifetimes, NOW + DAY);
    assert_eq!(back.len(), 1 + 4, "{back:?}");
    apply(&mut inventory, &back).unwrap();
    assert_eq!(due(&inventory, &wanted, &lifetimes, NOW + DAY + 1), []);
}

#[test]
fn a_clock_before_the_root_s_beginning_issues_nothing() {
    let (wanted, lifetimes) = (tokyo(), Lifetimes::default());
    let inventory = issued(&wanted, &lifetimes);
    let now = NOW - 30 * DAY;
    assert_eq!(due(&inventory, &wanted, &lifetimes, now), []);
    let trouble = root_problem(&inventory, now).unwrap().to_string();
    assert!(trouble.contains("begins in 29 days: set the clock"), "{trouble}");
}

#[test]
fn no_root_is_made_by_a_clock_that_was_not_set() {
    let inventory = Inventory::default();
    for now in [0, CLOCK_IS_SET - 1] {
        assert_eq!(due(&inventory, &tokyo(), &Lifetimes::default(), now), []);
        assert_eq!(root_problem(&inventory, now), Some(Problem::ClockNotSet));
    }
    assert_eq!(root_problem(&inventory, CLOCK_IS_SET), None);
}

#[test]
fn the_root_s_end_is_announced_a_year_ahead_and_is_the_end() {
    let (wanted, lifetimes) = (tokyo(), Lifetimes::default());
    let inventory = issued(&wanted, &lifetimes);
    let end = NOW + lifetimes.root;
    assert_eq!(root_problem(&inventory, end - 366 * DAY), None);
    assert_eq!(
        root_problem(&inventory, end - 100 * DAY),
        Some(Problem::RootEnds(Ahead(100 * DAY)))
    );
    assert_eq!(root_problem(&inventory, end), Some(Problem::RootEnded));
    assert_eq!(due(&inventory, &wanted, &lifetimes, end), []);
}
