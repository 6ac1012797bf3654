//! The protocol's hard cases, with real Envoys: what one of them refuses, what is gone when it
//! comes back, what it asks for in vain.

use std::net::{Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::{Envoy, EnvoyOptions};
use atlas_lab::scene::{Atlas, AtlasOptions};
use atlas_lab::world::{Host, World};
use atlas_lab::world_test;

use crate::atlas;

/// What is waited for takes a fraction of a second.
const SOON: Duration = Duration::from_secs(15);

/// An Atlas and the hub's Envoy beside it.
struct Hub {
    host: Host,
    atlas: Atlas,
}

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{goatlas.io/cluster: \"true\"}}}}\nspec: {{externalIPs: [10.9.9.9]}}\n"
    )
}

impl Hub {
    fn start(world: &World, clusters: &[&str], extra: &[&str]) -> Result<Self> {
        let host = world.host("hub")?;
        let (from, state) = (host.dir().join("clusters"), host.dir().join("state"));
        std::fs::create_dir_all(&from)?;
        for name in clusters {
            std::fs::write(from.join(format!("{name}.yaml")), manifest(name))?;
        }
        let mut arguments = vec![format!("--hub-address={}", host.ip())];
        arguments.extend(extra.iter().map(|&argument| argument.to_owned()));
        let options = AtlasOptions {
            program: atlas().into(),
            from,
            state,
            listen: [127, 0, 0, 1].into(),
            extra: arguments,
        };
        let atlas = Atlas::start(&host, "atlas", options)?;
        Ok(Self { host, atlas })
    }

    /// What the hub's Envoy starts from, to be changed.
    fn bootstrap(&self) -> Result<serde_json::Value> {
        serde_yaml_ng::from_str(&std::fs::read_to_string(self.atlas.bootstrap("hub"))?)
            .context("Atlas wrote YAML")
    }

    fn envoy(&self, config: PathBuf) -> Result<Envoy> {
        let options = EnvoyOptions::new(config, "127.0.0.1:9000".parse()?);
        Envoy::start(&self.host, "hub-envoy", &parts::get(Part::Envoy)?, &options)
    }

    /// How a type stands on the hub's stream: state and message.
    fn type_status(&self, kind: &str) -> Result<(String, String)> {
        let status = self.atlas.status()?;
        let of_type = &status["nodes"][0]["instances"][0]["types"][kind];
        let text = |key: &str| of_type[key].as_str().unwrap_or_default().to_owned();
        Ok((text("state"), text("message")))
    }

    fn wait_status(&self, kind: &str, state: &str) -> Result<String> {
        wait_until(&format!("{kind} is {state}"), SOON, || {
            let (now, message) = self.type_status(kind)?;
            ensure!(now == state, "it is {now:?}: {message}");
            Ok(Some(message))
        })
    }
}

/// A listener that can't open before it has this secret.
fn wanting(name: &str, port: u16, secret: &serde_json::Value) -> serde_json::Value {
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    serde_json::json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{
            "filters": [{"name": "proxy", "typed_config": {"@type": proxy, "stat_prefix": name, "cluster": "atlas-xds"}}],
            "transport_socket": {
                "name": "tls",
                "typed_config": {"@type": tls, "common_tls_context": {"tls_certificate_sds_secret_configs": [secret]}},
            },
        }],
    })
}

fn has(envoy: &Envoy, path: &str, text: &str) -> Result<bool> {
    Ok(envoy.admin_get(path)?.ok()?.text().contains(text))
}

