//! Two Envoys of one node and two replicas of Atlas, to which something happens; and the rules that hold whatever it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::fake_envoy::{FakeEnvoy, KINDS, Verdict, has_wildcard, verdict};
use super::notation::{content, resource};
use crate::xds::limits::Limits;
use crate::xds::messages::{Request, Response, Variant};
use crate::xds::quarantine::Quarantine;
use crate::xds::resource::{ResourceType, Version};
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::{Change, Snapshot};

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A resource gets a content; 0 removes it.
    Change(usize, u8, u8),
    /// Several secrets and clusters at once.
    ChangeMany(u8),
    /// A replica learns what it lags behind.
    CatchUp(usize),
    /// The Envoy takes the oldest response.
    EnvoyReceives,
    /// The server takes the oldest request.
    AtlasReceives,
    /// The Envoy wants a secret or a route, or does so no longer.
    ToggleName(usize, u8),
    /// The stream breaks, with all that was in flight, and the Envoy comes to a replica.
    Reconnect(usize),
    /// The process starts anew.
    Restart(usize),
    /// The server has had its time to learn, if it has learnt.
    RemoveUnknown,
    /// What follows happens to the other Envoy of the node.
    SwitchEnvoy,
    /// All messages arrive, all replicas learn, and the Envoy is as it should be.
    Converge,
}

/// One server.
#[derive(Default)]
struct Replica {
    snapshot: Snapshot,
    quarantine: Quarantine,
    /// How much of the changes_so_far it applied.
    applied: usize,
}

/// One Envoy and its stream.
struct Client {
    /// The replica that it is connected to.
    replica: usize,
    session: Session,
    envoy: FakeEnvoy,
    responses: VecDeque<Response>,
    requests: VecDeque<Request>,
    /// What it refused on this stream.
    rejected_versions: BTreeSet<(ResourceType, String, Version)>,
    /// Types of which something was refused here without a name.
    undecodable_types: BTreeSet<ResourceType>,
    /// Whether the first requests of this stream showed_versions versions, up to each type.
    showed_versions: BTreeMap<ResourceType, bool>,
    /// The secrets that the stream has been sent.
    sent_secrets: BTreeMap<String, Version>,
    /// What the latest response of a type named that names all (state of the simulation).
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

    fn is_silent(&self) -> bool {
        self.responses.is_empty() && self.requests.is_empty()
    }
}

pub struct Simulation {
    variant: Variant,
    /// All changes there have been.
    changes_so_far: Vec<Change>,
    replicas: [Replica; 2],
    /// To which things apply.
    client: Client,
    /// The other one of the same node, once there has been one.
    other: Option<Client>,
}

impl Simulation {
    pub fn new(variant: Variant) -> Self {
        let client = Client::new(variant);
        let mut simulation = Self {
            variant,
            changes_so_far: Vec::new(),
            replicas: Default::default(),
            client,
            other: None,
        };
        simulation.connect(0);
        simulation
    }

