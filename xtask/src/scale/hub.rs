//! A real hub Envoy between the clusters' streams and Atlas, in a private world: its ports are what
//! they are.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use atlas_lab::parts::{self, Part};
use atlas_lab::run::{Envoy, EnvoyOptions};
use atlas_lab::world::World;

/// Where clusters connect.
const XDS_ENTRY: u16 = 10900;

/// A running hub Envoy.
pub struct Hub(Envoy);

impl Hub {
    /// Starts it from the files that Atlas keeps in its state directory, and waits until it is
    /// live. Its log is `name`'s.
    pub fn start(world: &World, state: &Path, name: &str) -> Result<Self> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9000);
        let options = EnvoyOptions::new(state.join("nodes/hub/envoy.yaml"), admin);
        let mut envoy = Envoy::start(world.root(), name, &parts::get(Part::Envoy)?, &options)?;
        envoy.wait_live()?;
        Ok(Self(envoy))
    }

    /// Where clusters connect.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, XDS_ENTRY).into()
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        self.0.process.resident_bytes()
    }
}
