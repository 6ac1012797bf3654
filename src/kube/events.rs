//! Kubernetes Events on clusters' Services: what `kubectl describe service tokyo` shows.
//!
//! A problem becomes a Warning Event when it is new, and again every hour while it lasts. What
//! happened once becomes one Normal Event. Events are limited to a burst and a rate; `atlas status`
//! shows all problems.

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
use super::reflector::Reflector;
use crate::xds::open_streams::Streams;

/// When an Event of a problem that lasts is repeated, and how often at most an Envoy's connection
/// becomes an Event.
const REPEAT_AFTER: Duration = Duration::from_secs(3600);
/// How many Events may be written at once; one more each [`REFILL`].
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_secs(6);
/// How often open streams are looked at.
const CHECK_STREAMS: Duration = Duration::from_secs(2);
/// Longest note that an API server takes, in bytes (`NoteLengthLimit` in Kubernetes'
/// `pkg/apis/core/validation/events.go`).
const LONGEST_NOTE: usize = 1024;

/// An Event about a cluster's Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventMessage {
    /// The name of the Service.
    pub service: String,
    /// Its uid: an Event is about exactly one object.
    pub uid: String,
    /// Whether its type is `Warning`; else `Normal`.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

impl EventMessage {
    /// The Event of a finding about a Service of this namespace; `None`: the finding is about
    /// something else, or nobody has to act on it.
    pub fn from_finding(finding: &Finding, namespace: &str, uid: &str) -> Option<Self> {
        let service =
            finding.object.strip_prefix("Service ")?.strip_prefix(namespace)?.strip_prefix('/')?;
        let reason = match finding.severity {
            Severity::Rejected => "Rejected",
            Severity::FellBack => "FellBack",
            Severity::Warning => "Misconfigured",
            Severity::Note => return None,
        };
        let mut note = finding.message();
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
        let (service, uid) = (service.to_owned(), uid.to_owned());
        Some(Self { service, uid, warning: true, reason, note })
    }

    /// A cluster got its first credential, or (`renewed`) another one.
    pub fn credential_issued(cluster: &ClusterName, uid: &str, renewed: bool) -> Self {
        let (reason, note) = if renewed {
            (
                "CredentialRenewed",
                format!(
                    "The Secret {cluster}-envoy-values holds a fresh credential; the one in use counts until its end"
                ),
            )
        } else {
            (
                "Joined",
                format!(
                    "The cluster {cluster} has a credential: `atlas cluster-values --name {cluster}` prints the values of its Envoy"
                ),
            )
        };
        Self { service: cluster.to_string(), uid: uid.to_owned(), warning: false, reason, note }
    }

    fn connected(cluster: &ClusterName, uid: String) -> Self {
        let note = format!("An Envoy of {cluster} is connected to Atlas");
        let (service, reason) = (cluster.to_string(), "Connected");
        Self { service, uid, warning: false, reason, note }
    }
}

/// Remembers which Events of problems were written, by the Service.
#[derive(Default)]
pub struct EventDeduplicator(BTreeMap<String, BTreeMap<EventMessage, Instant>>);

impl EventDeduplicator {
    /// Replaces the problems of one Service. Returns those that are new.
    pub fn replace(
        &mut self,
        service: &str,
        problems: BTreeSet<EventMessage>,
    ) -> Vec<EventMessage> {
        let now = Instant::now();
        let before = self.0.remove(service).unwrap_or_default();
        let new: Vec<EventMessage> =
            problems.iter().filter(|problem| !before.contains_key(problem)).cloned().collect();
        let lasting: BTreeMap<EventMessage, Instant> = problems
            .into_iter()
            .map(|problem| {
                let written = before.get(&problem).copied().unwrap_or(now);
                (problem, written)
            })
            .collect();
        if !lasting.is_empty() {
            self.0.insert(service.to_owned(), lasting);
        }
        new
    }

    /// The problems that were written an hour ago and last.
    pub fn repeat(&mut self) -> Vec<EventMessage> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (problem, written) in self.0.values_mut().flatten() {
            if now.duration_since(*written) >= REPEAT_AFTER {
                *written = now;
                due.push(problem.clone());
            }
        }
        due
    }
}

