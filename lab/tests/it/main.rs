//! The lab's whole-system tests, in one binary since each links again: the private world, and the
//! real programs in it.

mod kube;
mod link;
mod run;
mod world;
