//! The stores as Thanos Query's endpoint file and as a DNS zone.

pub mod endpoints;
pub mod stores;
pub mod zone;
