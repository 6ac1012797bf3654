//! A real hub Envoy between the clusters' streams and Atlas, in a private world, since its ports
//! are fixed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use atlas_lab::parts::{self, Part};
use atlas_lab::run::{Envoy, EnvoyOptions};
use atlas_lab::world::World;

/// The port of the hub's Envoy for the clusters' xDS streams.
const XDS_PORT: u16 = 10900;

pub struct HubEnvoy(Envoy);

impl HubEnvoy {
    /// Starts it with the bootstrap files in Atlas's state directory, and waits until it is live.
    /// `name`: of its log.
    pub fn start(world: &World, state: &Path, name: &str) -> Result<Self> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9000);
        let options = EnvoyOptions::new(state.join("nodes/hub/envoy.yaml"), admin);
        let mut envoy = Envoy::start(world.root(), name, &parts::get(Part::Envoy)?, &options)?;
        envoy.wait_live()?;
        Ok(Self(envoy))
    }

    /// The address that clusters connect to.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, XDS_PORT).into()
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        self.0.process.resident_bytes()
    }
}
