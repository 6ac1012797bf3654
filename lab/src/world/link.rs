//! A link with delay and loss in place of a host's veth pair, like the kernel's `netem`, but
//! without that module.
//!
//! ```text
//! bridge "atlas" ─ TAP device "hostN" ◀─ thread, thread ─▶ TAP device "eth0" ─ host
//!                                     delay, loss, rate,
//!                                     size, for each direction, changeable at any time
//! ```
//!
//! Both devices carry whole frames, so addresses and routes are those of any other host. ARP and
//! neighbour discovery pass at once and always, since in a real network a router near the machine
//! answers them. Threads of this process copy the frames, so a busy machine adds milliseconds.

mod conditions;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

pub use conditions::{Conditions, Counts};
use conditions::{Lane, is_between_neighbours};

/// Longest wait for a frame, after which a thread checks whether its link was closed.
const LOOK: Duration = Duration::from_millis(50);
/// How many frames are read before due frames are sent.
const BATCH: usize = 64;
/// Size of the frame buffer in bytes; the devices' MTU is 1,500.
const FRAME: usize = 2048;

/// One of a link's two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the host sends.
    FromHost,
    /// What the host receives.
    ToHost,
}

/// The link of a far host. Clones are the same link.
#[derive(Clone, Debug)]
pub struct Link(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    from_host: Mutex<Way>,
    to_host: Mutex<Way>,
    gone: AtomicBool,
}

#[derive(Debug)]
struct Way {
    conditions: Conditions,
    lane: Lane,
}

impl Way {
    fn new(seed: u64) -> Mutex<Self> {
        Mutex::new(Self { conditions: Conditions::default(), lane: Lane::new(seed) })
    }
}

/// Makes a device, up, in the network namespace of the calling thread.
pub(super) fn device(name: &str) -> Result<SyncDevice> {
    let make = || -> std::io::Result<SyncDevice> {
        let device = DeviceBuilder::new().layer(Layer::L2).name(name).build_sync()?;
        device.set_nonblocking(true)?;
        Ok(device)
    };
    make().with_context(|| {
        format!("no TAP device {name}: far links need /dev/net/tun, readable and writable (modprobe tun; chmod 0666 /dev/net/tun)")
    })
}

impl Link {
    /// Copies frames between both devices until the link is closed. `seed`: of the random numbers
    /// that decide which packets are lost.
    pub(super) fn between(host: SyncDevice, world: SyncDevice, seed: u64) -> Self {
        // Different seeds, or both directions would lose the same packets.
        let shared = Arc::new(Shared {
            from_host: Way::new(seed),
            to_host: Way::new(!seed),
            gone: AtomicBool::new(false),
        });
        let (host, world) = (Arc::new(host), Arc::new(world));
        for (direction, from, to) in
            [(Direction::FromHost, &host, &world), (Direction::ToHost, &world, &host)]
        {
            let (link, from, to) = (Self(Arc::clone(&shared)), Arc::clone(from), Arc::clone(to));
            thread::spawn(move || link.carry(direction, &from, &to));
        }
        Self(shared)
    }

    /// Closes the link; its devices are closed when its threads end.
    pub(super) fn close(&self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }

    fn way(&self, direction: Direction) -> std::sync::MutexGuard<'_, Way> {
        let way = match direction {
            Direction::FromHost => &self.0.from_host,
            Direction::ToHost => &self.0.to_host,
        };
        way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the conditions of one direction for new packets.
    pub fn change(&self, direction: Direction, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.way(direction).conditions);
    }

    /// Changes both directions.
    pub fn change_both(&self, change: impl Fn(&mut Conditions)) {
        self.change(Direction::FromHost, &change);
        self.change(Direction::ToHost, &change);
    }

    /// Sets the round-trip time, and the loss of each direction (0 to 1).
    pub fn set_distance(&self, round_trip: Duration, loss: f64) {
        self.change_both(|conditions| {
            conditions.delay = round_trip / 2;
            conditions.loss = loss;
        });
    }

    /// The packet counts of one direction.
    pub fn counts(&self, direction: Direction) -> Counts {
        self.way(direction).lane.counts
    }

    fn carry(&self, direction: Direction, from: &SyncDevice, to: &SyncDevice) {
        let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut buffer = [0; FRAME];
        while !self.0.gone.load(Ordering::Relaxed) {
            let wait = under_way
                .front()
                .map_or(LOOK, |(out, _)| out.saturating_duration_since(Instant::now()).min(LOOK));
            let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            // An interrupted wait (EINTR) only ends early.
            let _ =
                poll(&mut [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)], Some(&timeout));
            for _ in 0..BATCH {
                let frame = match from.recv(&mut buffer) {
                    Ok(length) => &buffer[..length],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // The namespace of one end no longer exists.
                    Err(_) => return,
                };
                if is_between_neighbours(frame) {
                    let _ = to.send(frame);
                    continue;
                }
                let mut way = self.way(direction);
                let conditions = way.conditions;
                if let Some(out) = way.lane.admit(Instant::now(), &conditions, frame) {
                    under_way.push_back((out, frame.to_vec()));
                }
            }
            let now = Instant::now();
            while let Some((_, frame)) = under_way.pop_front_if(|(out, _)| *out <= now) {
                // A frame that the kernel refuses (because the interface isn't up yet) is lost.
                let _ = to.send(&frame);
            }
        }
    }
}
