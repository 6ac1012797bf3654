//! Random test cases that can be repeated. Each is made from a seed. Some seeds are the same in
//! every run, others are new. A failure prints its seed, and as few of its events as still fail.
//!
//! `ATLAS_SESSION_SEED=7` tries that seed alone; `ATLAS_SESSION_CASES=100` tries a hundred times as
//! many new ones.

use std::fmt::{Debug, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// A test case: a setting, and events in order.
pub type Case<S, E> = (S, Vec<E>);

/// How many seeds a test tries.
pub struct Seeds {
    /// The same in every run: 0, 1, 2, …
    pub fixed: u32,
    /// Others in every run, `ATLAS_SESSION_CASES` times as many.
    pub new: u32,
}

/// Most runs to shorten a failing case.
const SHORTENING_RUNS: usize = 20_000;

#[expect(clippy::disallowed_methods, reason = "the core has no environment; its tests by hand may")]
fn number(key: &str) -> Option<u64> {
    let text = std::env::var(key).ok()?;
    Some(
        text.parse().unwrap_or_else(|_| {
            panic!("{key}={text}: not a number; give a whole one, or unset it")
        }),
    )
}

impl Seeds {
    fn all(self) -> Vec<u64> {
        if let Some(seed) = number("ATLAS_SESSION_SEED") {
            return vec![seed];
        }
        let first = any::<u64>().new_tree(&mut TestRunner::default()).expect("a number").current();
        let new = u64::from(self.new).saturating_mul(number("ATLAS_SESSION_CASES").unwrap_or(1));
        (0..self.fixed.into()).chain((0..new).map(|n| first.wrapping_add(n))).collect()
    }

    /// Runs the case of each seed. `paste` writes a case as the body of a test.
    ///
    /// # Panics
    /// One case fails.
    pub fn check<S: Debug, E: Clone + Debug>(
        self,
        test: &str,
        cases: &impl Strategy<Value = Case<S, E>>,
        run: impl Fn(&S, &[E]) -> Result<(), TestCaseError>,
        paste: impl Fn(&S, &[E]) -> String,
    ) {
        for seed in self.all() {
            let (setting, events) = case(seed, cases);
            if let Err(failure) = run_case(|| run(&setting, &events)) {
                panic!("{}", report(test, seed, &failure, &setting, events, &run, &paste));
            }
        }
    }
}

/// The case of a seed.
fn case<T: Debug>(seed: u64, cases: &impl Strategy<Value = T>) -> T {
    let config =
        Config { rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    cases.new_tree(&mut TestRunner::new(config)).expect("a case").current()
}

/// Runs a case; a panic is a failure.
fn run_case(run: impl FnOnce() -> Result<(), TestCaseError>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|failure| failure.to_string()),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("a panic: {}", message.unwrap_or("without a message")))
        }
    }
}

fn report<S, E: Clone>(
    test: &str,
    seed: u64,
    failure: &impl Display,
    setting: &S,
    events: Vec<E>,
    run: &impl Fn(&S, &[E]) -> Result<(), TestCaseError>,
    paste: &impl Fn(&S, &[E]) -> String,
) -> String {
    let all = events.len();
    let few =
        shortest(events, SHORTENING_RUNS, |events| run_case(|| run(setting, events)).is_err());
    let failure_of_few = run_case(|| run(setting, &few)).err().unwrap_or_default();
    format!(
        "{failure}\nRepeat it: ATLAS_SESSION_SEED={seed} cargo test -p atlas-core --lib {test}\n\
         {} of its {all} events are enough for: \
         {failure_of_few}\nAs a test:\n\n    #[test]\n    fn a_case() {{\n        {}\n    }}\n",
        few.len(),
        paste(setting, &few)
    )
}

/// As few events as still fail. It leaves out ever shorter runs of events, at last each pair.
pub fn shortest<E: Clone>(
    mut events: Vec<E>,
    mut attempts: usize,
    fails: impl Fn(&[E]) -> bool,
) -> Vec<E> {
    let mut fails = |events: &[E]| {
        attempts = attempts.saturating_sub(1);
        attempts > 0 && fails(events)
    };
    let mut length = events.len().div_ceil(2);
    while length > 0 {
        let before = events.len();
        let mut start = 0;
        while start < events.len() {
            let end = events.len().min(start + length);
            let fewer = [&events[..start], &events[end..]].concat();
            if fails(&fewer) {
                events = fewer;
            } else {
                start = end;
            }
        }
        if length > 1 {
            length /= 2;
        } else if events.len() == before {
            let Some(fewer) = without_a_pair(&events, &mut fails) else { break };
            events = fewer;
        }
    }
    events
}

fn without_a_pair<E: Clone>(events: &[E], fails: &mut impl FnMut(&[E]) -> bool) -> Option<Vec<E>> {
    let pairs = (0..events.len())
        .flat_map(|first| (first + 1..events.len()).map(move |second| (first, second)));
    let mut without = pairs.map(|(first, second)| {
        [&events[..first], &events[first + 1..second], &events[second + 1..]].concat()
    });
    without.find(|fewer| fails(fewer))
}

#[test]
fn a_failing_case_is_shortened() {
    // 3 before 7, and as many fours as fives: these can be left out in pairs only.
    let fails = |events: &[u32]| {
        let place = |wanted: u32| events.iter().position(|event| *event == wanted);
        let count = |wanted: u32| events.iter().filter(|event| **event == wanted).count();
        let in_order = place(3).is_some_and(|three| place(7).is_some_and(|seven| three < seven));
        in_order && count(4) == count(5)
    };
    let mut events: Vec<u32> = (0..400).map(|n| n % 3).collect();
    for (place, event) in [(50, 4), (51, 4), (90, 3), (200, 5), (310, 7), (390, 5)] {
        events[place] = event;
    }
    assert!(fails(&events));
    assert_eq!(shortest(events, SHORTENING_RUNS, fails), [3, 7]);
}

#[test]
fn attempts_to_shorten_a_case_are_limited() {
    let tried = std::cell::Cell::new(0);
    let all = shortest((0..1000).collect(), 50, |_| {
        tried.set(tried.get() + 1);
        false
    });
    assert_eq!((all.len(), tried.get()), (1000, 49));
}

#[test]
fn a_failure_names_its_seed_and_a_short_test() {
    let cases = (Just("a setting"), prop::collection::vec(0..100u32, 50));
    let run = |_: &&str, events: &[u32]| {
        let bad = events.iter().find(|event| **event >= 40);
        bad.map_or(Ok(()), |bad| Err(TestCaseError::fail(format!("{bad} is too much"))))
    };
    let paste = |setting: &&str, events: &[u32]| format!("holds({setting:?}, &{events:?});");
    let seeds = Seeds { fixed: 3, new: 0 };
    let panic = catch_unwind(|| seeds.check("a_test", &cases, run, paste))
        .expect_err("one of them is too much");
    let report = panic.downcast_ref::<String>().expect("a message");
    let seed = report.split_once("ATLAS_SESSION_SEED=").expect("a seed").1;
    let (seed, after) = seed
        .split_once(" cargo test -p atlas-core --lib a_test\n1 of its 50 events are enough")
        .expect("a command");
    // The seed alone makes the case again.
    let failure = run(&"a setting", &case(seed.parse().expect("a number"), &cases).1)
        .expect_err("it fails again")
        .to_string();
    assert!(report.starts_with(&failure), "{report}");
    assert!(after.contains("#[test]") && after.contains("holds(\"a setting\", &["), "{report}");
}
