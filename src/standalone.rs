//! Atlas on a directory of manifests: a watched directory in, files out.

pub mod bootstrap_files;
pub mod last_good_files;
pub mod output_files;
pub mod pki_directory;
pub mod provider;
pub mod run;
pub mod state_dir;
pub mod watch;
