//! A simulation of two Envoys of one node and two replicas of Atlas, and the rules that every
//! response must keep.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::fake_envoy::{FakeEnvoy, KINDS, Verdict, has_wildcard, verdict};
use super::notation::{content, resource};
use crate::xds::limits::SessionLimits;
use crate::xds::messages::{Request, Response, Variant};
use crate::xds::quarantine::{Quarantine, RejectedVersion};
use crate::xds::resource::{Resource, ResourceType, Version};
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::{Change, Snapshot};

/// A step of the simulation. Types are indices into [`KINDS`], names are 0 to 3.
#[derive(Clone, Debug)]
pub enum Event {
    /// A resource gets this content; 0 removes it. The first replica learns of it at once.
    Change(usize, u8, u8),
    /// All secrets and Envoy clusters get this content.
    ChangeMany(u8),
    /// A replica learns of all changes so far.
    CatchUp(usize),
    /// The Envoy receives the oldest response, and answers it.
    EnvoyReceives,
    /// Atlas receives the oldest request.
    AtlasReceives,
    /// The Envoy subscribes to a secret or a route, or unsubscribes from it.
    ToggleName(usize, u8),
    /// The stream breaks, its messages are lost, and the Envoy connects to this replica.
    Reconnect(usize),
    /// The Envoy process is replaced by a new one, which connects to this replica.
    Restart(usize),
    /// The replica ends `keep_unknown_resources`, if it has learnt of all changes.
    RemoveUnknown,
    /// The events that follow are those of the other Envoy of the node.
    SwitchEnvoy,
    /// All messages arrive, both replicas learn of all changes, and both Envoys must have what they
    /// should.
    Converge,
}

/// A replica of Atlas.
#[derive(Default)]
struct Replica {
    snapshot: Snapshot,
    quarantine: Quarantine,
    /// How many changes it has learnt of.
    applied: usize,
}

impl Replica {
    fn rejected_version(&self, kind: ResourceType, name: &str) -> Option<&RejectedVersion> {
        let mut entries = self.quarantine.entries();
        entries.find(|entry| (entry.0, entry.1) == (kind, name)).map(|entry| entry.2)
    }
}

/// An Envoy and its stream.
struct Client {
    /// The replica that it is connected to.
    replica: usize,
    session: Session,
    envoy: FakeEnvoy,
    /// Responses on their way to the Envoy.
    responses: VecDeque<Response>,
    /// Requests on their way to Atlas.
    requests: VecDeque<Request>,
    /// What the Envoy has rejected on this stream.
    rejected_versions: BTreeSet<(ResourceType, String, Version)>,
    /// Types of which the Envoy couldn't decode a response of this stream.
    undecodable_types: BTreeSet<ResourceType>,
    /// Whether the first requests of this stream, up to the one of each type, had a version.
    showed_versions: BTreeMap<ResourceType, bool>,
    /// The secrets that this stream has been sent and that the Envoy subscribes to.
    sent_secrets: BTreeMap<String, Version>,
    /// State of the world: the names in the latest CDS and LDS response.
    last_listed: BTreeMap<ResourceType, BTreeSet<String>>,
}

impl Client {
    fn new(variant: Variant) -> Self {
        let all = || (0..4).map(|n| format!("n{n}")).collect();
        let names = [(ResourceType::Secret, all()), (ResourceType::Route, all())].into();
        Self {
            replica: 0,
            session: Session::new(variant, None),
            envoy: FakeEnvoy { variant: Some(variant), names, ..FakeEnvoy::default() },
            responses: VecDeque::new(),
            requests: VecDeque::new(),
            rejected_versions: BTreeSet::new(),
            undecodable_types: BTreeSet::new(),
            showed_versions: BTreeMap::new(),
            sent_secrets: BTreeMap::new(),
            last_listed: BTreeMap::new(),
        }
    }

    fn has_messages(&self) -> bool {
        !self.responses.is_empty() || !self.requests.is_empty()
    }

    /// The content that the Envoy has under a name.
    fn live_content(&self, kind: ResourceType, name: &str) -> Option<&String> {
        self.envoy.has.get(&kind)?.get(name)
    }
}

pub struct Simulation {
    variant: Variant,
    /// All changes so far.
    changes: Vec<Change>,
    replicas: [Replica; 2],
    /// The Envoy that the events are about.
    client: Client,
    /// The other one, since the first [`Event::SwitchEnvoy`].
    other: Option<Client>,
}