world_test! {
    needs [Envoy],
    fn a_refused_resource_is_not_resent_and_harms_no_other(world) {
        let mut hub = Hub::start(world, &["tokyo"], &[])?;
        // The web listener's port is taken.
        let taken = hub.host.within(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 10904))?))?;
        let started = Instant::now();
        let mut envoy = hub.envoy(hub.atlas.bootstrap("hub"))?;
        envoy.wait_live()?;
        println!("live {:?} after its start, with a refused listener", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(10), "Envoy alone would wait for 15 s");
        let message = hub.wait_status("LDS", "NACK")?;
        assert!(message.contains("10904"), "{message}");
        for listener in ["xds", "stores", "alerts"] {
            wait_until(listener, SOON, || Ok(has(&envoy, "/listeners", &format!("{listener}::"))?.then_some(())))?;
        }
        assert!(!has(&envoy, "/listeners", "web::")?);
        let status = hub.atlas.status()?;
        assert!(status["nodes"][0]["quarantined"].to_string().contains("web"), "{status}");
        let metrics = hub.atlas.get(6309, "/metrics")?.text();
        assert!(metrics.lines().any(|line| line.starts_with("atlas_xds_quarantined") && line.ends_with(" 1")), "{metrics}");

        // Everything else goes on, and the refused version is not sent again: neither with changes
        // nor with a new stream.
        let rejected = || envoy.stat("listener_manager.lds.update_rejected");
        let before = rejected()?;
        hub.atlas.write_manifest("osaka.yaml", &manifest("osaka"))?;
        wait_until("osaka", SOON, || Ok(has(&envoy, "/clusters", "cluster/osaka::")?.then_some(())))?;
        hub.atlas.process.stop(SOON)?;
        hub.atlas.process.restart()?;
        hub.atlas.wait_ready()?;
        hub.wait_status("CDS", "SYNCED")?;
        hub.wait_status("LDS", "NACK")?;
        // A restarted Atlas has forgotten, and hears it once more.
        std::thread::sleep(Duration::from_secs(2));
        assert!(rejected()? <= before + 1, "{} refusals after {before}", rejected()?);

        // What was wrong is mended, and the Envoy is started again: it is tried once more.
        drop(taken);
        envoy.process.stop(SOON)?;
        envoy.process.restart()?;
        envoy.wait_live()?;
        hub.wait_status("LDS", "SYNCED")?;
        assert!(has(&envoy, "/listeners", "web::")?);
        assert_eq!(hub.atlas.status()?["nodes"][0]["quarantined"].as_array().map_or(0, Vec::len), 0);
    }
}

world_test! {
    needs [Envoy],
    fn after_a_restart_only_removals_are_sent(world) {
        let mut hub = Hub::start(world, &["tokyo", "osaka"], &[])?;
        let mut envoy = hub.envoy(hub.atlas.bootstrap("hub"))?;
        envoy.wait_live()?;
        wait_until("osaka", SOON, || Ok(has(&envoy, "/clusters", "cluster/osaka::")?.then_some(())))?;
        hub.atlas.process.kill()?;
        hub.atlas.remove_manifest("osaka.yaml")?;
        let updated = envoy.stat("cluster_manager.cluster_modified")?;
        hub.atlas.process.restart()?;
        hub.atlas.wait_ready()?;
        wait_until("osaka goes", SOON, || Ok((!has(&envoy, "/clusters", "osaka")?).then_some(())))?;
        assert!(has(&envoy, "/clusters", "cluster/tokyo::")?);
        assert_eq!(envoy.stat("cluster_manager.cluster_modified")?, updated);
        let metrics = hub.atlas.get(6309, "/metrics")?.text();
        let sent = metrics.lines().filter(|line| line.starts_with("atlas_xds_resources_sent_total")).collect::<Vec<_>>();
        assert!(!sent.is_empty() && sent.iter().all(|line| line.ends_with(" 0")), "{sent:?}");
    }
}

world_test! {
    needs [Envoy],
    /// Unanswered, an Envoy waits for 15 s for a secret before it opens a listener.
    fn a_missing_secret_delays_no_listener(world) {
        let hub = Hub::start(world, &["tokyo"], &[])?;
        let mut config = hub.bootstrap()?;
        let secret = serde_json::json!({"name": "nobody-has-this", "sds_config": {"ads": {}, "resource_api_version": "V3"}});
        config["static_resources"]["listeners"] = vec![wanting("wanting", 19999, &secret)].into();
        let config = hub.host.write("wanting.json", serde_json::to_string(&config)?)?;
        let started = Instant::now();
        let mut envoy = hub.envoy(config)?;
        envoy.wait_live()?;
        let took = started.elapsed();
        println!("live {took:?} after its start");
        assert!(took < Duration::from_secs(10), "{took:?}");
        wait_until("its listeners", SOON, || Ok(has(&envoy, "/listeners", "stores::")?.then_some(())))?;
    }
}