    fn connect(&mut self, replica: usize) {
        self.client.replica = replica;
        // Small responses, so that there are many pieces.
        self.client.session = Session::new(self.variant, None)
            .with_limits(Limits { response_bytes: 250, ..Limits::default() });
        if self.replicas[replica].applied < self.changes_so_far.len() {
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

    fn swap(&mut self) {
        match &mut self.other {
            Some(other) => std::mem::swap(&mut self.client, other),
            None => {
                self.other = Some(std::mem::replace(&mut self.client, Client::new(self.variant)));
                self.connect(0);
            }
        }
    }

    /// For each Envoy that there is.
    fn for_each_envoy(
        &mut self,
        what: impl Fn(&mut Self) -> Result<(), TestCaseError>,
    ) -> Result<(), TestCaseError> {
        what(self)?;
        if self.other.is_some() {
            self.swap();
            what(self)?;
            self.swap();
        }
        Ok(())
    }

    pub fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Change(kind, name, version) => self.change(&[(KINDS[*kind], *name, *version)]),
            Event::ChangeMany(version) => {
                let both = [ResourceType::Secret, ResourceType::Cluster];
                let changes: Vec<_> = both
                    .into_iter()
                    .flat_map(|kind| (0..4).map(move |name| (kind, name, *version)))
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
                if self.replicas[self.client.replica].applied == self.changes_so_far.len() =>
            {
                self.client.session.remove_unknown_resources();
                self.on_change()
            }
            Event::RemoveUnknown => Ok(()),
            Event::SwitchEnvoy => {
                self.swap();
                Ok(())
            }
            Event::Converge => {
                self.converge()?;
                self.for_each_envoy(|simulation| simulation.check_converged())
            }
        }
    }

    /// The first replica hears of it at once.
    fn change(&mut self, changes: &[(ResourceType, u8, u8)]) -> Result<(), TestCaseError> {
        self.changes_so_far.extend(changes.iter().map(|(kind, name, version)| match version {
            0 => Change::Remove(*kind, format!("n{name}").into()),
            _ => Change::Set(resource(*kind, &format!("n{name}"), &version.to_string())),
        }));
        self.catch_up(0)
    }

    fn catch_up(&mut self, replica: usize) -> Result<(), TestCaseError> {
        let it = &mut self.replicas[replica];
        it.snapshot.apply(self.changes_so_far[it.applied..].to_vec());
        it.applied = self.changes_so_far.len();
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
            .expect("no abuse");
        self.send(responses)
    }

    /// What the server may send.
    fn send(&mut self, responses: Vec<Response>) -> Result<(), TestCaseError> {
        let Replica { snapshot, quarantine, .. } = &self.replicas[self.client.replica];
        for response in responses {
            let kind = ResourceType::of_url(&response.type_url).expect("a known type");
            let under_way = self
                .client
                .responses
                .iter()
                .filter(|other| other.type_url == response.type_url)
                .count();
            prop_assert_eq!(under_way, 0, "two {} responses are under way", kind);
            for resource in &response.resources {
                let key = (kind, resource.name.to_string(), resource.version);
                let barred = quarantine
                    .entries()
                    .any(|entry| (entry.0, entry.1, entry.2.version) == (kind, &*key.1, key.2));
                let again = self.client.showed_versions[&kind]
                    || self.client.rejected_versions.contains(&key);
                prop_assert!(!(barred && again), "{:?} is quarantined and sent again", resource);
                if kind == ResourceType::Secret {
                    self.client.sent_secrets.insert(key.1, key.2);
                }
            }
            for name in &response.removed {
                if kind == ResourceType::Secret {
                    self.client.sent_secrets.remove(&**name);
                }
                let current = snapshot.get(kind, name);
                let is_bad = current
                    .is_some_and(|current| verdict(name, &content(current)) != Verdict::Good);
                prop_assert!(current.is_none() || is_bad, "{} {} is there and removed", kind, name);
            }
            if self.variant == Variant::StateOfTheWorld && has_wildcard(kind) {
                let last_listed = self.client.last_listed.entry(kind).or_insert_with(|| {
                    snapshot
                        .of_type(kind)
                        .iter()
                        .map(|resource| resource.name.to_string())
                        .collect()
                });
                for should in snapshot
                    .of_type(kind)
                    .iter()
                    .filter(|should| last_listed.contains(&*should.name))
                {
                    // While halves are tried, some are left out; and so is what was refused, if nobody applied what was before it.
                    let refusal = quarantine
                        .entries()
                        .find(|entry| (entry.0, entry.1) == (kind, &*should.name))
                        .map(|entry| entry.2);
                    // An entry goes when its version does, and the stream alone remembers if that comes back.
                    let here = self.client.rejected_versions.contains(&(
                        kind,
                        should.name.to_string(),
                        should.version,
                    ));
                    let nothing_instead =
                        refusal.map_or(here, |refusal| refusal.fallback.is_none());
                    let there =
                        response.resources.iter().any(|resource| resource.name == should.name);
                    prop_assert!(
                        there || nothing_instead || self.client.undecodable_types.contains(&kind),
                        "{:?} is omitted",
                        should
                    );
                }
                *last_listed =
                    response.resources.iter().map(|resource| resource.name.to_string()).collect();
            }
            if kind == ResourceType::Cluster
                && !response.resources.is_empty()
                && self.variant == Variant::Delta
            {
                for (name, version) in &self.client.sent_secrets {
                    let current = snapshot
                        .get(ResourceType::Secret, name)
                        .filter(|current| verdict(name, &content(current)) == Verdict::Good);
                    // What was sent last may have been refused; then it may have the current one from before.
                    let has = self
                        .client
                        .envoy
                        .has
                        .get(&ResourceType::Secret)
                        .and_then(|has| has.get(name));
                    let fresh = current.is_none_or(|current| {
                        current.version == *version || has == Some(&content(current))
                    });
                    // What it doesn't list it may have instead of the version that it lists, which no server can know.
                    let not_listed = self
                        .client
                        .envoy
                        .not_listed
                        .contains(&(ResourceType::Secret, name.clone()));
                    // Whether it is wanted at all is still on its way to the server.
                    let unheard = self
                        .client
                        .requests
                        .iter()
                        .filter(|request| request.type_url == ResourceType::Secret.url());
                    let toggled = unheard
                        .flat_map(|request| request.subscribe.iter().chain(&request.unsubscribe))
                        .any(|one| one == name);
                    prop_assert!(
                        fresh || not_listed || toggled,
                        "a cluster is sent before secret {}",
                        name
                    );
                }
            }
            self.client.responses.push_back(response);
        }
        Ok(())
    }

    fn envoy_receives(&mut self) -> Result<(), TestCaseError> {
        let Some(response) = self.client.responses.pop_front() else { return Ok(()) };
        let kind = ResourceType::of_url(&response.type_url).expect("a known type");
        let answer = self.client.envoy.take(&response);
        if let Some(words) = &answer.error {
            for resource in &response.resources {
                let is_blamed = response.resources.len() == 1 || words.contains(&*resource.name);
                if is_blamed && verdict(&resource.name, &content(resource)) != Verdict::Good {
                    self.client.rejected_versions.insert((
                        kind,
                        resource.name.to_string(),
                        resource.version,
                    ));
                }
            }
            if words == "cannot decode" {
                self.client.undecodable_types.insert(kind);
            }
        }
        self.client.requests.push_back(answer);
        Ok(())
    }

    /// All messages arrive, all replicas learn.
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
            if self.client.is_silent() && self.other.as_ref().is_none_or(Client::is_silent) {
                // What one refused or accepted may concern the other, with its next event.
                self.for_each_envoy(Self::on_change)?;
            }
            if self.client.is_silent() && self.other.as_ref().is_none_or(Client::is_silent) {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("it never falls silent"))
    }