impl Simulation {
    pub fn new(variant: Variant) -> Self {
        let client = Client::new(variant);
        let mut simulation = Self {
            variant,
            changes: Vec::new(),
            replicas: Default::default(),
            client,
            other: None,
        };
        simulation.connect(0);
        simulation
    }

    fn connect(&mut self, replica: usize) {
        self.client.replica = replica;
        // So small that updates are split.
        self.client.session = Session::new(self.variant, None)
            .with_limits(SessionLimits { response_bytes: 250, ..SessionLimits::default() });
        if self.replicas[replica].applied < self.changes.len() {
            self.client.session.keep_unknown_resources();
        }
        self.client.showed_versions =
            KINDS.into_iter().map(|kind| (kind, self.client.envoy.shows_versions(kind))).collect();
        self.client.responses.clear();
        self.client.requests = self.client.envoy.connect().into();
        self.client.rejected_versions.clear();
        self.client.undecodable_types.clear();
        self.client.sent_secrets.clear();
        self.client.last_listed.clear();
    }

    fn switch_envoy(&mut self) {
        match &mut self.other {
            Some(other) => std::mem::swap(&mut self.client, other),
            None => {
                self.other = Some(std::mem::replace(&mut self.client, Client::new(self.variant)));
                self.connect(0);
            }
        }
    }

    /// Does something for each Envoy.
    fn for_each_envoy(
        &mut self,
        action: impl Fn(&mut Self) -> Result<(), TestCaseError>,
    ) -> Result<(), TestCaseError> {
        action(self)?;
        if self.other.is_some() {
            self.switch_envoy();
            action(self)?;
            self.switch_envoy();
        }
        Ok(())
    }

