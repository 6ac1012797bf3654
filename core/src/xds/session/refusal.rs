//! Who is to blame for a refusal.
//!
//! A response with one new resource: that one. With several: those whose names the client's words contain. Envoy says
//! `Error adding/updating cluster(s) a: …, b: …`, and of listeners the same with a line for each (`source/common/upstream/cds_api_impl.cc`,
//! `source/common/listener_manager/lds_api.cc`); what it can't even decode it refuses as a whole, and names nothing. Then halves are sent one
//! after the other, and their halves, until single ones are refused.
//!
//! Those whose names don't occur stay together, for in the state of the world the others of a half would be taken away meanwhile.
//!
//! A client that refuses whatever it gets, in whatever words, is sent each version at most 9 + log₂(resources of a response) times, and
//! then no more.

use std::sync::Arc;

use super::MAX_REASON;
use super::held::Held;
use super::news::{Carried, Cursor, Suspect, UnderWay};
use super::subscription::Subscription;
use crate::text;
use crate::xds::quarantine::Quarantine;
use crate::xds::snapshot::Snapshot;

/// How often those whose names don't occur stay together; then it is a client that refuses one after the other, and there are halves.
const ROUNDS: u8 = 8;

/// How many bytes of a client's words are searched for names. Envoy's own end after 4 KiB.
const SEARCHED: usize = 16 << 10;

impl Subscription {
    /// The latest response has been accepted (`None`) or refused; returns whether it was under way.
    pub fn settle(
        &mut self,
        error: Option<&str>,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) -> bool {
        let Some(answered) = self.under_way.take() else { return false };
        match error {
            None => {
                self.has_accepted = true;
                answered
                    .carried
                    .iter()
                    .filter(|carried| carried.again)
                    .for_each(|carried| quarantine.lift(&carried.resource));
            }
            Some(words) => self.refuse(answered, words, snapshot, quarantine),
        }
        true
    }

    fn refuse(
        &mut self,
        answered: UnderWay,
        words: &str,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) {
        let reason: Arc<str> = text::line(words, MAX_REASON).into();
        self.must_restate = !self.has_accepted && !answered.carried.is_empty();
        if !answered.carried.is_empty() {
            // Of a response that it can't decode, Envoy doesn't take the removals either. One of removals alone isn't repeated: a client
            // that refuses even that would be told it for ever.
            self.owed.extend(answered.absent.into_iter().filter(|name| self.names.contains(name)));
        }
        let alone = answered.carried.len() == 1;
        let blamed = blamed(words, &answered.carried);
        let mut group = Vec::new();
        for (carried, is_blamed) in answered.carried.into_iter().zip(&blamed) {
            let (name, version) = (Arc::clone(&carried.resource.name), carried.resource.version);
            if !self.wants(&name) {
                continue;
            }
            if alone || *is_blamed {
                self.quarantine(&carried, &reason, snapshot, quarantine);
            }
            let is_another = |before: &Held| before.version() != Some(version);
            let before = carried.before;
            if alone && answered.trial == 0 {
                // Nothing of it was applied.
                self.held.put(before.filter(is_another).unwrap_or_else(|| Held::unknown(&name)));
            } else if alone {
                // Of this nothing was, but who knows what was of the version that came with others: it gets again what it had.
                self.held.put(Held::unknown(&name));
                let again =
                    before.filter(|before| is_another(before) && before.resource().is_some());
                group.extend(again.map(|before| Suspect {
                    name,
                    before: Some(before),
                    trial: answered.trial,
                }));
            } else {
                // Applied or not: that is unknown even of the blamed, whom the words may mention for another reason.
                self.held.put(Held::unknown(&name));
                group.push(Suspect { name, before, trial: answered.trial.saturating_add(1) });
            }
            self.looked = Cursor::default();
        }
        let others_are_named = blamed.contains(&true);
        if others_are_named && answered.trial < ROUNDS {
            self.suspects.push(group);
        } else {
            let second = group.split_off(group.len() / 2);
            self.suspects.extend([second, group].into_iter().filter(|half| !half.is_empty()));
        }
    }

