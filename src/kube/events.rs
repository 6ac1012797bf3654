//! Events on clusters' Services: what `kubectl describe service tokyo` shows.
//!
//! What is wrong is said when it is new, and again after an hour while it lasts; what happened is said once. The API server
//! is asked at most so often; what is too much is in `atlas status` anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_core::manifest::Manifest;
use atlas_core::name::{ClusterName, NodeId};
use atlas_core::validate::{Finding, Severity};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::errors::error_with_causes;
use super::watch::Reflector;
use crate::xds::streams::Streams;

/// What lasts is said again.
const AGAIN: Duration = Duration::from_secs(3600);
/// So many at once; one more each [`REFILL`].
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_secs(6);
/// Longest note that an API server takes, in bytes (`NoteLengthLimit` in Kubernetes' `pkg/apis/core/validation/events.go`).
const NOTE: usize = 1024;

/// Something to say about a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventMessage {
    /// The Service.
    pub service: String,
    /// Its uid: an Event is about exactly one object.
    pub uid: String,
    /// Whether something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

impl EventMessage {
    /// What a finding says, if it is worth an Event.
    pub fn of_finding(
        finding: &Finding,
        namespace: &str,
        uids: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let service =
            finding.object.strip_prefix("Service ")?.strip_prefix(namespace)?.strip_prefix('/')?;
        let reason = match finding.severity {
            Severity::Rejected => "Rejected",
            Severity::FellBack => "FellBack",
            Severity::Warning => "Misconfigured",
            Severity::Note => return None,
        };
        Some(Self {
            service: service.to_owned(),
            uid: uids.get(service)?.clone(),
            warning: true,
            reason,
            note: note(&finding.message()),
        })
    }
}

/// A text as a note.
fn note(text: &str) -> String {
    let mut note = text.to_owned();
    note.truncate(note.floor_char_boundary(NOTE));
    note
}

/// What lasts: says what of it is new.
#[derive(Default)]
pub struct EventDeduplicator(BTreeMap<EventMessage, Instant>);

impl EventDeduplicator {
    /// What is wrong now; returns what is to be said of it.
    pub fn news(&mut self, wrong: BTreeSet<EventMessage>) -> Vec<EventMessage> {
        self.0.retain(|said, _| wrong.contains(said));
        let now = Instant::now();
        let fresh: Vec<EventMessage> = wrong
            .into_iter()
            .filter(|said| self.0.get(said).is_none_or(|at| now.duration_since(*at) >= AGAIN))
            .collect();
        self.0.extend(fresh.iter().map(|said| (said.clone(), now)));
        fresh
    }
}

/// Between two looks at who is connected.
const LOOK: Duration = Duration::from_secs(2);

/// Says of each cluster when its Envoy connects to this replica: when it wasn't connected before, and at most once an hour,
/// since streams end and begin anew all the time.
pub async fn connections(
    streams: Arc<Streams>,
    clusters: Reflector<Manifest>,
    said: mpsc::Sender<EventMessage>,
    stop: CancellationToken,
) {
    let mut told: BTreeMap<ClusterName, Instant> = BTreeMap::new();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let Some(services) = clusters.all() else { continue };
        for stream in streams.open() {
            let NodeId::Cluster(name) = &stream.client.node else { continue };
            let uid = services.get(name.as_str()).and_then(|manifest| manifest.meta().uid.clone());
            let Some(uid) = uid.filter(|_| told.get(name).is_none_or(|at| at.elapsed() >= AGAIN))
            else {
                continue;
            };
            told.insert(name.clone(), Instant::now());
            let note = format!("An Envoy of {name} is connected to Atlas");
            let _ = said.try_send(EventMessage {
                service: name.to_string(),
                uid,
                warning: false,
                reason: "Connected",
                note,
            });
        }
    }
}

