//! The world: true time, each machine's own clock, the network, and what goes wrong. Events happen
//! one by one, in the order of true time (milliseconds). Everything follows from a [`Schedule`], so
//! a failure can be had again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::process::{Process, Purpose};
use super::server::{Answer, Request, Server};
use super::{Break, Fault, FaultKind, Schedule};
use crate::kubernetes::lease::{LeaseTiming, Term};

/// A small generator (SplitMix64): the same seed, the same numbers.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn percent(&mut self, chance: u8) -> bool {
        self.below(100) < u64::from(chance)
    }
}

/// One machine, on which one process after the other runs.
#[derive(Debug)]
struct Machine {
    /// Its clock's speed, in thousandths.
    rate: u64,
    /// How long its clock has stood still.
    stood: u64,
    /// From when to when its clock stands still.
    standing: (u64, u64),
    process: Option<Process>,
    /// Which process this is: an answer to another is nobody's.
    life: u64,
    paused_until: u64,
    cut_until: u64,
    /// How long it takes until the next process starts.
    down: u64,
    /// The elector's request that is under way.
    electing: Option<u64>,
    /// Which of the elector's wakings counts.
    waking: u64,
}

impl Machine {
    fn clock(&self, now: u64) -> Duration {
        let (from, until) = self.standing;
        let passed = now.min(until).saturating_sub(from);
        Duration::from_millis((now - self.stood - passed) * self.rate / 1000)
    }