    fn quarantine(
        &mut self,
        bad: &Carried,
        reason: &Arc<str>,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) {
        let bad_one = &bad.resource;
        match snapshot.get(self.kind, &bad_one.name) {
            Some(current) if current.version == bad_one.version => {
                self.refused
                    .insert(Arc::clone(&bad_one.name), (bad_one.version, Arc::clone(reason)));
                let before = bad
                    .before
                    .as_ref()
                    .and_then(Held::resource)
                    .filter(|before| before.version != bad_one.version);
                quarantine.add(bad_one, Arc::clone(reason), before.cloned());
            }
            Some(_) => quarantine.forget_fallback(bad_one),
            None => {}
        }
    }
}

/// Which of the resources a client's words blame: those that begin an item of Envoy's list; where none does, those that occur as a word.
fn blamed(words: &str, carried: &[Carried]) -> Vec<bool> {
    let words = words.get(..words.floor_char_boundary(SEARCHED)).unwrap_or_default();
    let which = |blames: fn(&str, &str) -> bool| {
        carried.iter().map(|one| occurs(words, &one.resource.name, blames)).collect::<Vec<_>>()
    };
    let listed = which(|before, after| {
        let begins = before.is_empty()
            || before.ends_with(") ")
            || before.ends_with(", ")
            || before.ends_with('\n');
        begins && after.starts_with(": ")
    });
    if listed.contains(&true) {
        listed
    } else {
        which(|before, after| !continues(before.chars().rev()) && !continues(after.chars()))
    }
}

fn occurs(words: &str, name: &str, blames: fn(&str, &str) -> bool) -> bool {
    let mut places = words.match_indices(name).filter(|_| !name.is_empty());
    places.any(|(place, _)| {
        blames(
            words.get(..place).unwrap_or_default(),
            words.get(place + name.len()..).unwrap_or_default(),
        )
    })
}

/// Whether a word goes on: with a letter, a digit or a dash; or with a sign that may stand in a name, and then a letter or a digit.
fn continues(mut text: impl Iterator<Item = char>) -> bool {
    let next = text.next();
    match next {
        Some('.' | ':' | '/' | '@' | '|') => text.next().is_some_and(char::is_alphanumeric),
        Some(other) => other.is_alphanumeric() || matches!(other, '-' | '_'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::snapshot::{Resource, ResourceType, Version};
    use envoy_types::pb::google::protobuf::Any;

    fn blamed_of(words: &str, names: &[&str]) -> Vec<String> {
        let kind = ResourceType::Cluster;
        let one = |name: &&str| Carried {
            resource: Resource::with_version(
                kind,
                *name,
                Version::of(b""),
                &Any { type_url: kind.url().into(), value: Vec::new() },
            ),
            before: None,
            again: false,
        };
        let blamed = blamed(words, &names.iter().map(one).collect::<Vec<_>>());
        names
            .iter()
            .zip(blamed)
            .filter(|(_, is_blamed)| *is_blamed)
            .map(|(name, _)| name.to_string())
            .collect()
    }

    #[test]
    fn who_begins_an_item_of_envoys_list_is_to_blame_and_who_is_only_mentioned_is_not() {
        let names = ["a", "a-b", "b", "c"];
        assert_eq!(
            blamed_of("Error adding/updating cluster(s) a: no c, a-b: unknown b", &names),
            ["a", "a-b"]
        );
        assert_eq!(
            blamed_of(
                "Error adding/updating listener(s) a: cannot bind\nc: unknown cluster 'b'\n",
                &names
            ),
            ["a", "c"]
        );
    }

    #[test]
    fn where_nobody_is_listed_whole_words_count() {
        let names = ["web", "web.c1", "c1", ""];
        for words in ["bad web", "route 'web' has no domain", "unknown route: web.", "web"] {
            assert_eq!(blamed_of(words, &names), ["web"], "{words}");
        }
        assert_eq!(blamed_of("no port in web.c1:80", &names), [""; 0]);
        assert_eq!(blamed_of("no port in web.c1", &names), ["web.c1"]);
        assert_eq!(blamed_of("Protobuf message (type …) has unknown fields", &names), [""; 0]);
    }

    #[test]
    fn a_flood_of_words_is_searched_in_part() {
        assert_eq!(blamed_of(&format!("{} a", "é".repeat(SEARCHED)), &["a"]), [""; 0]);
    }
}
