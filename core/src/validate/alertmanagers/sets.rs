//! Which of the Alertmanagers found are the hub's, and the index of each.
//!
//! A StatefulSet's pods are numbered, and so are the Services that kube-prometheus-stack makes for each replica (`servicePerReplica`).
//! Names that are alike but for their number are a **set**. There is one set for the hub: the number is the index, whoever else is
//! there. Who has no number stands for others, or has an index that follows from the name.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{Candidates, Source};
use crate::validate::Severity;

/// Numbers are below this; what has none has an index from here on.
const UNNUMBERED: u32 = 1000;
/// How many of these indices there are. Two of ten names have the same in one of 20,000 fleets.
const HASHES: u32 = 999_000;

/// What came of it.
pub(super) struct Chosen {
    /// By index: where each is found, and its name.
    pub replicas: BTreeMap<u32, (Source, String)>,
    /// What people should know.
    pub remarks: Vec<Remark>,
}

/// Something to know about a name.
pub(super) struct Remark {
    pub severity: Severity,
    pub source: Source,
    /// The name.
    pub name: String,
    /// What of it.
    pub value: String,
    pub problem: String,
    pub fix: String,
}

/// Names of one source that are alike but for their number.
type Sets<'a> = BTreeMap<&'a str, BTreeMap<u32, &'a str>>;

/// `endpoints` is the Service whose slices were read.
pub(super) fn choose(
    endpoints: &str,
    slices: &Candidates<'_>,
    services: &Candidates<'_>,
) -> Chosen {
    let prefixes: BTreeSet<&str> =
        slices.keys().chain(services.keys()).filter_map(|name| Some(number(name)?.0)).collect();
    let (pods, other_pods) = sort(slices, &prefixes);
    let (named, other_named) = sort(services, &prefixes);
    // Whose set is meant: a Service that stands for one of them is called as it is.
    let meant =
        |set: &str| other_named.iter().chain([&endpoints]).any(|service| stands_for(service, set));
    let pick = |sets: &Sets<'_>| {
        sets.keys().find(|set| meant(set)).or(sets.keys().next()).map(|set| (*set).to_owned())
    };
    let mut chosen = Chosen { replicas: BTreeMap::new(), remarks: Vec::new() };
    if let Some(set) = pick(&pods) {
        chosen.take(Source::Slice, &set, &pods, endpoints);
        chosen.pass_over(Source::Slice, &set, &other_pods);
        // Services of the same replicas, for those that the slices don't have (yet). Others of these numbers are taken for the same.
        for (prefix, members) in &named {
            let missing =
                members.iter().filter(|(number, _)| !pods[set.as_str()].contains_key(number));
            for (number, name) in missing {
                if *prefix == set || stands_for(prefix, &set) {
                    chosen.replicas.insert(*number, (Source::Service, (*name).to_owned()));
                } else {
                    chosen.leave_out(Source::Service, name, prefix, &set, endpoints);
                }
            }
        }
    } else if let Some(set) = pick(&named) {
        chosen.take(Source::Service, &set, &named, endpoints);
        chosen.pass_over(Source::Service, &set, &other_named);
        chosen.pass_over(Source::Slice, &set, &other_pods);
    } else if other_pods.is_empty() {
        chosen.by_name(Source::Service, &other_named);
    } else {
        chosen.by_name(Source::Slice, &other_pods);
    }
    chosen
}

/// The sets among names, and those that are in none. `prefixes` are all there are, of any source.
fn sort<'a>(names: &'a Candidates<'_>, prefixes: &BTreeSet<&str>) -> (Sets<'a>, Vec<&'a str>) {
    let (mut sets, mut others) = (Sets::new(), Vec::new());
    for name in names.keys() {
        // `alertmanager-2` beside `alertmanager-2-0` stands for that one, and is no third `alertmanager`.
        let is_prefix = prefixes.iter().any(|prefix| stands_for(name, prefix));
        match number(name).filter(|_| !is_prefix) {
            Some((prefix, number)) => {
                sets.entry(prefix).or_default().insert(number, name.as_str());
            }
            None => others.push(name.as_str()),
        }
    }
    (sets, others)
}

