//! Starts and stops everything that a standalone Atlas runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::app::{App, has_ended};
use crate::config::{Config, StandaloneConfig};
use crate::engine::Engine;
use crate::pki::Pki;
use crate::process::debounce::Debounce;
use crate::standalone::last_good_files::LastGoodFiles;
use crate::standalone::output_files::OutputFiles;
use crate::standalone::pki_directory::PkiDirectory;
use crate::standalone::provider::DirectoryProvider;
use crate::standalone::state_dir::StateDir;
use crate::standalone::watch::{self, UpdateQueue, WatchTiming};
use crate::web::{self, http};

/// Runs until a signal, or until something that must run can't.
///
/// # Errors
/// The state directory can't be used, a port is taken, or a part ended.
pub async fn run(config: Config, standalone: StandaloneConfig) -> anyhow::Result<()> {
    // Every file is made for its owner alone, unless it is made readable: the control socket too,
    // from its first moment.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let state = StateDir::at(&standalone.state)?;
    let _lock = state.lock()?;
    if let Some(dir) = &standalone.public_dir {
        state.ensure_apart(dir)?;
    }
    let trust_domain = config.settings.trust_domain.clone();
    let pki = Pki::load(PkiDirectory::new(state.clone()), trust_domain, config.lifetimes)?;
    // There is one replica, so none knows more than this one.
    let mut app = App::start(&config, true, Duration::ZERO).await?;
    let socket = bind_socket(&state)?;
    let (command_sender, commands) = mpsc::channel(16);
    let server = app.http_server(web::control(app.web(), command_sender), "control");
    app.tasks.spawn("the control socket", http::serve(socket, server));

    let last_good = LastGoodFiles::load(state.clone());
    let updates = Arc::new(UpdateQueue::default());
    let timing = WatchTiming { debounce: config.debounce, ..WatchTiming::default() };
    let watching = watch::watch(
        standalone.manifests.clone(),
        Arc::clone(&updates),
        timing,
        last_good.manifests().clone(),
        app.stop.clone(),
    );
    let watching = async {
        match watching.await {
            Ok(()) => has_ended("the watch of the manifests"),
            Err(error) => error.context("cannot watch the manifests"),
        }
    };
    let outputs = OutputFiles::new(state.clone(), standalone.public_dir);
    let provider = DirectoryProvider::new(updates, last_good, outputs);
    // The watch of the directory has waited for the end of a burst already.
    let debounce = Debounce { idle: Duration::ZERO, longest: Duration::ZERO };
    let engine =
        Engine::new(config.settings, provider, pki, app.publisher(), debounce, Some(commands));
    let stop = app.stop.clone();
    tracing::info!(
        from = %standalone.manifests.display(),
        state = %state.root().display(),
        listen = %config.listen.ip,
        xds = config.listen.xds,
        "atlas runs"
    );
    let result = app.run(engine.run(stop), watching).await;
    let _ = std::fs::remove_file(state.socket());
    tracing::info!("stopped");
    result
}

/// The lock is held, so a socket that is there is a dead process's.
fn bind_socket(state: &StateDir) -> anyhow::Result<UnixListener> {
    let path = state.socket();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| {
        format!(
            "cannot listen on {} (a socket's path may have 107 characters at most)",
            path.display()
        )
    })?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}