world_test! {
    needs [Envoy],
    fn a_state_of_the_world_envoy_is_served(world) {
        let mut hub = Hub::start(world, &["tokyo"], &[])?;
        let mut config = hub.bootstrap()?;
        config["dynamic_resources"]["ads_config"]["api_type"] = "GRPC".into();
        let config = hub.host.write("sotw.json", serde_json::to_string(&config)?)?;
        let mut envoy = hub.envoy(config)?;
        envoy.wait_live()?;
        for listener in ["xds", "stores", "alerts", "web"] {
            wait_until(listener, SOON, || Ok(has(&envoy, "/listeners", &format!("{listener}::"))?.then_some(())))?;
        }
        hub.atlas.write_manifest("osaka.yaml", &manifest("osaka"))?;
        wait_until("osaka", SOON, || Ok(has(&envoy, "/clusters", "cluster/osaka::")?.then_some(())))?;
        hub.atlas.remove_manifest("osaka.yaml")?;
        wait_until("osaka goes", SOON, || Ok((!has(&envoy, "/clusters", "osaka")?).then_some(())))?;
        // Over a restart nothing is lost, and what was deleted meanwhile goes.
        hub.atlas.process.kill()?;
        hub.atlas.remove_manifest("tokyo.yaml")?;
        hub.atlas.write_manifest("osaka.yaml", &manifest("osaka"))?;
        hub.atlas.process.restart()?;
        hub.atlas.wait_ready()?;
        wait_until("osaka in tokyo's place", SOON, || {
            Ok((has(&envoy, "/clusters", "cluster/osaka::")? && !has(&envoy, "/clusters", "tokyo")?).then_some(()))
        })?;
        for kind in ["CDS", "LDS", "RDS", "SDS"] {
            hub.wait_status(kind, "SYNCED")?;
        }
        assert!(has(&envoy, "/listeners", "web::")?);
        assert_eq!(envoy.stat("cluster_manager.cds.update_rejected")? + envoy.stat("listener_manager.lds.update_rejected")?, 0);
    }
}

world_test! {
    needs [Envoy],
    /// Beside the aggregated stream, in both variants.
    fn secrets_have_their_own_service_too(world) {
        let hub = Hub::start(world, &["tokyo"], &[])?;
        let mut config = hub.bootstrap()?;
        let listener = |(port, variant): (u16, &str)| {
            let source = serde_json::json!({"api_type": variant, "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "atlas-xds"}}]});
            let secret = serde_json::json!({"name": "leaf", "sds_config": {"api_config_source": source, "resource_api_version": "V3"}});
            wanting(variant, port, &secret)
        };
        config["static_resources"]["listeners"] = [(19991, "GRPC"), (19992, "DELTA_GRPC")].map(listener).to_vec().into();
        let config = hub.host.write("own-service.json", serde_json::to_string(&config)?)?;
        let started = Instant::now();
        let mut envoy = hub.envoy(config)?;
        envoy.wait_live()?;
        println!("live {:?} after its start", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(10), "a secret that never came would be waited for");
        for name in ["GRPC", "DELTA_GRPC"] {
            let updates = format!("listener.127.0.0.1_{}.server_ssl_socket_factory.ssl_context_update_by_sds", if name == "GRPC" { 19991 } else { 19992 });
            wait_until(name, SOON, || Ok((envoy.stat(&updates)? == 1).then_some(())))?;
        }
    }
}

world_test! {
    needs [Envoy],
    /// Unanswered, Envoy's pauses grow from 0.5 s to 15 s.
    fn a_stream_that_ends_by_age_reconnects_at_once(world) {
        let hub = Hub::start(world, &["tokyo"], &["--max-stream-age=2s"])?;
        let mut envoy = hub.envoy(hub.atlas.bootstrap("hub"))?;
        envoy.wait_live()?;
        let (began, mut away, mut longest, mut times) = (Instant::now(), None::<Instant>, Duration::ZERO, 0);
        while began.elapsed() < Duration::from_secs(20) {
            let connected = hub.atlas.status()?["nodes"][0]["instances"].as_array().is_some_and(|all| !all.is_empty());
            match (connected, away) {
                (false, None) => away = Some(Instant::now()),
                (true, Some(since)) => {
                    longest = longest.max(since.elapsed());
                    (away, times) = (None, times + 1);
                }
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("away {times} times, {longest:?} at most");
        assert!(times >= 5, "streams end by age: {times}");
        assert!(longest < Duration::from_secs(3) && away.is_none_or(|since| since.elapsed() < Duration::from_secs(3)), "{longest:?}");
    }
}