    fn pause(&mut self, now: u64, until: u64, clock_stops: bool) {
        if self.paused_until > now {
            return;
        }
        self.paused_until = until;
        if clock_stops {
            self.stood += self.standing.1 - self.standing.0;
            self.standing = (now, until);
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// The elector has waited long enough, if this is its latest waiting.
    Elect(u64),
    /// The writer looks for work.
    Work,
    /// A request leaves the process, perhaps long after it was decided.
    Send(u64, Request),
    /// A request reaches the server.
    Arrive(u64, Request),
    Answer(u64, Answer),
    Timeout(u64),
    Start,
    Kill,
    FaultKind(FaultKind),
}

pub struct World {
    pub now: u64,
    timing: LeaseTiming,
    broken: Break,
    schedule: Schedule,
    random: Random,
    pub server: Server,
    machines: Vec<Machine>,
    events: BTreeMap<(u64, u64), (usize, u64, Event)>,
    /// Requests without an answer yet: what for, and for the electors' also what came late.
    calls: BTreeMap<u64, (Purpose, Request)>,
    count: u64,
    calm: bool,
    /// When two led at once, if they did.
    pub two_led: Option<String>,
}

impl World {
    pub fn new(schedule: &Schedule, timing: LeaseTiming, broken: Break) -> Self {
        let machines = schedule.rates.iter().map(|rate| Machine {
            rate: *rate,
            stood: 0,
            standing: (0, 0),
            process: None,
            life: 0,
            paused_until: 0,
            cut_until: 0,
            down: 0,
            electing: None,
            waking: 0,
        });
        let mut world = Self {
            now: 0,
            timing,
            broken,
            random: Random(schedule.seed),
            server: Server::new(broken.blind()),
            machines: machines.collect(),
            events: BTreeMap::new(),
            calls: BTreeMap::new(),
            count: 0,
            calm: false,
            two_led: None,
            schedule: schedule.clone(),
        };
        for machine in 0..world.machines.len() {
            let after = world.random.below(3000);
            world.after(after, machine, Event::Start);
        }
        for Fault { at, machine, kind } in &schedule.faults {
            world.after(*at, *machine % schedule.rates.len(), Event::FaultKind(*kind));
        }
        world
    }

    /// Which machines' processes think that they lead.
    pub fn leaders(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|number| self.leads(*number)).collect()
    }

    fn leads(&self, number: usize) -> bool {
        self.term(number).is_some()
    }

    /// The term in which a machine's process thinks that it leads.
    pub fn term(&self, number: usize) -> Option<Term> {
        let machine = &self.machines[number];
        machine.process.as_ref()?.leads(machine.clock(self.now))
    }

    /// Lets time go on until then.
    pub fn run(&mut self, until: u64) {
        while let Some(first) = self.events.first_entry().filter(|event| event.key().0 <= until) {
            self.now = first.key().0;
            let (machine, life, event) = first.remove();
            self.happen(machine, life, event);
            // Only what a machine does, or gets, makes it lead; time alone doesn't.
            if self.two_led.is_none() && self.leads(machine) {
                let leaders = self.leaders();
                self.two_led = (leaders.len() > 1)
                    .then(|| format!("at {} ms machines {leaders:?} lead", self.now));
            }
        }
        self.now = until;
    }

    /// Until a process leads that isn't on this machine; the time that it took.
    pub fn run_until_led(&mut self, except: Option<usize>, at_most: u64) -> Option<(usize, u64)> {
        let start = self.now;
        while self.now < start + at_most {
            self.run(self.now + 20);
            if let Some(leader) = self.leaders().into_iter().find(|leader| Some(*leader) != except)
            {
                return Some((leader, self.now - start));
            }
        }
        None
    }

    /// From now on nothing goes wrong any more, all processes run, and the writer only repairs.
    pub fn calm(&mut self) {
        self.calm = true;
        (self.schedule.loss, self.schedule.slow, self.schedule.hiccup) = (0, 0, 0);
        self.events.retain(|_, (_, _, event)| !matches!(event, Event::FaultKind(_)));
        for number in 0..self.machines.len() {
            let machine = &mut self.machines[number];
            (machine.paused_until, machine.cut_until) = (0, 0);
            machine.standing.1 = machine.standing.1.min(self.now).max(machine.standing.0);
            if machine.process.is_none() {
                self.after(0, number, Event::Start);
            }
        }
        let overdue: Vec<_> = self.events.keys().copied().collect();
        for (place, key) in overdue.into_iter().enumerate() {
            // What waited for the end of a pause.
            if matches!(
                self.events[&key].2,
                Event::Elect(_)
                    | Event::Work
                    | Event::Send(..)
                    | Event::Timeout(_)
                    | Event::Answer(..)
            ) {
                let event = self.events.remove(&key).unwrap();
                self.events.insert((key.0.min(self.now + 1000 + place as u64), key.1), event);
            }
        }
    }

    pub fn inject(&mut self, number: usize, kind: FaultKind) {
        let now = self.now;
        let machine = &mut self.machines[number];
        match kind {
            FaultKind::Pause { lasts, clock_stops } => machine.pause(now, now + lasts, clock_stops),
            FaultKind::Cut { lasts } => machine.cut_until = machine.cut_until.max(now + lasts),
            FaultKind::Outage { lasts } => self
                .machines
                .iter_mut()
                .for_each(|machine| machine.cut_until = machine.cut_until.max(now + lasts)),
            FaultKind::Crash { lasts } => {
                machine.down = lasts;
                self.end(number);
            }
            FaultKind::Release { lasts } => {
                machine.down = lasts;
                if let Some(process) = &mut machine.process {
                    process.release();
                    if machine.electing.is_none() {
                        self.wake(0, number);
                    }
                    // Unless it has stopped by itself by then.
                    self.after(5000, number, Event::Kill);
                }
            }
            FaultKind::DeletedLease => self.server.delete_lease(),
            FaultKind::TouchedLease => self.server.touch_lease(),
        }
    }

    fn happen(&mut self, number: usize, life: u64, event: Event) {
        let machine = &mut self.machines[number];
        match event {
            Event::FaultKind(kind) => return self.inject(number, kind),
            Event::Arrive(call, request) => {
                // A request that was sent is served, whatever became of who sent it.
                let answer = self.server.serve(request);
                return self.travel(number, life, Event::Answer(call, answer));
            }
            Event::Start if machine.process.is_none() => {
                machine.life += 1;
                // The pod's name stays; the process's doesn't.
                let name = format!("atlas-{number}_{}", machine.life);
                machine.process = Some(Process::new(name, self.timing, self.broken));
                machine.electing = None;
                self.wake(0, number);
                return self.after(100, number, Event::Work);
            }
            Event::Start => return,
            _ => {}
        }
        if machine.life != life {
            return;
        }
        if matches!(event, Event::Kill) {
            return self.end(number);
        }
        if machine.paused_until > self.now {
            let at = machine.paused_until - self.now;
            return self.after(at, number, event);
        }
        let now = machine.clock(self.now);
        let Some(process) = &mut machine.process else { return };
        match event {
            Event::Elect(waking) if waking == machine.waking => self.elect(number),
            Event::Elect(_) => {}
            Event::Work => {
                let wanted = process.work(now, &mut self.random, self.calm);
                if let Some((purpose, request)) = wanted {
                    self.call(number, purpose, request);
                }
                let leads = self.machines[number]
                    .process
                    .as_ref()
                    .is_some_and(|process| process.leads(now).is_some());
                let after = if leads { 200 + self.random.below(200) } else { 700 };
                self.after(after, number, Event::Work);
            }
            Event::Send(call, request) => self.travel(number, life, Event::Arrive(call, request)),
            Event::Answer(call, answer) => self.answered(number, call, Some(answer)),
            Event::Timeout(call) => self.answered(number, call, None),
            Event::Start | Event::Kill | Event::Arrive(..) | Event::FaultKind(_) => {
                unreachable!("handled above")
            }
        }
    }

    /// The process ends, and another starts after a while.
    fn end(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.process = None;
        machine.life += 1;
        let down = machine.down;
        self.after(down, number, Event::Start);
    }

    fn elect(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let now = machine.clock(self.now);
        let Some(process) = &mut machine.process else { return };
        match process.elect(now) {
            Some(Ok((purpose, request))) => {
                let call = self.call(number, purpose, request);
                self.machines[number].electing = Some(call);
            }
            Some(Err(until)) => {
                let wait = until.saturating_sub(now).as_millis() as u64 * 1000 / machine.rate + 1;
                self.wake(wait, number);
            }
            None => self.end(number),
        }
    }

    fn call(&mut self, number: usize, purpose: Purpose, request: Request) -> u64 {
        self.count += 1;
        let call = self.count;
        self.calls.insert(call, (purpose, request.clone()));
        let wait = self.random.below(4);
        self.after(wait, number, Event::Send(call, request));
        let patience =
            self.timing.request_timeout().as_millis() as u64 * 1000 / self.machines[number].rate;
        self.after(patience, number, Event::Timeout(call));
        if self.random.percent(self.schedule.hiccup) {
            // Between the decision and the request.
            let until = self.now + self.random.below(40_000);
            let stops = self.schedule.clocks_stop && self.random.percent(50);
            self.machines[number].pause(self.now, until, stops);
        }
        call
    }

    fn wake(&mut self, delay: u64, number: usize) {
        self.machines[number].waking += 1;
        let waking = self.machines[number].waking;
        self.after(delay, number, Event::Elect(waking));
    }

    fn answered(&mut self, number: usize, call: u64, answer: Option<Answer>) {
        let machine = &mut self.machines[number];
        let (now, Some(process)) = (machine.clock(self.now), &mut machine.process) else { return };
        let Some((purpose, request)) = self.calls.get(&call).cloned() else { return };
        // The electors hear late answers too, and must not mind; the writer's are given up on, as
        // an HTTP client does.
        let elects = matches!(purpose, Purpose::Elect(_));
        if answer.is_some() || !elects {
            self.calls.remove(&call);
        }
        process.answered(now, purpose, &request, answer);
        if machine.electing.take_if(|in_flight| *in_flight == call).is_some() {
            self.elect(number);
        }
    }

    /// Something goes to the server, or from it.
    fn travel(&mut self, number: usize, life: u64, event: Event) {
        if self.machines[number].cut_until > self.now || self.random.percent(self.schedule.loss) {
            return;
        }
        let delay = if self.random.percent(self.schedule.slow) {
            self.random.below(9_000)
        } else {
            1 + self.random.below(40)
        };
        self.put(delay, number, life, event);
    }

    fn after(&mut self, delay: u64, number: usize, event: Event) {
        self.put(delay, number, self.machines[number].life, event);
    }

    fn put(&mut self, delay: u64, number: usize, life: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now + delay, self.count), (number, life, event));
    }
}