/// Sends an Event when an Envoy of a cluster is connected to this replica and wasn't before; at
/// most once an hour per cluster, since streams end and begin again all the time.
pub async fn report_connections(
    streams: Arc<Streams>,
    clusters: Reflector<Manifest>,
    events: mpsc::Sender<EventMessage>,
    stop: CancellationToken,
) {
    let mut reported: BTreeMap<ClusterName, Instant> = BTreeMap::new();
    while stop.run_until_cancelled(tokio::time::sleep(CHECK_STREAMS)).await.is_some() {
        for stream in streams.open() {
            let NodeId::Cluster(name) = &stream.client.node else { continue };
            if reported.get(name).is_some_and(|at| at.elapsed() < REPEAT_AFTER) {
                continue;
            }
            let service = clusters.get(name.as_str());
            let Some(uid) = service.and_then(|service| service.meta().uid.clone()) else {
                continue;
            };
            reported.insert(name.clone(), Instant::now());
            let _ = events.try_send(EventMessage::connected(name, uid));
        }
    }
}

/// Writes the Events that it receives, in their order. Those above the rate are dropped.
pub async fn write_events(
    client: Client,
    namespace: String,
    pod: String,
    mut events: mpsc::Receiver<EventMessage>,
    stop: CancellationToken,
) {
    let reporter = Reporter { controller: "goatlas.io/atlas".into(), instance: Some(pod) };
    let recorder = Recorder::new(client, reporter);
    let (mut tokens, mut refilled, mut is_failing) = (BURST, Instant::now(), false);
    loop {
        let message = tokio::select! {
            message = events.recv() => message,
            () = stop.cancelled() => return,
        };
        let Some(message) = message else { return };
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
            name: Some(message.service),
            namespace: Some(namespace.clone()),
            uid: Some(message.uid),
            ..Default::default()
        };
        let event = Event {
            type_: if message.warning { EventType::Warning } else { EventType::Normal },
            reason: message.reason.into(),
            note: Some(message.note),
            action: message.reason.into(),
            secondary: None,
        };
        let result = recorder.publish(&event, &reference).await;
        if let Err(error) = &result
            && !is_failing
        {
            tracing::warn!(
                error = error_with_causes(error),
                "cannot write an Event; `atlas status` shows the same"
            );
        }
        is_failing = result.is_err();
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

    fn message(severity: Severity, object: &str) -> Option<EventMessage> {
        EventMessage::from_finding(&finding(severity, object), "monitoring", "1")
    }

    #[test]
    fn an_event_says_the_key_the_value_and_what_to_write() {
        let event = message(Severity::Rejected, "Service monitoring/tokyo").unwrap();
        assert_eq!(
            (event.service.as_str(), event.uid.as_str(), event.warning),
            ("tokyo", "1", true)
        );
        assert_eq!(event.note, "goatlas.io/replicas: \"many\": is not a number: write 2");
        for object in ["Service other/tokyo", "EndpointSlice monitoring/tokyo", "atlas"] {
            assert_eq!(message(Severity::Rejected, object), None, "{object}");
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
            let event = message(severity, "Service monitoring/tokyo");
            assert!(event.iter().all(|event| event.warning), "{severity:?}");
            assert_eq!(event.map(|event| event.reason), reason, "{severity:?}");
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
            .filter_map(|finding| EventMessage::from_finding(finding, "monitoring", "1"))
            .filter(|message| message.note.starts_with("goatlas.io/thanos-servce: "))
            .collect();
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert_eq!((message.reason, message.warning), ("Misconfigured", true));
        assert!(message.note.ends_with("did you mean goatlas.io/thanos-service?"), "{message:?}");
    }

    #[test]
    fn a_problem_becomes_one_event_while_it_lasts() {
        let problem = || message(Severity::FellBack, "Service monitoring/tokyo").unwrap();
        let mut deduplicator = EventDeduplicator::default();
        assert_eq!(deduplicator.replace("tokyo", [problem()].into()), [problem()]);
        assert_eq!(deduplicator.replace("tokyo", [problem()].into()), []);
        assert_eq!(deduplicator.replace("paris", BTreeSet::new()), []);
        assert_eq!(deduplicator.repeat(), []);
        assert_eq!(deduplicator.replace("tokyo", BTreeSet::new()), []);
        assert_eq!(deduplicator.replace("tokyo", [problem()].into()), [problem()]);
    }
}