/// Whether this is how a Service in front of a set is called: as the set, or as the Prometheus operator's Alertmanager, whose pods are
/// `alertmanager-NAME-N`.
fn stands_for(service: &str, set: &str) -> bool {
    service == set || set.strip_prefix("alertmanager-") == Some(service)
}

/// What stands before the number at the end of a StatefulSet pod's name, and the number.
fn number(name: &str) -> Option<(&str, u32)> {
    let (prefix, digits) = name.rsplit_once('-')?;
    let plain = !prefix.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    let number = plain.then(|| digits.parse().ok()).flatten()?;
    (number < UNNUMBERED).then_some((prefix, number))
}

/// The first of the indices that a name without a number can have.
fn hashed(name: &str) -> u32 {
    let digest = Sha256::digest(name);
    UNNUMBERED + u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % HASHES
}

impl Chosen {
    /// This set of all, and no other.
    fn take(&mut self, source: Source, set: &str, of: &Sets<'_>, endpoints: &str) {
        for (prefix, members) in of {
            match (*prefix == set, members.values().next()) {
                (true, _) => self.replicas.extend(
                    members.iter().map(|(number, name)| (*number, (source, (*name).to_owned()))),
                ),
                (false, Some(first)) => self.leave_out(source, first, prefix, set, endpoints),
                (false, None) => {}
            }
        }
    }

    fn leave_out(&mut self, source: Source, name: &str, prefix: &str, set: &str, endpoints: &str) {
        let fix = match source {
            Source::Slice => format!(
                "several Alertmanagers are behind the Service {endpoints}: start Atlas with --alertmanager-endpoints and the name of a Service \
                 that selects only one of them, or run the other in another namespace"
            ),
            Source::Service => {
                "let --alertmanager-selector select the Services of one Alertmanager only".into()
            }
        };
        let of_set = |remark: &Remark| remark.source == source && remark.value == prefix;
        if !self.remarks.iter().any(of_set) {
            self.remarks.push(Remark {
                severity: Severity::FellBack,
                source,
                name: name.to_owned(),
                value: prefix.to_owned(),
                problem: format!("{prefix}-N are replicas of another Alertmanager than {set}-N, which alone get alerts"),
                fix,
            });
        }
    }

    /// Who has no number beside a set.
    fn pass_over(&mut self, source: Source, set: &str, names: &[&str]) {
        self.remarks.extend(names.iter().map(|name| Remark {
            severity: Severity::Note,
            source,
            name: (*name).to_owned(),
            value: (*name).to_owned(),
            problem: format!("it has no number at its end, so it is no replica of its own beside {set}-N, and is passed over"),
            fix: "nothing, where it stands for these replicas; else let its name end in a number as theirs do".into(),
        }));
    }