    fn check_converged(&self) -> Result<(), TestCaseError> {
        let Replica { snapshot, quarantine, .. } = &self.replicas[self.client.replica];
        let standings = self.client.session.status(snapshot, quarantine);
        for kind in KINDS {
            let mut lacks = false;
            for name in (0..4)
                .map(|n| format!("n{n}"))
                .filter(|name| self.client.envoy.subscribes_to(kind, name))
            {
                let should = snapshot.get(kind, &name).map(|resource| content(resource));
                let has = self.client.envoy.has.get(&kind).and_then(|has| has.get(&name)).cloned();
                if should.as_ref().is_some_and(|should| verdict(&name, should) != Verdict::Good) {
                    lacks = true;
                    let entry = quarantine
                        .entries()
                        .find(|entry| (entry.0, entry.1) == (kind, &*name))
                        .map(|entry| entry.2);
                    let fallback = entry.and_then(|refusal| refusal.fallback.as_ref());
                    prop_assert!(
                        has.is_some() || fallback.is_none(),
                        "{} {} could have {:?}",
                        kind,
                        name,
                        fallback
                    );
                    prop_assert!(has.is_none_or(|has| verdict(&name, &has) == Verdict::Good));
                } else if !self.client.envoy.not_listed.contains(&(kind, name.clone())) {
                    let cannot_be_removed = self.variant == Variant::StateOfTheWorld
                        && !has_wildcard(kind)
                        && should.is_none();
                    prop_assert!(
                        has == should || cannot_be_removed,
                        "{} {}: {:?} instead of {:?}",
                        kind,
                        name,
                        has,
                        should
                    );
                }
            }
            let standing = standings.get(&kind).cloned().unwrap_or(ConfigStatus::Synced);
            prop_assert_eq!(
                matches!(standing, ConfigStatus::Nack(_)),
                lacks,
                "{} stands {:?}",
                kind,
                standing
            );
            prop_assert!(standing != ConfigStatus::Stale, "{} is stale", kind);
        }
        Ok(())
    }
}
