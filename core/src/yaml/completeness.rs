//! Guesses whether a changed file is complete, or whether something is still writing it.
//!
//! The guess is made from the event by which the file changed, and from what its text has lost. A
//! file that was written in place and closed is nearly always complete, but a writer may close it
//! and go on (`>>`). Where there are no events (on NFS, or before Atlas started), half a file looks
//! like a small one.

use std::collections::BTreeMap;

use crate::manifest::{Manifest, Meta};

/// The event by which a file's text changed, by its name in inotify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEvent {
    /// A file was moved to this path.
    MovedTo,
    /// The file was written in place and closed.
    CloseWrite,
    /// There was no event.
    Unknown,
}

/// Why a text may be incomplete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncompleteReason {
    /// It has everything that the file had before, but may continue.
    MayContinue,
    /// No event says that it is complete, and its last value may be truncated.
    Truncated,
    /// It lacks this object, or this key of an object, which was there before. Something was
    /// removed, or the text is incomplete.
    Missing(String),
}

/// A reason to wait before `after`, the manifests of `text`, replace `before`; `None` if the text
/// is complete.
pub fn incomplete_reason<'a>(
    before: impl IntoIterator<Item = &'a Manifest>,
    after: &[Manifest],
    text: &str,
    arrival: WriteEvent,
) -> Option<IncompleteReason> {
    let before: Vec<&Manifest> = before.into_iter().collect();
    // A text with the same manifests may continue, but until then nothing changes.
    let is_same = !before.is_empty() && before.iter().copied().eq(after);
    if arrival == WriteEvent::MovedTo || is_same {
        return None;
    }
    let after: BTreeMap<_, _> = after.iter().map(|manifest| (manifest.key(), manifest)).collect();
    let lost = |old: &Manifest| match after.get(&old.key()) {
        None => Some(old.key().to_string()),
        Some(new) => lost_part(old, new).map(|part| format!("{part} of {}", old.key())),
    };
    match before.into_iter().find_map(lost) {
        Some(lost) => Some(IncompleteReason::Missing(lost)),
        None => match (arrival, ends_within_a_value(text)) {
            (WriteEvent::Unknown, true) => Some(IncompleteReason::Truncated),
            (WriteEvent::Unknown, false) | (_, true) => Some(IncompleteReason::MayContinue),
            (_, false) => None,
        },
    }
}

/// The first part of the old object that the new one lacks.
fn lost_part(old: &Manifest, new: &Manifest) -> Option<String> {
    if let Some(key) = lost_key(old.meta(), new.meta()) {
        return Some(key);
    }
    let shrinks = |old: usize, new: usize, what: &str| (new < old).then(|| what.to_owned());
    match (old, new) {
        (Manifest::Service(old), Manifest::Service(new)) => {
            shrinks(old.external_ips.len(), new.external_ips.len(), "a spec.externalIPs")
                .or_else(|| {
                    shrinks(
                        old.external_name.iter().len(),
                        new.external_name.iter().len(),
                        "spec.externalName",
                    )
                })
                .or_else(|| shrinks(old.ports.len(), new.ports.len(), "a port in spec.ports"))
        }
        (Manifest::EndpointSlice(old), Manifest::EndpointSlice(new)) => {
            shrinks(old.endpoints.len(), new.endpoints.len(), "an endpoint")
                .or_else(|| {
                    old.endpoints.iter().zip(&new.endpoints).find_map(|(old, new)| {
                        shrinks(
                            old.addresses.len(),
                            new.addresses.len(),
                            "an address of an endpoint",
                        )
                        .or_else(|| {
                            shrinks(
                                old.hostname.iter().len(),
                                new.hostname.iter().len(),
                                "the hostname of an endpoint",
                            )
                        })
                        .or_else(|| {
                            shrinks(
                                old.target.iter().len(),
                                new.target.iter().len(),
                                "the targetRef of an endpoint",
                            )
                        })
                    })
                })
                .or_else(|| shrinks(old.ports.len(), new.ports.len(), "a port"))
        }
        // Objects of the same key have the same kind.
        _ => None,
    }
}

/// A key that is missing, or whose value is only the beginning of the old value: a value of several
/// lines may be truncated after any of them.
fn lost_key(old: &Meta, new: &Meta) -> Option<String> {
    let labels = old.labels.iter().map(|(key, old)| (key, old, new.labels.get(key)));
    let annotations = old.annotations.iter().map(|(key, old)| (key, old, new.annotations.get(key)));
    labels.chain(annotations).find_map(|(key, old, new)| match new.map(|new| new.trim()) {
        None => Some(key.clone()),
        Some(new) if new.len() < old.trim().len() && old.trim().starts_with(new) => {
            Some(format!("all of {key}"))
        }
        Some(_) => None,
    })
}

