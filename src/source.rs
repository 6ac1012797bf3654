//! Where facts come from.
pub mod files;
