//! What Thanos Query and DNS are told of the stores.

pub mod endpoints;
pub mod stores;
pub mod zone;
