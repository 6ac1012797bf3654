//! The xDS server. One task per stream does what [`atlas_core::xds::session`] decides.
//!
//! ```text
//! accept ─ TLS ▶ http2 ▶ service ▶ stream ◀──────▶ session      woken by changes of its own node
//!                         request_reader ─▶│
//!                         response_body  ◀─┘                     encoded when the client reads
//! ```
//!
//! gRPC is a header of five bytes in front of each message, and trailers at the end. It is written
//! here because tonic's codec needs more memory: it keeps for each stream two buffers as large as
//! the largest message that has passed. Here an idle stream keeps none, and a stream whose client
//! doesn't read keeps one chunk of [`response_encoder::CHUNK_BYTES`].

pub mod open_streams;

mod accept;
mod client;
mod client_authorizer;
mod connection;
mod first_bytes;
mod http2;
mod limits;
mod memory_budget;
mod request_decoder;
mod request_reader;
mod response_body;
mod response_encoder;
mod server;
mod service;
mod stream;
mod stream_end;

pub use accept::accept;
pub use client_authorizer::ClientAuthorizer;
pub use limits::LimitOptions;
pub use server::XdsServer;

#[cfg(test)]
mod tests;