    pub fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Change(kind, name, content) => self.change(&[(KINDS[*kind], *name, *content)]),
            Event::ChangeMany(content) => {
                let kinds = [ResourceType::Secret, ResourceType::Cluster];
                let changes: Vec<_> = kinds
                    .into_iter()
                    .flat_map(|kind| (0..4).map(move |name| (kind, name, *content)))
                    .collect();
                self.change(&changes)
            }
            Event::CatchUp(replica) => self.catch_up(*replica),
            Event::EnvoyReceives => self.envoy_receives(),
            Event::AtlasReceives => self.atlas_receives(),
            Event::ToggleName(kind, name) => {
                let request = self.client.envoy.toggle(KINDS[*kind], &format!("n{name}"));
                self.client.requests.push_back(request);
                Ok(())
            }
            Event::Reconnect(replica) => {
                self.connect(*replica);
                Ok(())
            }
            Event::Restart(replica) => {
                self.client.envoy.restart();
                self.connect(*replica);
                Ok(())
            }
            Event::RemoveUnknown
                if self.replicas[self.client.replica].applied == self.changes.len() =>
            {
                self.client.session.remove_unknown_resources();
                self.on_change()
            }
            Event::RemoveUnknown => Ok(()),
            Event::SwitchEnvoy => {
                self.switch_envoy();
                Ok(())
            }
            Event::Converge => {
                self.converge()?;
                self.for_each_envoy(|simulation| simulation.check_converged())
            }
        }
    }

    fn change(&mut self, changes: &[(ResourceType, u8, u8)]) -> Result<(), TestCaseError> {
        self.changes.extend(changes.iter().map(|(kind, name, content)| match content {
            0 => Change::Remove(*kind, format!("n{name}").into()),
            _ => Change::Set(resource(*kind, &format!("n{name}"), &content.to_string())),
        }));
        self.catch_up(0)
    }

    fn catch_up(&mut self, replica: usize) -> Result<(), TestCaseError> {
        let learning = &mut self.replicas[replica];
        learning.snapshot.apply(self.changes[learning.applied..].to_vec());
        learning.applied = self.changes.len();
        self.for_each_envoy(|simulation| {
            if replica == simulation.client.replica { simulation.on_change() } else { Ok(()) }
        })
    }

    fn on_change(&mut self) -> Result<(), TestCaseError> {
        let replica = &self.replicas[self.client.replica];
        let responses = self.client.session.on_change(&replica.snapshot, &replica.quarantine);
        self.send(responses)
    }

    fn atlas_receives(&mut self) -> Result<(), TestCaseError> {
        let Some(request) = self.client.requests.pop_front() else { return Ok(()) };
        if self.variant == Variant::Delta && request.type_url == ResourceType::Secret.url() {
            for name in &request.unsubscribe {
                self.client.sent_secrets.remove(name);
            }
        }
        let replica = &mut self.replicas[self.client.replica];
        let responses = self
            .client
            .session
            .on_request(request, &replica.snapshot, &mut replica.quarantine)
            .expect("within limits");
        self.send(responses)
    }

    /// Checks responses, and sends them.
    fn send(&mut self, responses: Vec<Response>) -> Result<(), TestCaseError> {
        for response in responses {
            let kind = ResourceType::of_url(&response.type_url).expect("a known type");
            let is_same_type = |other: &Response| other.type_url == response.type_url;
            let in_flight = self.client.responses.iter().any(is_same_type);
            prop_assert!(!in_flight, "two {} responses are in flight", kind);
            self.check_no_quarantined(kind, &response)?;
            self.check_no_existing_removed(kind, &response)?;
            if self.variant == Variant::StateOfTheWorld && has_wildcard(kind) {
                self.check_none_omitted(kind, &response)?;
            }
            if kind == ResourceType::Secret {
                let secrets = &mut self.client.sent_secrets;
                secrets
                    .extend(response.resources.iter().map(|it| (it.name.to_string(), it.version)));
                secrets
                    .retain(|name, _| !response.removed.iter().any(|removed| **removed == **name));
            }
            let has_clusters = kind == ResourceType::Cluster && !response.resources.is_empty();
            if has_clusters && self.variant == Variant::Delta {
                self.check_secrets_sent()?;
            }
            self.client.responses.push_back(response);
        }
        Ok(())
    }

    /// A version in quarantine is sent only to a process that is new, and only once.
    fn check_no_quarantined(
        &self,
        kind: ResourceType,
        response: &Response,
    ) -> Result<(), TestCaseError> {
        let replica = &self.replicas[self.client.replica];
        for resource in &response.resources {
            let rejected = replica.rejected_version(kind, &resource.name);
            let is_quarantined = rejected.is_some_and(|it| it.version == resource.version);
            let key = (kind, resource.name.to_string(), resource.version);
            let may_not_retry =
                self.client.showed_versions[&kind] || self.client.rejected_versions.contains(&key);
            prop_assert!(
                !(is_quarantined && may_not_retry),
                "{:?} is quarantined and sent again",
                resource
            );
        }
        Ok(())
    }

    /// What is removed doesn't exist, or only in a version that Envoys reject.
    fn check_no_existing_removed(
        &self,
        kind: ResourceType,
        response: &Response,
    ) -> Result<(), TestCaseError> {
        let snapshot = &self.replicas[self.client.replica].snapshot;
        for name in &response.removed {
            let current = snapshot.get(kind, name);
            let is_good =
                current.is_some_and(|current| verdict(name, &content(current)) == Verdict::Good);
            prop_assert!(!is_good, "{} {} exists and is removed", kind, name);
        }
        Ok(())
    }

    /// State of the world: a resource that the client has been sent and that exists is in every
    /// response.
    fn check_none_omitted(
        &mut self,
        kind: ResourceType,
        response: &Response,
    ) -> Result<(), TestCaseError> {
        let replica = &self.replicas[self.client.replica];
        let existing = replica.snapshot.of_type(kind);
        let names = |resources: &[std::sync::Arc<Resource>]| -> BTreeSet<String> {
            resources.iter().map(|resource| resource.name.to_string()).collect()
        };
        let listed = names(&response.resources);
        let last_listed = self.client.last_listed.entry(kind).or_insert_with(|| names(existing));
        for resource in existing.iter().filter(|resource| last_listed.contains(&*resource.name)) {
            // A rejected version is omitted if no previous version is known. The quarantine drops
            // an entry with its version; if that version comes back, only the stream remembers that
            // it was rejected.
            let key = (kind, resource.name.to_string(), resource.version);
            let rejected_here = self.client.rejected_versions.contains(&key);
            let rejected = replica.rejected_version(kind, &resource.name);
            let has_no_fallback = rejected.map_or(rejected_here, |it| it.fallback.is_none());
            // While the halves of a response are sent, one may lack what the other has.
            let sends_halves = self.client.undecodable_types.contains(&kind);
            prop_assert!(
                listed.contains(&*resource.name) || has_no_fallback || sends_halves,
                "{:?} is omitted",
                resource
            );
        }
        *last_listed = listed;
        Ok(())
    }

    /// Envoy clusters are sent after the secrets that have changed.
    fn check_secrets_sent(&self) -> Result<(), TestCaseError> {
        let kind = ResourceType::Secret;
        let snapshot = &self.replicas[self.client.replica].snapshot;
        for (name, version) in &self.client.sent_secrets {
            let current = snapshot.get(kind, name);
            let good = current.filter(|current| verdict(name, &content(current)) == Verdict::Good);
            // The latest version sent may have been rejected, while the Envoy has the current one
            // from before.
            let live = self.client.live_content(kind, name);
            let has_current = good.is_none_or(|current| {
                current.version == *version || live == Some(&content(current))
            });
            // Of these the Envoy has another version than it lists, which Atlas can't know.
            let is_not_listed = self.client.envoy.not_listed.contains(&(kind, name.clone()));
            // Atlas hasn't received yet whether the Envoy subscribes to it.
            let requests =
                self.client.requests.iter().filter(|request| request.type_url == kind.url());
            let mut toggled =
                requests.flat_map(|request| request.subscribe.iter().chain(&request.unsubscribe));
            let is_toggled = toggled.any(|toggled| toggled == name);
            prop_assert!(
                has_current || is_not_listed || is_toggled,
                "an Envoy cluster is sent before secret {}",
                name
            );
        }
        Ok(())
    }

    fn envoy_receives(&mut self) -> Result<(), TestCaseError> {
        let Some(response) = self.client.responses.pop_front() else { return Ok(()) };
        let kind = ResourceType::of_url(&response.type_url).expect("a known type");
        let answer = self.client.envoy.answer(&response);
        if let Some(message) = &answer.error {
            for resource in &response.resources {
                let is_named = response.resources.len() == 1 || message.contains(&*resource.name);
                if is_named && verdict(&resource.name, &content(resource)) != Verdict::Good {
                    self.client.rejected_versions.insert((
                        kind,
                        resource.name.to_string(),
                        resource.version,
                    ));
                }
            }
            if message == "cannot decode" {
                self.client.undecodable_types.insert(kind);
            }
        }
        self.client.requests.push_back(answer);
        Ok(())
    }

    fn has_messages(&self) -> bool {
        self.client.has_messages() || self.other.as_ref().is_some_and(Client::has_messages)
    }

    /// Delivers all messages, after both replicas have learnt of all changes.
    fn converge(&mut self) -> Result<(), TestCaseError> {
        self.catch_up(0)?;
        self.catch_up(1)?;
        self.for_each_envoy(|simulation| {
            simulation.client.session.remove_unknown_resources();
            simulation.on_change()
        })?;
        for _ in 0..400 {
            self.for_each_envoy(|simulation| {
                simulation.atlas_receives()?;
                simulation.envoy_receives()
            })?;
            if !self.has_messages() {
                // What one Envoy rejected or accepted may change what the other is sent.
                self.for_each_envoy(Self::on_change)?;
            }
            if !self.has_messages() {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("there are always more messages"))
    }

    /// The Envoy has the snapshot's resources; instead of a version that it rejects, the last good
    /// one that it could have.
    fn check_converged(&self) -> Result<(), TestCaseError> {
        let replica = &self.replicas[self.client.replica];
        let snapshot = &replica.snapshot;
        let statuses = self.client.session.status(snapshot, &replica.quarantine);
        for kind in KINDS {
            let mut rejects_some = false;
            let names = (0..4).map(|n| format!("n{n}"));
            for name in names.filter(|name| self.client.envoy.subscribes_to(kind, name)) {
                let expected = snapshot.get(kind, &name).map(|resource| content(resource));
                let live = self.client.live_content(kind, &name).cloned();
                let is_rejected = |content: &String| verdict(&name, content) != Verdict::Good;
                if expected.as_ref().is_some_and(is_rejected) {
                    rejects_some = true;
                    let rejected = replica.rejected_version(kind, &name);
                    let fallback = rejected.and_then(|rejected| rejected.fallback.as_ref());
                    prop_assert!(
                        live.is_some() || fallback.is_none(),
                        "{} {} could have {:?}",
                        kind,
                        name,
                        fallback
                    );
                    prop_assert!(!live.as_ref().is_some_and(is_rejected));
                } else if !self.client.envoy.not_listed.contains(&(kind, name.clone())) {
                    let cannot_be_removed = self.variant == Variant::StateOfTheWorld
                        && !has_wildcard(kind)
                        && expected.is_none();
                    prop_assert!(
                        live == expected || cannot_be_removed,
                        "{} {}: {:?} instead of {:?}",
                        kind,
                        name,
                        live,
                        expected
                    );
                }
            }
            let status = statuses.get(&kind).cloned().unwrap_or(ConfigStatus::Synced);
            let is_nack = matches!(status, ConfigStatus::Nack(_));
            prop_assert_eq!(is_nack, rejects_some, "{} is {:?}", kind, status);
            prop_assert!(status != ConfigStatus::Stale, "{} is stale", kind);
        }
        Ok(())
    }
}
