//! A private world for a whole-system test: its own user, network, mount and pid namespaces,
//! without root.
//!
//! ```text
//!        world's root namespace (the test itself, 10.91.0.1, fd91::1)
//!                      │ bridge "atlas"
//!        ┌─────────────┼──────────────┐   one veth pair each; "pulling the link"
//!   host "hub"    host "tokyo"   host "paris"   disables the bridge's port
//!   10.91.1.1     10.91.2.1      10.91.3.1
//! ```
//!
//! The link of a host may have delay and loss ([`World::far_host`], [`Link`]).
//!
//! Each [`Host`] has a network and a mount namespace: its own addresses, loopback, `/etc/hosts` and
//! `/etc/resolv.conf`. Nothing in a world can reach the machine's network. When the test ends in
//! any way, all processes in its world end.
//!
//! A test enters its world by starting its own executable again under `unshare`, for this test
//! alone; the environment variable [`VARIABLE`] is set in that second run. The outer run waits,
//! with a time limit, and on failure prints the output and the end of every log. With `--nocapture`
//! the output is shown at once. `ATLAS_LAB_KEEP=1` keeps the world's directory.

mod host;
mod link;
mod net;
mod outside;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use host::Host;
pub use link::{Conditions, Counts, Direction, Link};

use crate::parts::{self, Part};

/// The world's directory; set inside a world only.
pub const VARIABLE: &str = "ATLAS_LAB_WORLD";

/// The default time limit of a test in a world.
pub const LIMIT: Duration = Duration::from_secs(240);

/// A file in the world's directory that is written when the test's body starts.
const ENTERED: &str = "entered";

/// A test in a private world. The body gets a [`&World`](World) and may use `?`:
///
/// ```text
/// world_test! {
///     needs [Envoy, Thanos],   // optional: parts to fetch before, since a world has no network
///     within 60,               // optional: the time limit in seconds, instead of 240
///     /// Attributes and comments go here.
///     fn query_sees_a_store(world) {
///         let tokyo = world.host("tokyo")?;
///     }
/// }
/// ```
#[macro_export]
macro_rules! world_test {
    (needs [$($part:ident),* $(,)?], within $seconds:literal, $(#[$attribute:meta])* fn $name:ident($world:ident) $body:block) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            let test = $crate::world::test_name(module_path!(), stringify!($name));
            let parts: &[$crate::parts::Part] = &[$($crate::parts::Part::$part),*];
            let limit = std::time::Duration::from_secs($seconds);
            $crate::world::inside_with(parts, limit, &test, || {
                let body = |$world: &$crate::world::World| -> anyhow::Result<()> {
                    $body
                    #[allow(unreachable_code, reason = "a body may end in a return or a panic")]
                    Ok(())
                };
                $crate::world::World::new().and_then(|world| body(&world)).unwrap_or_else(|error| panic!("{error:?}"));
            });
        }
    };
    (needs [$($part:ident),* $(,)?], $(#[$attribute:meta])* fn $name:ident($world:ident) $body:block) => {
        $crate::world_test! { needs [$($part),*], within 240, $(#[$attribute])* fn $name($world) $body }
    };
    (within $seconds:literal, $(#[$attribute:meta])* fn $name:ident($world:ident) $body:block) => {
        $crate::world_test! { needs [], within $seconds, $(#[$attribute])* fn $name($world) $body }
    };
    ($(#[$attribute:meta])* fn $name:ident($world:ident) $body:block) => {
        $crate::world_test! { needs [], within 240, $(#[$attribute])* fn $name($world) $body }
    };
}

/// The name by which libtest knows a test: its path without the crate.
pub fn test_name(module_path: &str, function: &str) -> String {
    match module_path.split_once("::") {
        Some((_, module)) => format!("{module}::{function}"),
        None => function.to_owned(),
    }
}

/// Runs `body` in a private world, within [`LIMIT`]. `test_name` is the name of the calling test:
/// see [`test_name`].
///
/// # Panics
/// The test fails inside, takes too long, or no world can be made on this machine.
pub fn inside(test_name: &str, body: impl FnOnce()) {
    inside_with(&[], LIMIT, test_name, body);
}

/// [`inside`] with another time limit, and with parts that are fetched or built before it starts.
pub fn inside_with(parts: &[Part], limit: Duration, test_name: &str, body: impl FnOnce()) {
    if let Some(dir) = std::env::var_os(VARIABLE) {
        fs::write(Path::new(&dir).join(ENTERED), "").expect("the world's directory can be written");
        return body();
    }
    let got = parts.iter().try_for_each(|&part| parts::get(part).map(drop));
    if let Err(error) = got.and_then(|()| outside::run(test_name, limit)) {
        panic!("{error:#}");
    }
}

/// The network of all hosts, and the directory of their files. There is one for each world.
#[derive(Debug)]
pub struct World {
    dir: PathBuf,
    hosts: AtomicU8,
    root: Host,
}

impl World {
    /// The address of the world's root namespace, where the test runs.
    pub const IP: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 1);
    /// The address of the world's root namespace, where the test runs.
    pub const IP6: Ipv6Addr = Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, 0, 1);

    /// Makes the bridge. Works only inside a world: see [`inside`].
    pub fn new() -> Result<Self> {
        let dir = std::env::var_os(VARIABLE).map(PathBuf::from).with_context(|| {
            format!(
                "not in a private world ({VARIABLE} is not set): use world_test! or world::inside"
            )
        })?;
        net::make_bridge(Self::IP, Self::IP6)?;
        let root = Host::root(&dir)?;
        Ok(Self { dir, hosts: AtomicU8::new(0), root })
    }

    /// The directory of the hosts' files and logs. Removed when the test ends, unless
    /// `ATLAS_LAB_KEEP` is set.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a host with its link up; at most 250. The name is that of its directory.
    pub fn host(&self, name: &str) -> Result<Host> {
        Host::joined(&self.dir, name, self.next_number()?, None)
    }

    /// Adds a host whose link can be given delay and loss: see [`Host::link`]. At first it has
    /// neither. `seed`: of the random numbers that decide which packets are lost.
    pub fn far_host(&self, name: &str, seed: u64) -> Result<Host> {
        Host::joined(&self.dir, name, self.next_number()?, Some(seed))
    }

    fn next_number(&self) -> Result<u8> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(number <= 250, "a world has at most 250 hosts");
        Ok(number)
    }

    /// The namespace of the test itself, as a host. It reaches all others and has no link.
    pub fn root(&self) -> &Host {
        &self.root
    }
}
