//! The launchers, with the real programs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::{
    Alertmanager, AlertmanagerOptions, CoreDns, Endpoints, Envoy, EnvoyOptions, Prometheus,
    PrometheusOptions, Query, QueryOptions, Sidecar, SidecarOptions, labels, validate,
};
use atlas_lab::world::Host;
use atlas_lab::{http, world_test};
use serde_json::json;

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// A Prometheus with the labels of a cluster, and its sidecar; both ready.
fn prometheus_and_sidecar(
    host: &Host,
    part: Part,
    options: &PrometheusOptions,
) -> anyhow::Result<(Prometheus, Sidecar)> {
    let mut prometheus = Prometheus::start(host, "prometheus", &parts::get(part)?, options)?;
    prometheus.wait_ready()?;
    let options = SidecarOptions::new(at(host.ip(), 10901), at(host.ip(), 10902), prometheus.url());
    let mut sidecar = Sidecar::start(host, "sidecar", &parts::get(Part::Thanos)?, &options)?;
    sidecar.wait_ready()?;
    Ok((prometheus, sidecar))
}

world_test! {
    needs [Thanos, Prometheus, CoreDns],
    fn query_sees_a_store_with_its_labels_by_file_and_by_srv_record(world) {
        let tokyo = world.host("tokyo")?;
        let hub = world.host("hub")?;
        let cluster = labels([("cluster", "tokyo"), ("prometheus_replica", "prometheus-0")]);
        let options = PrometheusOptions { external_labels: cluster.clone(), ..PrometheusOptions::new(at(tokyo.ip(), 9090)) };
        let (prometheus, sidecar) = prometheus_and_sidecar(&tokyo, Part::Prometheus, &options)?;

        let file = hub.write("endpoints.yaml", json!({"endpoints": [{"address": sidecar.grpc}]}).to_string())?;
        let options = QueryOptions {
            replica_labels: vec!["prometheus_replica".to_owned()],
            ..QueryOptions::new(at(hub.ip(), 10901), at(hub.ip(), 10902), [Endpoints::File(file)])
        };
        let mut query = Query::start(&hub, "query", &parts::get(Part::Thanos)?, &options)?;
        query.wait_ready()?;
        let stores = query.wait_stores(1, Duration::from_secs(10))?;
        assert_eq!((stores[0].kind.as_str(), stores[0].name.clone()), ("sidecar", sidecar.grpc.to_string()));
        assert_eq!(stores[0].labels, [cluster]);

        wait_until("a scrape", Duration::from_secs(10), || Ok((prometheus.query("up")? != json!([])).then_some(())))?;
        let answer = wait_until("a sample through Query", Duration::from_secs(10), || {
            let answer = query.query(r#"up{cluster="tokyo"}"#)?;
            Ok((answer.result != json!([])).then_some(answer))
        })?;
        assert_eq!(answer.result[0]["value"][1], "1");
        assert!(answer.warnings.is_empty() && answer.error.is_none() && answer.status == 200, "{answer:?}");
        assert!(answer.result[0]["metric"].get("prometheus_replica").is_none(), "{answer:?}");

        let zone = format!(
            "@ IN SOA ns root 1 1 1 1 1\n_thanos._tcp.sidecars 1 IN SRV 0 0 10901 tokyo\ntokyo 1 IN A {}\n",
            tokyo.ip()
        );
        hub.write("coredns/thanos.atlas.zone", zone)?;
        let listen = at(Ipv4Addr::LOCALHOST, 53);
        let corefile = ".:53 {\n  bind 127.0.0.1\n  file thanos.atlas.zone thanos.atlas\n  errors\n}\n";
        let mut dns = CoreDns::start(&hub, "coredns", &parts::get(Part::CoreDns)?, listen, corefile)?;
        dns.wait_ready()?;
        hub.write_resolv_conf("nameserver 127.0.0.1\n")?;
        let srv = Endpoints::Address("dnssrvnoa+_thanos._tcp.sidecars.thanos.atlas".to_owned());
        let options = QueryOptions {
            prefix: Some("/thanos".to_owned()),
            ..QueryOptions::new(at(hub.ip(), 20901), at(hub.ip(), 20902), [srv])
        };
        let mut query = Query::start(&hub, "query-srv", &parts::get(Part::Thanos)?, &options)?;
        query.wait_ready()?;
        let stores = query.wait_stores(1, Duration::from_secs(10))?;
        assert_eq!(stores[0].name, "tokyo.thanos.atlas:10901");
    }
}

world_test! {
    needs [Alertmanager, Prometheus, PrometheusClassic],
    fn an_alert_of_either_prometheus_reaches_an_alertmanager_under_a_prefix(world) {
        let tokyo = world.host("tokyo")?;
        let hub = world.host("hub")?;
        let options = AlertmanagerOptions {
            external_url: Some("http://hub/alertmanager/hub".to_owned()),
            ..AlertmanagerOptions::new(at(hub.ip(), 9093))
        };
        let mut alertmanager = Alertmanager::start(&hub, "alertmanager", &parts::get(Part::Alertmanager)?, &options)?;
        alertmanager.wait_ready()?;

        let target = json!([{"targets": [at(hub.ip(), 9093)]}]);
        let mut started = Vec::new();
        for (name, part, port) in [("new", Part::Prometheus, 9090), ("classic", Part::PrometheusClassic, 9091)] {
            let options = PrometheusOptions {
                external_labels: labels([("cluster", name)]),
                external_url: Some(format!("http://hub/prom/{name}")),
                rules: Some("groups: [{name: all, rules: [{alert: Watchdog, expr: vector(1)}]}]".to_owned()),
                alerting: Some(format!("alertmanagers:\n- path_prefix: /alertmanager/hub\n  static_configs: {target}")),
                ..PrometheusOptions::new(at(tokyo.ip(), port))
            };
            let mut prometheus = Prometheus::start(&tokyo, name, &parts::get(part)?, &options)?;
            prometheus.wait_ready()?;
            let home = http::get(&format!("http://{}/", prometheus.listen))?;
            assert_eq!((home.status, home.header("Location")), (302, Some(format!("/prom/{name}").as_str())));
            started.push((prometheus, options));
        }
        wait_until("both alerts", Duration::from_secs(20), || {
            let alerts = alertmanager.alerts()?;
            let from = |name: &str| alerts.iter().any(|alert| alert["labels"]["cluster"] == name);
            anyhow::ensure!(from("new") && from("classic"), "only {alerts:#?}");
            Ok(Some(()))
        })?;
        for (prometheus, options) in &mut started {
            assert_eq!(prometheus.active_alertmanagers()?.len(), 1);
            options.alerting = None;
            prometheus.reload(options)?;
            let gone = || Ok(prometheus.active_alertmanagers()?.is_empty().then_some(()));
            wait_until("no Alertmanager any more", Duration::from_secs(10), gone)?;
        }
    }
}

world_test! {
    needs [CoreDns],
    fn names_come_from_a_hosts_own_coredns(world) {
        let tokyo = world.host("tokyo")?;
        let listen = at(Ipv4Addr::LOCALHOST, 53);
        let corefile = CoreDns::corefile(listen, [(tokyo.ip().into(), "prometheus-operated.monitoring.svc.cluster.local")]);
        let mut dns = CoreDns::start(&tokyo, "coredns", &parts::get(Part::CoreDns)?, listen, &corefile)?;
        dns.wait_ready()?;
        tokyo.write_resolv_conf("nameserver 127.0.0.1\n")?;
        let mut getent = std::process::Command::new("getent");
        getent.args(["ahostsv4", "prometheus-operated.monitoring.svc.cluster.local"]);
        assert!(tokyo.run(&getent)?.starts_with("10.91.1.1 "));
    }
}

world_test! {
    needs [Envoy, EnvoyOldest],
    fn envoy_answers_on_the_loopback_of_its_host(world) {
        let tokyo = world.host("tokyo")?;
        let admin = at(Ipv4Addr::LOCALHOST, 9000);
        let bootstrap = json!({
            "node": {"id": "tokyo-0", "cluster": "tokyo"},
            "admin": {"address": {"socket_address": {"address": admin.ip(), "port_value": admin.port()}}},
        });
        let config = tokyo.write("envoy.json", bootstrap.to_string())?;
        for part in [Part::Envoy, Part::EnvoyOldest] {
            let bin = parts::get(part)?;
            validate(&bin, &config).expect("this bootstrap is valid");
            let mut envoy = Envoy::start(&tokyo, part.name(), &bin, &EnvoyOptions::new(&config, admin))?;
            envoy.wait_live()?;
            assert_eq!(envoy.stat("server.live")?, 1);
            assert_eq!(envoy.stat("server.concurrency")?, 2);
            assert!(envoy.admin_post("/healthcheck/fail")?.ok().is_ok());
            assert!(http::get(&format!("http://{admin}/ready")).is_err(), "the test's own loopback is another");
        }
        let mut unknown = bootstrap.clone();
        unknown["no_such_field"] = json!(1);
        let config = tokyo.write("unknown.json", unknown.to_string())?;
        let complaint = validate(&parts::get(Part::Envoy)?, &config).expect_err("an unknown field is refused");
        assert!(complaint.contains("no_such_field"), "{complaint}");
    }
}
