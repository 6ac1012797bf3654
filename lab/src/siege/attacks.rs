//! The attacks, a file for each kind.

mod connections;
mod faults;
mod http2;
mod names;
mod requests;
mod slow;

use super::Attack;

pub(super) const ALL: &[&[Attack]] = &[
    connections::ATTACKS,
    requests::ATTACKS,
    names::ATTACKS,
    slow::ATTACKS,
    http2::ATTACKS,
    faults::ATTACKS,
];
