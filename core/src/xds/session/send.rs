//! Responses, and the record of what was sent.

use std::sync::Arc;

use super::held::Held;
use super::news::{Cursor, News, UnderWay, View};
use super::subscription::Subscription;
use super::{Response, Variant, whole};

impl Subscription {
    /// The next response with additions and changes, if there is anything to say. None may be under way.
    pub fn advance(&mut self, view: &View, nonces: &mut u64) -> Option<Response> {
        let news = self.next_trial(view).unwrap_or_else(|| self.look(view));
        let says_something = !news.carried.is_empty()
            || !news.absent.is_empty()
            || !self.owed.is_empty()
            || self.nonce == 0;
        let restates =
            !says_something && self.is_whole(view) && std::mem::take(&mut self.must_restate);
        if news.trial == 0 && !news.cut {
            self.looked = Cursor::now(view);
        }
        (says_something || restates).then(|| self.send(view, nonces, news, Vec::new()))
    }

    /// The next response with removals, if there are any. Nothing of any type may be under way.
    pub fn sweep(&mut self, view: &View, nonces: &mut u64) -> Option<Response> {
        self.learn(view);
        let mut gone = self.gone(view);
        let mut bytes = 0;
        let fitting = gone.iter().take_while(|name| {
            bytes += name.len();
            bytes <= view.response_bytes
        });
        let fitting = fitting.count().max(1);
        if self.is_whole(view) || gone.len() <= fitting {
            self.swept = view.snapshot.now();
        } else {
            gone.truncate(fitting);
        }
        self.held.remove_all(&gone);
        gone.iter().for_each(|name| drop(self.refused.remove(name)));
        let can_say_so = view.variant == Variant::Delta || self.is_whole(view);
        (can_say_so && !gone.is_empty()).then(|| self.send(view, nonces, News::default(), gone))
    }

    fn send(&mut self, view: &View, nonces: &mut u64, news: News, gone: Vec<Arc<str>>) -> Response {
        *nonces += 1;
        self.nonce = *nonces;
        for carried in &news.carried {
            let name = &carried.resource.name;
            let current = view.snapshot.get(self.kind, name).map(|resource| resource.version);
            if self.refused.get(name).is_some_and(|(version, _)| Some(*version) != current) {
                self.refused.remove(name);
            }
            self.owed.remove(name);
        }
        if news.trial == 0 && !news.cut {
            self.owed.clear();
        }
        self.held.put_all(
            news.carried
                .iter()
                .map(|carried| Held::Resource(Arc::clone(&carried.resource)))
                .collect(),
        );
        let carried = || news.carried.iter().map(|carried| Arc::clone(&carried.resource)).collect();
        let resources = if self.is_whole(view) { self.whole() } else { carried() };
        for name in &news.absent {
            self.owed.remove(name);
        }
        let (version_info, absent, removed) = match view.variant {
            Variant::Delta => {
                let mut removed: Vec<Arc<str>> =
                    gone.into_iter().chain(news.absent.iter().cloned()).collect();
                removed.sort_unstable();
                self.held.remove_all(&removed);
                (String::new(), news.absent, removed)
            }
            Variant::StateOfTheWorld => (whole::version(&resources), Vec::new(), Vec::new()),
        };
        self.under_way = Some(UnderWay { carried: news.carried, absent, trial: news.trial });
        Response {
            type_url: self.kind.url().into(),
            version_info,
            nonce: self.nonce.to_string(),
            resources,
            removed,
        }
    }
}
