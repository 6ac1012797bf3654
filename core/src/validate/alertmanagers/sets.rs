//! Selects the hub's Alertmanager replicas among the candidates, and gives each its index.
//!
//! Names of a StatefulSet's pods end in a number, and so do those of the Services that
//! kube-prometheus-stack makes for each replica (`servicePerReplica`). Names that differ only in
//! this number are a **set**. One set is the hub's Alertmanager, and the number is a replica's
//! index. A name without a number is a Service in front of a set, or gets its index from a hash of
//! the name.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{ReplicaCandidates, ReplicaSource};
use crate::validate::Severity;

/// Numbers in names are below this. Indices of names without a number begin here.
const UNNUMBERED: u32 = 1000;
/// How many indices there are for names without a number. Of ten names, two have the same hash in
/// one of 20,000 fleets.
const HASHES: u32 = 999_000;

/// The result of [`select_replicas`].
pub(super) struct SelectedReplicas {
    /// The source and name of each replica, by index.
    pub replicas: BTreeMap<u32, (ReplicaSource, String)>,
    pub findings: Vec<ReplicaFinding>,
}

/// A finding about a candidate.
pub(super) struct ReplicaFinding {
    pub severity: Severity,
    pub source: ReplicaSource,
    /// The candidate's name.
    pub name: String,
    /// The name, or the part of it, that the finding quotes.
    pub value: String,
    pub problem: String,
    pub fix: String,
}

/// The sets of one source: by the part before the number, names by number.
type Sets<'a> = BTreeMap<&'a str, BTreeMap<u32, &'a str>>;

/// `endpoints` is the name of the Service whose slices were read.
pub(super) fn select_replicas(
    endpoints: &str,
    slices: &ReplicaCandidates<'_>,
    services: &ReplicaCandidates<'_>,
) -> SelectedReplicas {
    let prefixes: BTreeSet<&str> = slices
        .keys()
        .chain(services.keys())
        .filter_map(|name| Some(split_number(name)?.0))
        .collect();
    let (pods, other_pods) = split_into_sets(slices, &prefixes);
    let (named, other_named) = split_into_sets(services, &prefixes);
    // A Service in front of a set tells which set is meant.
    let meant = |set: &str| {
        other_named.iter().chain([&endpoints]).any(|service| is_in_front_of(service, set))
    };
    let pick = |sets: &Sets<'_>| {
        sets.keys().find(|set| meant(set)).or(sets.keys().next()).map(|set| (*set).to_owned())
    };
    let mut selected = SelectedReplicas { replicas: BTreeMap::new(), findings: Vec::new() };
    if let Some(set) = pick(&pods) {
        selected.select_set(ReplicaSource::Slice, &set, &pods, endpoints);
        selected.note_unnumbered(ReplicaSource::Slice, &set, &other_pods);
        // A Service of the same set adds a replica that the slices don't have yet.
        for (prefix, members) in &named {
            let missing =
                members.iter().filter(|(number, _)| !pods[set.as_str()].contains_key(number));
            for (number, name) in missing {
                if *prefix == set || is_in_front_of(prefix, &set) {
                    selected.replicas.insert(*number, (ReplicaSource::Service, (*name).to_owned()));
                } else {
                    selected.report_other_set(
                        ReplicaSource::Service,
                        name,
                        prefix,
                        &set,
                        endpoints,
                    );
                }
            }
        }
    } else if let Some(set) = pick(&named) {
        selected.select_set(ReplicaSource::Service, &set, &named, endpoints);
        selected.note_unnumbered(ReplicaSource::Service, &set, &other_named);
        selected.note_unnumbered(ReplicaSource::Slice, &set, &other_pods);
    } else if other_pods.is_empty() {
        selected.select_by_name(ReplicaSource::Service, &other_named);
    } else {
        selected.select_by_name(ReplicaSource::Slice, &other_pods);
    }
    selected
}

/// Splits names into sets and names that are in none. `prefixes` are those of all sources.
fn split_into_sets<'a>(
    names: &'a ReplicaCandidates<'_>,
    prefixes: &BTreeSet<&str>,
) -> (Sets<'a>, Vec<&'a str>) {
    let (mut sets, mut others) = (Sets::new(), Vec::new());
    for name in names.keys() {
        // Beside `alertmanager-2-0`, `alertmanager-2` is the Service in front of that set, not
        // replica 2 of `alertmanager`.
        let is_in_front = prefixes.iter().any(|prefix| is_in_front_of(name, prefix));
        match split_number(name).filter(|_| !is_in_front) {
            Some((prefix, number)) => {
                sets.entry(prefix).or_default().insert(number, name.as_str());
            }
            None => others.push(name.as_str()),
        }
    }
    (sets, others)
}

/// Whether a Service in front of a set has this name: that of the set, or that of the Prometheus
/// operator's Alertmanager resource, whose pods are `alertmanager-NAME-N`.
fn is_in_front_of(service: &str, set: &str) -> bool {
    service == set || set.strip_prefix("alertmanager-") == Some(service)
}