    /// Nobody has a number. A single one is 0; of several each has an index that no other's coming or going changes.
    fn by_name(&mut self, source: Source, names: &[&str]) {
        for name in names {
            let mut index = if names.len() == 1 { 0 } else { hashed(name) };
            while self.replicas.contains_key(&index) {
                index += 1;
            }
            self.replicas.insert(index, (source, (*name).to_owned()));
            if names.len() > 1 {
                self.remarks.push(Remark {
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

    fn chosen(pods: &[&str], services: &[&str]) -> (Vec<(u32, String)>, Vec<String>) {
        let meta = crate::manifest::Meta::default();
        let candidates = |names: &[&str]| -> Candidates<'_> {
            names
                .iter()
                .map(|name| {
                    (
                        (*name).to_owned(),
                        super::super::Candidate { meta: &meta, addresses: Vec::new() },
                    )
                })
                .collect()
        };
        let (pods, services) = (candidates(pods), candidates(services));
        let Chosen { replicas, remarks } = choose("alertmanager-operated", &pods, &services);
        let remarks = remarks
            .into_iter()
            .map(|remark| format!("{:?} {}: {}", remark.severity, remark.value, remark.problem))
            .collect();
        (replicas.into_iter().map(|(index, (_, name))| (index, name)).collect(), remarks)
    }

    fn indices(pods: &[&str], services: &[&str]) -> Vec<(u32, String)> {
        chosen(pods, services).0
    }

    fn of(expected: &[(u32, &str)]) -> Vec<(u32, String)> {
        expected.iter().map(|(index, name)| (*index, (*name).to_owned())).collect()
    }

    #[test]
    fn of_two_sets_behind_one_service_one_counts_and_indices_stay() {
        let all = ["alertmanager-main-0", "alertmanager-main-1", "alertmanager-test-0"];
        let (replicas, remarks) = chosen(&all, &[]);
        assert_eq!(replicas, of(&[(0, all[0]), (1, all[1])]));
        assert!(
            remarks.len() == 1 && remarks[0].starts_with("FellBack alertmanager-test: "),
            "{remarks:?}"
        );
        assert!(
            remarks[0].contains("alertmanager-test-N")
                && remarks[0].contains("alertmanager-main-N"),
            "{remarks:?}"
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
            (name.to_owned(), super::super::Candidate { meta: &meta, addresses: Vec::new() })
        };
        let pods =
            Candidates::from([candidate("alertmanager-a-0"), candidate("alertmanager-main-0")]);
        let chosen = choose("alertmanager-main", &pods, &Candidates::new());
        assert_eq!(
            chosen.replicas.into_values().map(|(_, name)| name).collect::<Vec<_>>(),
            ["alertmanager-main-0"]
        );
    }

    #[test]
    fn an_unnumbered_service_beside_numbered_ones_is_passed_over() {
        let (replicas, remarks) =
            chosen(&[], &["kps-alertmanager", "kps-alertmanager-0", "kps-alertmanager-1"]);
        assert_eq!(replicas, of(&[(0, "kps-alertmanager-0"), (1, "kps-alertmanager-1")]));
        assert!(
            remarks.len() == 1 && remarks[0].starts_with("Note kps-alertmanager: "),
            "{remarks:?}"
        );
        // A headless one, and one of a release whose name ends in a number.
        let (replicas, remarks) = chosen(
            &[],
            &["alertmanager-2", "alertmanager-2-0", "alertmanager-2-1", "alertmanager-headless"],
        );
        assert_eq!(replicas, of(&[(0, "alertmanager-2-0"), (1, "alertmanager-2-1")]));
        assert_eq!(remarks.len(), 2, "{remarks:?}");
    }

    #[test]
    fn of_two_families_of_services_one_counts() {
        let (replicas, remarks) = chosen(&[], &["b-0", "b", "a-0", "a-1"]);
        assert_eq!(replicas, of(&[(0, "b-0")]), "whose own Service is selected too");
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert_eq!(indices(&[], &["b-0", "a-0", "a-1"]), of(&[(0, "a-0"), (1, "a-1")]));
    }

    #[test]
    fn services_add_the_replicas_that_slices_lack() {
        let pods = ["alertmanager-kps-alertmanager-0"];
        let (replicas, remarks) =
            chosen(&pods, &["kps-alertmanager", "kps-alertmanager-0", "kps-alertmanager-1"]);
        assert_eq!(replicas, of(&[(0, pods[0]), (1, "kps-alertmanager-1")]));
        assert!(remarks.is_empty(), "{remarks:?}");
        assert_eq!(
            indices(&["alertmanager-2-0"], &["alertmanager-2"]),
            of(&[(0, "alertmanager-2-0")])
        );
        assert_eq!(
            indices(&["alertmanager-kps-2-0"], &["kps-2"]),
            of(&[(0, "alertmanager-kps-2-0")])
        );
        let (replicas, remarks) = chosen(&["main-0"], &["other-0", "other-1"]);
        assert_eq!(replicas, of(&[(0, "main-0")]));
        assert!(remarks.len() == 1 && remarks[0].starts_with("FellBack other: "), "{remarks:?}");
    }

    #[test]
    fn names_without_a_number_have_an_index_that_is_theirs() {
        assert_eq!(indices(&["10.0.0.1"], &["am"]), of(&[(0, "10.0.0.1")]));
        let three = ["am-a", "am-b", "am-c"];
        let (replicas, remarks) = chosen(&[], &three);
        assert!(replicas.len() == 3 && remarks.len() == 3, "{replicas:?} {remarks:?}");
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
            assert_eq!(number(name), expected, "{name}");
        }
    }
}
