//! Two Envoys of one node and two replicas of Atlas, to which something happens; and the rules that hold whatever it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::envoy::{Envoy, KINDS, Taste, is_wild, taste};
use super::language::{content, resource};
use crate::xds::quarantine::Quarantine;
use crate::xds::session::{Limits, Request, Response, Session, Standing, Variant};
use crate::xds::snapshot::{Change, ResourceType, Snapshot, Version};

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A resource gets a content; 0 removes it.
    Change(usize, u8, u8),
    /// Several secrets and clusters at once.
    Burst(u8),
    /// A replica learns what it lags behind.
    Learn(usize),
    /// The Envoy takes the oldest response.
    Take,
    /// The server takes the oldest request.
    Hear,
    /// The Envoy wants a secret or a route, or does so no longer.
    Toggle(usize, u8),
    /// The stream breaks, with all that was in flight, and the Envoy comes to a replica.
    Reconnect(usize),
    /// The process starts anew.
    Restart(usize),
    /// The server has had its time to learn, if it has learnt.
    LetGo,
    /// What follows happens to the other Envoy of the node.
    Swap,
    /// All messages arrive, all replicas learn, and the Envoy is as it should be.
    Settle,
}

/// One server.
#[derive(Default)]
struct Replica {
    snapshot: Snapshot,
    quarantine: Quarantine,
    /// How much of the truth it knows.
    knows: usize,
}

/// One Envoy and its stream.
struct Client {
    /// The replica that it is connected to.
    at: usize,
    session: Session,
    envoy: Envoy,
    to_envoy: VecDeque<Response>,
    to_server: VecDeque<Request>,
    /// What it refused on this stream.
    refused_here: BTreeSet<(ResourceType, String, Version)>,
    /// Types of which something was refused here without a name.
    unnamed: BTreeSet<ResourceType>,
    /// Whether the first requests of this stream showed versions, up to each type.
    showed: BTreeMap<ResourceType, bool>,
    /// The secrets that the stream has been sent.
    secrets: BTreeMap<String, Version>,
    /// What the latest response of a type named that names all (state of the world).
    told: BTreeMap<ResourceType, BTreeSet<String>>,
}

