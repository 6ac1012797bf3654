//! Atlas on a directory of manifests: a watched directory in, files out.

pub mod bootstrap_files;
pub mod pki_directory;
pub mod run;
pub mod state_dir;
pub mod watch;