/// Splits a StatefulSet pod's name into the part before its number, and the number.
fn split_number(name: &str) -> Option<(&str, u32)> {
    let (prefix, digits) = name.rsplit_once('-')?;
    let is_number = !prefix.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    let number = is_number.then(|| digits.parse().ok()).flatten()?;
    (number < UNNUMBERED).then_some((prefix, number))
}

/// The index of a name without a number, unless another name has it.
fn hashed_index(name: &str) -> u32 {
    let digest = Sha256::digest(name);
    UNNUMBERED + u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % HASHES
}

impl SelectedReplicas {
    /// Selects the replicas of `set`, and reports every other set.
    fn select_set(&mut self, source: ReplicaSource, set: &str, sets: &Sets<'_>, endpoints: &str) {
        for (prefix, members) in sets {
            match (*prefix == set, members.values().next()) {
                (true, _) => self.replicas.extend(
                    members.iter().map(|(number, name)| (*number, (source, (*name).to_owned()))),
                ),
                (false, Some(first)) => {
                    self.report_other_set(source, first, prefix, set, endpoints)
                }
                (false, None) => {}
            }
        }
    }

    /// Reports that the names with this prefix are in another set than the selected one.
    fn report_other_set(
        &mut self,
        source: ReplicaSource,
        name: &str,
        prefix: &str,
        set: &str,
        endpoints: &str,
    ) {
        let fix = match source {
            ReplicaSource::Slice => format!(
                "several Alertmanagers are behind the Service {endpoints}: start Atlas with --alertmanager-endpoints and the name of a Service \
                 that selects only one of them, or run the other in another namespace"
            ),
            ReplicaSource::Service => {
                "let --alertmanager-selector select the Services of one Alertmanager only".into()
            }
        };
        let is_reported =
            |finding: &ReplicaFinding| finding.source == source && finding.value == prefix;
        if !self.findings.iter().any(is_reported) {
            self.findings.push(ReplicaFinding {
                severity: Severity::FellBack,
                source,
                name: name.to_owned(),
                value: prefix.to_owned(),
                problem: format!("{prefix}-N are replicas of another Alertmanager than {set}-N, which alone get alerts"),
                fix,
            });
        }
    }

    /// Notes names without a number beside the selected set.
    fn note_unnumbered(&mut self, source: ReplicaSource, set: &str, names: &[&str]) {
        self.findings.extend(names.iter().map(|name| ReplicaFinding {
            severity: Severity::Note,
            source,
            name: (*name).to_owned(),
            value: (*name).to_owned(),
            problem: format!("it has no number at its end, so it is no replica of its own beside {set}-N, and is passed over"),
            fix: "nothing, where it stands for these replicas; else let its name end in a number as theirs do".into(),
        }));
    }