/// Whether the last value may be truncated: `203.0.113.1` of `203.0.113.123`. A line feed, or a
/// character that closes a value, comes after a complete one.
fn ends_within_a_value(text: &str) -> bool {
    !text.is_empty() && !text.ends_with(['\n', '}', ']', '"', '\''])
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const FLEET: &str = "apiVersion: v1
kind: Service
metadata:
  name: tokyo
  labels: {goatlas.io/cluster: 'true'}
  annotations:
    goatlas.io/prometheus-name: k8s
spec:
  ports:
  - {name: grpc, port: 10901}
  externalIPs:
  - 203.0.113.7
  - 203.0.113.123
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: alertmanager-operated-1
  labels:
    kubernetes.io/service-name: alertmanager-operated
endpoints:
- hostname: alertmanager-0
  addresses:
  - 10.0.0.8
- hostname: alertmanager-1
  addresses:
  - 10.0.0.9
ports:
- name: http-web
  port: 9093
---
apiVersion: v1
kind: Service
spec: {externalIPs: [203.0.113.9]}
metadata:
  name: osaka
  labels: {goatlas.io/cluster: 'true'}
  annotations:
    goatlas.io/addresses: >-
      one.example.com,
      two.example.com,
      three.example.com
";

    fn manifests(text: &str) -> Vec<Manifest> {
        parse("a.yaml", text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
    }

    fn reason_of(before: &str, after: &str, arrival: WriteEvent) -> Option<IncompleteReason> {
        incomplete_reason(&manifests(before), &manifests(after), after, arrival)
    }

    /// At whatever character a writer stops, the text is invalid or there is a reason to wait.
    #[test]
    fn every_beginning_of_a_file_is_invalid_or_may_be_incomplete() {
        let mut right = 0;
        for (end, _) in FLEET.char_indices().skip(1) {
            let half = &FLEET[..end];
            let Ok(manifests) = parse("a.yaml", half) else { continue };
            if manifests == self::manifests(FLEET) {
                assert_eq!(half, FLEET.trim_end(), "nothing but the last line's end is missing");
                continue;
            }
            let reason =
                |arrival| incomplete_reason(&self::manifests(FLEET), &manifests, half, arrival);
            assert!(reason(WriteEvent::CloseWrite).is_some(), "{half}");
            assert!(
                matches!(
                    reason(WriteEvent::Unknown),
                    Some(IncompleteReason::Missing(_) | IncompleteReason::Truncated)
                ),
                "{half}"
            );
            right += 1;
        }
        assert!(right > 20, "{right} beginnings are right manifests");
    }

    #[test]
    fn a_value_that_may_be_truncated_is_waited_for() {
        let before = "apiVersion: v1\nkind: Service\nmetadata: {name: tokyo}\n";
        let after = format!("{before}spec:\n  externalIPs:\n  - 203.0.113.1");
        assert_eq!(
            reason_of(before, &after, WriteEvent::CloseWrite),
            Some(IncompleteReason::MayContinue)
        );
        assert_eq!(reason_of(before, &format!("{after}23\n"), WriteEvent::CloseWrite), None);
        assert_eq!(reason_of("", before.trim_end(), WriteEvent::CloseWrite), None);
    }

    #[test]
    fn a_file_that_lost_nothing_or_was_moved_is_complete() {
        assert_eq!(reason_of(FLEET, FLEET, WriteEvent::Unknown), None);
        let more = format!(
            "# changed\n{}",
            FLEET.replace(": k8s", ": main").replace("203.0.113.7", "203.0.113.8\n  - 203.0.113.9")
        );
        for (arrival, expected) in [
            (WriteEvent::CloseWrite, None),
            (WriteEvent::MovedTo, None),
            (WriteEvent::Unknown, Some(IncompleteReason::MayContinue)),
        ] {
            assert_eq!(reason_of(FLEET, &more, arrival), expected);
        }
        assert_eq!(reason_of(FLEET, "# nothing\n", WriteEvent::MovedTo), None);
        assert_eq!(
            reason_of(FLEET, "# nothing\n", WriteEvent::CloseWrite),
            Some(IncompleteReason::Missing("Service tokyo".into()))
        );
        assert_eq!(
            reason_of("", "# nothing", WriteEvent::Unknown),
            Some(IncompleteReason::Truncated)
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let cases = [
            (
                "    goatlas.io/prometheus-name: k8s\n",
                "goatlas.io/prometheus-name of Service tokyo",
            ),
            ("  - 203.0.113.7\n", "a spec.externalIPs of Service tokyo"),
            ("  - {name: grpc, port: 10901}\n", "a port in spec.ports of Service tokyo"),
            (
                "- hostname: alertmanager-0\n  addresses:\n  - 10.0.0.8\n",
                "an endpoint of EndpointSlice alertmanager-operated-1",
            ),
            (",\n      three.example.com", "all of goatlas.io/addresses of Service osaka"),
            (
                "  - 10.0.0.8\n",
                "an address of an endpoint of EndpointSlice alertmanager-operated-1",
            ),
            ("- name: http-web\n  port: 9093\n", "a port of EndpointSlice alertmanager-operated-1"),
        ];
        for (part, expected) in cases {
            assert_eq!(
                reason_of(FLEET, &FLEET.replace(part, ""), WriteEvent::CloseWrite),
                Some(IncompleteReason::Missing(expected.into())),
                "{part}"
            );
        }
    }
}