impl Client {
    fn new(variant: Variant) -> Self {
        let all = || (0..4).map(|n| format!("n{n}")).collect();
        let names = [(ResourceType::Secret, all()), (ResourceType::Route, all())].into();
        Self {
            at: 0,
            session: Session::new(variant, None),
            envoy: Envoy { variant: Some(variant), names, ..Envoy::default() },
            to_envoy: VecDeque::new(),
            to_server: VecDeque::new(),
            refused_here: BTreeSet::new(),
            unnamed: BTreeSet::new(),
            showed: BTreeMap::new(),
            secrets: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn is_silent(&self) -> bool {
        self.to_envoy.is_empty() && self.to_server.is_empty()
    }
}

pub struct World {
    variant: Variant,
    /// All changes there have been.
    truth: Vec<Change>,
    replicas: [Replica; 2],
    /// To which things happen.
    client: Client,
    /// The other one of the same node, once there has been one.
    other: Option<Client>,
}

impl World {
    pub fn new(variant: Variant) -> Self {
        let client = Client::new(variant);
        let mut world =
            Self { variant, truth: Vec::new(), replicas: Default::default(), client, other: None };
        world.connect(0);
        world
    }

    fn connect(&mut self, replica: usize) {
        self.client.at = replica;
        // Small responses, so that there are many pieces.
        self.client.session = Session::new(self.variant, None)
            .limit(Limits { response_bytes: 250, ..Limits::default() });
        if self.replicas[replica].knows < self.truth.len() {
            self.client.session.hold();
        }
        self.client.showed =
            KINDS.into_iter().map(|kind| (kind, self.client.envoy.shows_versions(kind))).collect();
        self.client.to_envoy.clear();
        self.client.to_server = self.client.envoy.connect().into();
        self.client.refused_here.clear();
        self.client.unnamed.clear();
        self.client.secrets.clear();
        self.client.told.clear();
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
    fn each(
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

    pub fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Change(kind, name, version) => self.change(&[(KINDS[*kind], *name, *version)]),
            Event::Burst(version) => {
                let both = [ResourceType::Secret, ResourceType::Cluster];
                let changes: Vec<_> = both
                    .into_iter()
                    .flat_map(|kind| (0..4).map(move |name| (kind, name, *version)))
                    .collect();
                self.change(&changes)
            }
            Event::Learn(replica) => self.learn(*replica),
            Event::Take => self.take(),
            Event::Hear => self.hear(),
            Event::Toggle(kind, name) => {
                let request = self.client.envoy.toggle(KINDS[*kind], &format!("n{name}"));
                self.client.to_server.push_back(request);
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
            Event::LetGo if self.replicas[self.client.at].knows == self.truth.len() => {
                self.client.session.let_go();
                self.look()
            }
            Event::LetGo => Ok(()),
            Event::Swap => {
                self.swap();
                Ok(())
            }
            Event::Settle => {
                self.settle()?;
                self.each(|world| world.agree())
            }
        }
    }

    /// The first replica hears of it at once.
    fn change(&mut self, changes: &[(ResourceType, u8, u8)]) -> Result<(), TestCaseError> {
        self.truth.extend(changes.iter().map(|(kind, name, version)| match version {
            0 => Change::Remove(*kind, format!("n{name}").into()),
            _ => Change::Set(resource(*kind, &format!("n{name}"), &version.to_string())),
        }));
        self.learn(0)
    }

    fn learn(&mut self, replica: usize) -> Result<(), TestCaseError> {
        let it = &mut self.replicas[replica];
        it.snapshot.apply(self.truth[it.knows..].to_vec());
        it.knows = self.truth.len();
        self.each(|world| if replica == world.client.at { world.look() } else { Ok(()) })
    }

    fn look(&mut self) -> Result<(), TestCaseError> {
        let replica = &self.replicas[self.client.at];
        let responses = self.client.session.on_change(&replica.snapshot, &replica.quarantine);
        self.send(responses)
    }

    fn hear(&mut self) -> Result<(), TestCaseError> {
        let Some(request) = self.client.to_server.pop_front() else { return Ok(()) };
        if self.variant == Variant::Delta && request.type_url == ResourceType::Secret.url() {
            for name in &request.unsubscribe {
                self.client.secrets.remove(name);
            }
        }
        let replica = &mut self.replicas[self.client.at];
        let responses = self
            .client
            .session
            .on_request(request, &replica.snapshot, &mut replica.quarantine)
            .expect("no abuse");
        self.send(responses)
    }

    /// What the server may send.
    fn send(&mut self, responses: Vec<Response>) -> Result<(), TestCaseError> {
        let Replica { snapshot, quarantine, .. } = &self.replicas[self.client.at];
        for response in responses {
            let kind = ResourceType::of_url(&response.type_url).expect("a known type");
            let under_way = self
                .client
                .to_envoy
                .iter()
                .filter(|other| other.type_url == response.type_url)
                .count();
            prop_assert_eq!(under_way, 0, "two {} responses are under way", kind);
            for resource in &response.resources {
                let key = (kind, resource.name.to_string(), resource.version);
                let barred = quarantine
                    .entries()
                    .any(|entry| (entry.0, entry.1, entry.2.version) == (kind, &*key.1, key.2));
                let again = self.client.showed[&kind] || self.client.refused_here.contains(&key);
                prop_assert!(!(barred && again), "{:?} is quarantined and sent again", resource);
                if kind == ResourceType::Secret {
                    self.client.secrets.insert(key.1, key.2);
                }
            }
            for name in &response.removed {
                if kind == ResourceType::Secret {
                    self.client.secrets.remove(&**name);
                }
                let current = snapshot.get(kind, name);
                let is_bad =
                    current.is_some_and(|current| taste(name, &content(current)) != Taste::Good);
                prop_assert!(current.is_none() || is_bad, "{} {} is there and removed", kind, name);
            }
            if self.variant == Variant::StateOfTheWorld && is_wild(kind) {
                let told = self.client.told.entry(kind).or_insert_with(|| {
                    snapshot.of(kind).iter().map(|resource| resource.name.to_string()).collect()
                });
                for should in snapshot.of(kind).iter().filter(|should| told.contains(&*should.name))
                {
                    // While halves are tried, some are left out; and so is what was refused, if nobody knows what was before it.
                    let refusal = quarantine
                        .entries()
                        .find(|entry| (entry.0, entry.1) == (kind, &*should.name))
                        .map(|entry| entry.2);
                    // An entry goes when its version does, and the stream alone remembers if that comes back.
                    let here = self.client.refused_here.contains(&(
                        kind,
                        should.name.to_string(),
                        should.version,
                    ));
                    let nothing_instead =
                        refusal.map_or(here, |refusal| refusal.fallback.is_none());
                    let there =
                        response.resources.iter().any(|resource| resource.name == should.name);
                    prop_assert!(
                        there || nothing_instead || self.client.unnamed.contains(&kind),
                        "{:?} is omitted",
                        should
                    );
                }
                *told =
                    response.resources.iter().map(|resource| resource.name.to_string()).collect();
            }
            if kind == ResourceType::Cluster
                && !response.resources.is_empty()
                && self.variant == Variant::Delta
            {
                for (name, version) in &self.client.secrets {
                    let current = snapshot
                        .get(ResourceType::Secret, name)
                        .filter(|current| taste(name, &content(current)) == Taste::Good);
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
                    let unlisted =
                        self.client.envoy.unlisted.contains(&(ResourceType::Secret, name.clone()));
                    // Whether it is wanted at all is still on its way to the server.
                    let unheard = self
                        .client
                        .to_server
                        .iter()
                        .filter(|request| request.type_url == ResourceType::Secret.url());
                    let toggled = unheard
                        .flat_map(|request| request.subscribe.iter().chain(&request.unsubscribe))
                        .any(|one| one == name);
                    prop_assert!(
                        fresh || unlisted || toggled,
                        "a cluster is sent before secret {}",
                        name
                    );
                }
            }
            self.client.to_envoy.push_back(response);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<(), TestCaseError> {
        let Some(response) = self.client.to_envoy.pop_front() else { return Ok(()) };
        let kind = ResourceType::of_url(&response.type_url).expect("a known type");
        let answer = self.client.envoy.take(&response);
        if let Some(words) = &answer.error {
            for resource in &response.resources {
                let is_blamed = response.resources.len() == 1 || words.contains(&*resource.name);
                if is_blamed && taste(&resource.name, &content(resource)) != Taste::Good {
                    self.client.refused_here.insert((
                        kind,
                        resource.name.to_string(),
                        resource.version,
                    ));
                }
            }
            if words == "cannot decode" {
                self.client.unnamed.insert(kind);
            }
        }
        self.client.to_server.push_back(answer);
        Ok(())
    }

    /// All messages arrive, all replicas learn.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.learn(0)?;
        self.learn(1)?;
        self.each(|world| {
            world.client.session.let_go();
            world.look()
        })?;
        for _ in 0..400 {
            self.each(|world| {
                world.hear()?;
                world.take()
            })?;
            if self.client.is_silent() && self.other.as_ref().is_none_or(Client::is_silent) {
                // What one refused or accepted may concern the other, with its next event.
                self.each(Self::look)?;
            }
            if self.client.is_silent() && self.other.as_ref().is_none_or(Client::is_silent) {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("it never falls silent"))
    }

    fn agree(&self) -> Result<(), TestCaseError> {
        let Replica { snapshot, quarantine, .. } = &self.replicas[self.client.at];
        let standings = self.client.session.standing(snapshot, quarantine);
        for kind in KINDS {
            let mut lacks = false;
            for name in
                (0..4).map(|n| format!("n{n}")).filter(|name| self.client.envoy.wants(kind, name))
            {
                let should = snapshot.get(kind, &name).map(|resource| content(resource));
                let has = self.client.envoy.has.get(&kind).and_then(|has| has.get(&name)).cloned();
                if should.as_ref().is_some_and(|should| taste(&name, should) != Taste::Good) {
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
                    prop_assert!(has.is_none_or(|has| taste(&name, &has) == Taste::Good));
                } else if !self.client.envoy.unlisted.contains(&(kind, name.clone())) {
                    let cannot_be_removed = self.variant == Variant::StateOfTheWorld
                        && !is_wild(kind)
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
            let standing = standings.get(&kind).cloned().unwrap_or(Standing::Synced);
            prop_assert_eq!(
                matches!(standing, Standing::Nack(_)),
                lacks,
                "{} stands {:?}",
                kind,
                standing
            );
            prop_assert!(standing != Standing::Stale, "{} is stale", kind);
        }
        Ok(())
    }
}