    /// Selects names of which none has a number. A single one has the index 0. Of several, each has
    /// an index from its name, which stays when others are added or removed.
    fn select_by_name(&mut self, source: ReplicaSource, names: &[&str]) {
        for name in names {
            let mut index = if names.len() == 1 { 0 } else { hashed_index(name) };
            while self.replicas.contains_key(&index) {
                index += 1;
            }
            self.replicas.insert(index, (source, (*name).to_owned()));
            if names.len() > 1 {
                self.findings.push(ReplicaFinding {
                    severity: Severity::Note,
                    source,
                    name: (*name).to_owned(),
                    value: (*name).to_owned(),
                    problem: format!("it has no number at its end, so its index is made from its name: {index}"),
                    fix: "nothing, where Prometheus finds Alertmanagers by http_sd_configs; for names such as alertmanager0 let names end in -0, -1 \
                          and so on, as a StatefulSet's pods do"
                        .into(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(pods: &[&str], services: &[&str]) -> (Vec<(u32, String)>, Vec<String>) {
        let meta = crate::manifest::Meta::default();
        let candidates = |names: &[&str]| -> ReplicaCandidates<'_> {
            names
                .iter()
                .map(|name| {
                    (
                        (*name).to_owned(),
                        super::super::ReplicaCandidate { meta: &meta, addresses: Vec::new() },
                    )
                })
                .collect()
        };
        let (pods, services) = (candidates(pods), candidates(services));
        let SelectedReplicas { replicas, findings } =
            select_replicas("alertmanager-operated", &pods, &services);
        let findings = findings
            .into_iter()
            .map(|finding| format!("{:?} {}: {}", finding.severity, finding.value, finding.problem))
            .collect();
        (replicas.into_iter().map(|(index, (_, name))| (index, name)).collect(), findings)
    }

    fn indices(pods: &[&str], services: &[&str]) -> Vec<(u32, String)> {
        select(pods, services).0
    }

    fn of(expected: &[(u32, &str)]) -> Vec<(u32, String)> {
        expected.iter().map(|(index, name)| (*index, (*name).to_owned())).collect()
    }

    #[test]
    fn of_two_sets_behind_one_service_one_counts_and_indices_stay() {
        let all = ["alertmanager-main-0", "alertmanager-main-1", "alertmanager-test-0"];
        let (replicas, findings) = select(&all, &[]);
        assert_eq!(replicas, of(&[(0, all[0]), (1, all[1])]));
        assert!(
            findings.len() == 1 && findings[0].starts_with("FellBack alertmanager-test: "),
            "{findings:?}"
        );
        assert!(
            findings[0].contains("alertmanager-test-N")
                && findings[0].contains("alertmanager-main-N"),
            "{findings:?}"
        );
        assert_eq!(indices(&[all[0], all[2]], &[]), of(&[(0, all[0])]));
        assert_eq!(indices(&[all[1], all[2]], &[]), of(&[(1, all[1])]));
    }

    #[test]
    fn a_service_says_which_set_is_meant_however_many_are_there() {
        let pods = ["alertmanager-a-0", "alertmanager-a-1", "alertmanager-kps-alertmanager-0"];
        assert_eq!(indices(&pods, &["kps-alertmanager"]), of(&[(0, pods[2])]));
        assert_eq!(indices(&["a-0", "b-0"], &["b"]), of(&[(0, "b-0")]));
        let meta = crate::manifest::Meta::default();
        let candidate = |name: &str| {
            (name.to_owned(), super::super::ReplicaCandidate { meta: &meta, addresses: Vec::new() })
        };
        let pods = ReplicaCandidates::from([
            candidate("alertmanager-a-0"),
            candidate("alertmanager-main-0"),
        ]);
        let selected = select_replicas("alertmanager-main", &pods, &ReplicaCandidates::new());
        assert_eq!(
            selected.replicas.into_values().map(|(_, name)| name).collect::<Vec<_>>(),
            ["alertmanager-main-0"]
        );
    }

    #[test]
    fn an_unnumbered_service_beside_numbered_ones_is_passed_over() {
        let (replicas, findings) =
            select(&[], &["kps-alertmanager", "kps-alertmanager-0", "kps-alertmanager-1"]);
        assert_eq!(replicas, of(&[(0, "kps-alertmanager-0"), (1, "kps-alertmanager-1")]));
        assert!(
            findings.len() == 1 && findings[0].starts_with("Note kps-alertmanager: "),
            "{findings:?}"
        );
        // A headless one, and one of a release whose name ends in a number.
        let (replicas, findings) = select(
            &[],
            &["alertmanager-2", "alertmanager-2-0", "alertmanager-2-1", "alertmanager-headless"],
        );
        assert_eq!(replicas, of(&[(0, "alertmanager-2-0"), (1, "alertmanager-2-1")]));
        assert_eq!(findings.len(), 2, "{findings:?}");
    }

    #[test]
    fn of_two_families_of_services_one_counts() {
        let (replicas, findings) = select(&[], &["b-0", "b", "a-0", "a-1"]);
        assert_eq!(replicas, of(&[(0, "b-0")]), "whose own Service is selected too");
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!(indices(&[], &["b-0", "a-0", "a-1"]), of(&[(0, "a-0"), (1, "a-1")]));
    }

    #[test]
    fn services_add_the_replicas_that_slices_lack() {
        let pods = ["alertmanager-kps-alertmanager-0"];
        let (replicas, findings) =
            select(&pods, &["kps-alertmanager", "kps-alertmanager-0", "kps-alertmanager-1"]);
        assert_eq!(replicas, of(&[(0, pods[0]), (1, "kps-alertmanager-1")]));
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(
            indices(&["alertmanager-2-0"], &["alertmanager-2"]),
            of(&[(0, "alertmanager-2-0")])
        );
        assert_eq!(
            indices(&["alertmanager-kps-2-0"], &["kps-2"]),
            of(&[(0, "alertmanager-kps-2-0")])
        );
        let (replicas, findings) = select(&["main-0"], &["other-0", "other-1"]);
        assert_eq!(replicas, of(&[(0, "main-0")]));
        assert!(findings.len() == 1 && findings[0].starts_with("FellBack other: "), "{findings:?}");
    }

    #[test]
    fn names_without_a_number_have_an_index_that_is_theirs() {
        assert_eq!(indices(&["10.0.0.1"], &["am"]), of(&[(0, "10.0.0.1")]));
        let three = ["am-a", "am-b", "am-c"];
        let (replicas, findings) = select(&[], &three);
        assert!(replicas.len() == 3 && findings.len() == 3, "{replicas:?} {findings:?}");
        for gone in three {
            let rest: Vec<&str> = three.into_iter().filter(|name| *name != gone).collect();
            let expected: Vec<_> =
                replicas.iter().filter(|(_, name)| name != gone).cloned().collect();
            assert_eq!(indices(&[], &rest), expected);
        }
    }

    #[test]
    fn numbers_are_those_of_stateful_sets() {
        for (name, expected) in [
            ("am-0", Some(("am", 0))),
            ("am-12", Some(("am", 12))),
            ("am-007", None),
            ("am-1000", None),
            ("am0", None),
            ("-1", None),
        ] {
            assert_eq!(split_number(name), expected, "{name}");
        }
    }
}
