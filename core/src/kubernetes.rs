//! What is for a Kubernetes API server: the objects that Atlas writes, how they are applied, and
//! who may write.

pub mod apply;
pub mod derived_objects;
pub mod lease;
pub mod object;