/// Publishes what it is sent, in their order.
pub async fn publish(
    client: Client,
    namespace: String,
    pod: String,
    mut said: mpsc::Receiver<EventMessage>,
    stop: CancellationToken,
) {
    let recorder = Recorder::new(
        client,
        Reporter { controller: "goatlas.io/atlas".into(), instance: Some(pod) },
    );
    let (mut tokens, mut refilled, mut failing) = (BURST, Instant::now(), false);
    loop {
        let next = tokio::select! {
            next = said.recv() => next,
            () = stop.cancelled() => return,
        };
        let Some(said) = next else { return };
        let more = u32::try_from(refilled.elapsed().as_secs() / REFILL.as_secs()).unwrap_or(BURST);
        if more > 0 {
            (tokens, refilled) = (BURST.min(tokens.saturating_add(more)), Instant::now());
        }
        if tokens == 0 {
            continue;
        }
        tokens -= 1;
        let reference = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            name: Some(said.service),
            namespace: Some(namespace.clone()),
            uid: Some(said.uid),
            ..Default::default()
        };
        let event = Event {
            type_: if said.warning { EventType::Warning } else { EventType::Normal },
            reason: said.reason.into(),
            note: Some(said.note),
            action: said.reason.into(),
            secondary: None,
        };
        match recorder.publish(&event, &reference).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(
                    error = error_with_causes(&error),
                    "cannot write an Event; `atlas status` shows the same"
                );
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, object: &str) -> Finding {
        Finding {
            severity,
            object: object.into(),
            place: String::new(),
            key: "goatlas.io/replicas".into(),
            value: "many".into(),
            problem: "is not a number".into(),
            fix: "write 2".into(),
        }
    }

    fn uids() -> BTreeMap<String, String> {
        [("tokyo".to_owned(), "1".to_owned())].into()
    }

    #[test]
    fn an_event_says_key_value_and_fix_of_a_service_that_is_there() {
        let said = EventMessage::of_finding(
            &finding(Severity::Rejected, "Service monitoring/tokyo"),
            "monitoring",
            &uids(),
        )
        .unwrap();
        assert_eq!((said.service.as_str(), said.reason, said.warning), ("tokyo", "Rejected", true));
        assert_eq!(said.note, "goatlas.io/replicas: \"many\": is not a number: write 2");
        for object in [
            "Service other/tokyo",
            "Service monitoring/paris",
            "EndpointSlice monitoring/tokyo",
            "atlas",
        ] {
            assert_eq!(
                EventMessage::of_finding(
                    &finding(Severity::Rejected, object),
                    "monitoring",
                    &uids()
                ),
                None,
                "{object}"
            );
        }
    }

    #[test]
    fn each_severity_but_a_note_has_its_reason() {
        for (severity, reason) in [
            (Severity::Rejected, Some("Rejected")),
            (Severity::FellBack, Some("FellBack")),
            (Severity::Warning, Some("Misconfigured")),
            (Severity::Note, None),
        ] {
            let finding = finding(severity, "Service monitoring/tokyo");
            let message = EventMessage::of_finding(&finding, "monitoring", &uids());
            assert!(message.iter().all(|message| message.warning), "{severity:?}");
            assert_eq!(message.map(|message| message.reason), reason, "{severity:?}");
        }
    }

    #[test]
    fn a_misspelt_key_of_a_service_becomes_a_warning_event() {
        let mut service = atlas_core::manifest::Service::default();
        service.meta.name = "tokyo".into();
        service.meta.namespace = Some("monitoring".into());
        service.meta.labels.insert("goatlas.io/cluster".into(), "true".into());
        service.meta.annotations.insert("goatlas.io/thanos-servce".into(), "a.b".into());
        let manifests = [Manifest::Service(service)];
        let findings =
            atlas_core::validate::validate(&Default::default(), &manifests, None).findings;
        let messages: Vec<EventMessage> = findings
            .iter()
            .filter_map(|finding| EventMessage::of_finding(finding, "monitoring", &uids()))
            .filter(|message| message.note.starts_with("goatlas.io/thanos-servce: "))
            .collect();
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert_eq!((message.reason, message.warning), ("Misconfigured", true));
        assert!(message.note.ends_with("did you mean goatlas.io/thanos-service?"), "{message:?}");
    }

    #[test]
    fn what_lasts_is_said_once_and_what_returns_again() {
        let said = EventMessage::of_finding(
            &finding(Severity::FellBack, "Service monitoring/tokyo"),
            "monitoring",
            &uids(),
        )
        .unwrap();
        let mut event_deduplicator = EventDeduplicator::default();
        assert_eq!(event_deduplicator.news([said.clone()].into()).len(), 1);
        assert_eq!(event_deduplicator.news([said.clone()].into()), []);
        assert_eq!(event_deduplicator.news(BTreeSet::new()), []);
        assert_eq!(event_deduplicator.news([said.clone()].into()), [said]);
    }
}
