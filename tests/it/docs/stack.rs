//! kube-prometheus-stack and the other set-ups: values and objects of the pages, as wholes.

use std::process::Command;

use atlas_core::annotations;
use atlas_core::ports;
use atlas_core::thanos::endpoints::store_name;
use atlas_core::thanos::zone::zone;
use atlas_lab::parts;

use super::*;

fn stack() -> Page {
    Page::read("kube-prometheus-stack.md").unwrap()
}

#[test]
fn the_values_of_tokyo_say_all_that_atlas_generates() {
    let page = stack();
    let (fleet, cluster) = page.cluster("tokyo.yaml", &settings()).unwrap();
    let generated: Value =
        serde_yaml_ng::from_str(&helm_values::prometheus(&fleet.settings, &cluster)).unwrap();
    assert_eq!(missing(&generated, &page.yaml("tokyo-stack.yaml").unwrap(), ""), [""; 0]);
    // The hub's values agree with these, and keep the hub's own store apart.
    let hub = page.yaml("hub-stack.yaml").unwrap();
    assert_eq!(hub["prometheus"]["prometheusSpec"]["externalLabels"]["cluster"], json!("hub"));
    assert!(
        "hub".parse::<atlas_core::name::ClusterName>().is_err(),
        "a cluster may be called as the hub's own store"
    );
}

#[test]
fn the_two_pages_describe_the_same_tokyo() {
    let installing = Page::read("installing.md").unwrap();
    assert_eq!(installing.yaml("tokyo.yaml").unwrap(), stack().yaml("tokyo.yaml").unwrap());
}

#[test]
fn tokyos_prometheus_and_envoy_find_each_other() {
    let page = stack();
    let objects = render_envoy(&page.file("tokyo-envoy.yaml").unwrap()).unwrap();
    let named = &page.yaml("tokyo-stack.yaml").unwrap()["prometheus"]["prometheusSpec"]["additionalAlertManagerConfigsSecret"];
    assert_eq!(
        (named["name"].as_str().unwrap(), named["key"].as_str().unwrap()),
        atlas_core::object_names::ALERTMANAGER_CONFIGS
    );
    assert_eq!(named["optional"], json!(true));
    let secret = find(&objects, "Secret", named["name"].as_str().unwrap()).unwrap();
    let text = secret["stringData"][named["key"].as_str().unwrap()].as_str().unwrap();
    let config: Value = serde_yaml_ng::from_str(text).unwrap();

    // The URL that the Secret, and so the page, names is a port of a Service of the chart.
    let url = config[0]["http_sd_configs"][0]["url"].as_str().unwrap();
    assert!(page.text.contains(url), "{url}");
    let alerts = find(&objects, "Service", "atlas-envoy-alerts").unwrap();
    assert_eq!(
        url,
        format!("http://atlas-envoy-alerts.monitoring.svc:{}/alertmanagers", ports::CLUSTER_ALERTS)
    );
    assert!(ports(alerts).contains(&ports::CLUSTER_ALERTS.into()), "{alerts}");
    let public = find(&objects, "Service", "atlas-envoy").unwrap();
    assert_eq!(ports(public), [u64::from(ports::CLUSTER_INBOUND)]);

    // Without an operator the same is written by hand.
    let by_hand =
        Page::read("other-setups/no-operator.md").unwrap().yaml("prometheus.yaml").unwrap();
    assert_eq!(by_hand["alerting"]["alertmanagers"], config);
    let operator =
        Page::read("other-setups/prometheus-operator.md").unwrap().yaml("prometheus.yaml").unwrap();
    assert_eq!(operator["spec"]["additionalAlertManagerConfigs"], *named);
    let url = "https://hub.example.com/prom/tokyo";
    assert_eq!(
        (&operator["spec"]["externalUrl"], &operator["spec"]["externalLabels"]),
        (&json!(url), &json!({"cluster": "tokyo"}))
    );
}

/// How long a sidecar that doesn't reach its Prometheus waits before it asks again.
#[test]
fn every_sidecar_of_the_pages_asks_more_often_than_by_default() {
    let help = Command::new(parts::get(parts::Part::Thanos).unwrap())
        .args(["sidecar", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).into_owned();
    assert!(
        help.contains("--prometheus.get_config_interval=30s"),
        "the default is no longer what the pages say: {help}"
    );
    let page = stack();
    let asked = |spec: &Value| spec["thanos"]["getConfigInterval"].clone();
    for file in ["hub-stack.yaml", "tokyo-stack.yaml"] {
        assert_eq!(
            asked(&page.yaml(file).unwrap()["prometheus"]["prometheusSpec"]),
            json!("5s"),
            "{file}"
        );
    }
    assert_eq!(
        asked(
            &Page::read("other-setups/prometheus-operator.md")
                .unwrap()
                .yaml("prometheus.yaml")
                .unwrap()["spec"]
        ),
        json!("5s")
    );
    for file in ["other-setups/no-operator.md", "troubleshooting.md"] {
        assert!(
            Page::read(file).unwrap().text.contains("--prometheus.get_config_interval=5s"),
            "{file}"
        );
    }
}

#[test]
fn the_hubs_chart_has_what_the_page_says() {
    let page = stack();
    let (own, settings) = (page.file("hub-atlas.yaml").unwrap(), settings());
    let objects = render("atlas", "atlas", &[&own]).unwrap();
    let atlas = find(&objects, "Deployment", "atlas").unwrap();
    let variables = atlas["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    let variable = |name: &str| {
        variables.iter().find(|one| one["name"] == json!(name)).map(|one| one["value"].clone())
    };
    assert_eq!(
        variable("ATLAS_WEB_URL"),
        settings.web_url.as_ref().map(|url| Value::from(url.to_string()))
    );
    assert_eq!(variable("ATLAS_HUB_ADDRESS"), Some(json!("hub.example.com")));
    assert_eq!(variable("ATLAS_NAMESPACE"), Some(json!(settings.namespace)));
    assert_eq!(
        variable("ATLAS_ALERTMANAGER_NAMESPACE"),
        Some(json!(settings.alertmanager_namespace))
    );
    assert_eq!(
        variable("ATLAS_ALERTMANAGER_ENDPOINTS"),
        Some(json!(settings.alertmanager_endpoints))
    );

    // The page says which Services Atlas takes for the hub's Alertmanagers.
    let selector: Vec<String> = settings
        .alertmanager_selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(variable("ATLAS_ALERTMANAGER_SELECTOR"), Some(json!(selector.join(","))));
    for name in
        [format!("`{}`", settings.alertmanager_endpoints), format!("`{}`", selector.join(","))]
    {
        assert!(page.text.contains(&name), "{name}");
    }

    // The stores' Services select the hub Envoy's pods, as does what clusters reach.
    let labels = &find(&objects, "Deployment", "atlas-envoy").unwrap()["spec"]["template"]["metadata"]
        ["labels"];
    assert_eq!(missing(&json!(settings.envoy_selectors), labels, ""), [""; 0]);
    assert_eq!(
        ports(find(&objects, "Service", "atlas-envoy").unwrap()),
        [ports::HUB_XDS, ports::HUB_ALERTS].map(u64::from)
    );

    // The stub asks the chart's DNS Service.
    let dns = find(&objects, "Service", "atlas-dns").unwrap();
    let address = dns["spec"]["clusterIP"].as_str().unwrap();
    let stub = page.blocks().into_iter().find(|block| block.text.contains("forward")).unwrap().text;
    assert!(
        stub.starts_with(&format!("{}:53 {{\n", settings.dns_zone))
            && stub.contains(&format!("forward . {address}\n")),
        "{stub}"
    );
    assert!(ports(dns).iter().all(|port| *port == 53), "{dns}");
}

#[test]
fn query_reads_what_atlas_writes() {
    let page = stack();
    let query = page.yaml("query.yaml").unwrap();
    let spec = &query["spec"]["template"]["spec"];
    let (name, key) = atlas_core::object_names::ENDPOINTS_CONFIG_MAP;
    assert_eq!(spec["volumes"][0]["configMap"]["name"], json!(name));
    let container = &spec["containers"][0];
    let mount = &container["volumeMounts"][0];
    assert_eq!((&mount["name"], &mount["subPath"]), (&spec["volumes"][0]["name"], &Value::Null));
    let arguments: Vec<&str> =
        container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let file = format!("--endpoint.sd-config-file={}/{key}", mount["mountPath"].as_str().unwrap());
    assert!(arguments.contains(&file.as_str()), "{arguments:?}");
    let replica = &page.yaml("tokyo-stack.yaml").unwrap()["prometheus"]["prometheusSpec"]["replicaExternalLabelName"];
    assert!(
        arguments
            .contains(&format!("--query.replica-label={}", replica.as_str().unwrap()).as_str())
    );

    // Thanos knows every argument.
    let help = Command::new(parts::get(parts::Part::Thanos).unwrap())
        .args(["query", "--help"])
        .output()
        .unwrap();
    let help = [help.stdout, help.stderr].concat();
    let help = String::from_utf8_lossy(&help);
    for argument in arguments
        .iter()
        .skip(1)
        .map(|argument| argument.split('=').next().unwrap())
        .chain(["--store.sd-dns-interval"])
    {
        assert!(
            help.split([' ', '=', '\n']).any(|word| word.trim_end_matches(',') == argument),
            "thanos query knows no {argument}"
        );
    }

    // The name that is asked by DNS is in the zone, and leads to the Services whose names are in
    // the file.
    let (fleet, cluster) = page.cluster("tokyo.yaml", &settings()).unwrap();
    let asked =
        page.text.lines().find_map(|line| line.strip_prefix("--endpoint=dnssrvnoa+")).unwrap();
    let zone = zone(&fleet, 1);
    let stores = zone.records.iter().filter(|record| record.name == format!("{asked}.")).count();
    assert_eq!(stores, 2, "{asked}: {:?}", zone.records);
    for store in &cluster.stores {
        let name = store_name(&cluster.name.store(store.index), &fleet.settings);
        assert!(name.ends_with(".monitoring.svc.cluster.local"), "{name}");
    }
}

#[test]
fn every_cluster_of_the_pages_is_exactly_addressed() {
    let clusters = [
        ("kube-prometheus-stack.md", "tokyo.yaml", 2),
        ("other-setups/no-operator.md", "named.yaml", 2),
        ("other-setups/no-operator.md", "query.yaml", 1),
        ("other-setups/two-prometheus.md", "tokyo.yaml", 4),
    ];
    for (page, file, stores) in clusters {
        let (_, cluster) = Page::read(page).unwrap().cluster(file, &settings()).unwrap();
        assert_eq!(cluster.stores.len(), stores, "docs/{page}, {file}");
        for store in &cluster.stores {
            assert_eq!((store.at.port, store.exact), (ports::THANOS, true), "docs/{page}, {file}");
            assert!(
                store.at.host.to_string().ends_with(".svc.cluster.local"),
                "docs/{page}, {file}: {}",
                store.at.host
            );
        }
    }
}

#[test]
fn the_stacks_names_on_the_page_are_atlas_defaults() {
    let page = stack();
    let (_, cluster) = page.cluster("tokyo.yaml", &settings()).unwrap();
    let annotated =
        &page.yaml("tokyo.yaml").unwrap()["metadata"]["annotations"][annotations::PROMETHEUS_NAME];
    assert_eq!(annotated, atlas_core::model::DEFAULT_PROMETHEUS_NAME);
    let backends =
        [cluster.prometheus.at.host.to_string(), cluster.alertmanager.at.host.to_string()];
    let pod = format!("prometheus-{}-0", atlas_core::model::DEFAULT_PROMETHEUS_NAME);
    for name in backends.iter().chain([&pod]) {
        assert!(page.text.contains(&format!("`{name}`")), "{name}");
    }
    assert!(
        cluster.stores[0].at.host.to_string().starts_with(&format!("{pod}.")),
        "{}",
        cluster.stores[0].at.host
    );
}

#[test]
fn node_ports_are_what_clusters_are_told() {
    let page = Page::read("installing.md").unwrap();
    let objects = render("atlas", "atlas", &[&page.file("node-ports.yaml").unwrap()]).unwrap();
    let service = find(&objects, "Service", "atlas-envoy").unwrap();
    let told = page.yaml("node-ports.yaml").unwrap();
    for (port, key) in
        service["spec"]["ports"].as_array().unwrap().iter().zip(["hubAddress", "hubAlertsAddress"])
    {
        assert_eq!(told["atlas"][key], json!(format!("hub.example.com:{}", port["nodePort"])));
    }
}

/// Argo CD isn't run: its Application's values are checked against the chart.
#[test]
fn the_application_of_argo_cd_gives_values_that_the_chart_takes() {
    let application = Page::read("installing.md").unwrap().yaml("argo-cd.yaml").unwrap();
    let source = &application["spec"]["source"];
    assert_eq!(
        (source["chart"].as_str(), source["targetRevision"].as_str()),
        (Some("envoy"), Some(env!("CARGO_PKG_VERSION")))
    );
    let release = source["helm"]["releaseName"].as_str().unwrap();
    let values = source["helm"]["valuesObject"].clone();
    let objects = render("envoy", release, &[&values.to_string()]).unwrap();
    let envoys = find(&objects, "Deployment", release).unwrap();
    assert_eq!(
        envoys["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"],
        values["existingSecret"]
    );
    // They are those that `atlas cluster-values --format secret` says beside the Secret.
    let files = FILES.into_iter().map(|name| (name.to_owned(), String::new())).collect();
    let mut generated: Value = serde_yaml_ng::from_str(&helm_values::envoy(
        "tokyo",
        2,
        atlas_core::model::DEFAULT_ENVOY_MEMORY,
        &files,
    ))
    .unwrap();
    generated.as_object_mut().unwrap().remove("files");
    generated["existingSecret"] = values["existingSecret"].clone();
    assert_eq!(values, generated);
}

#[test]
fn gke_s_health_check_asks_the_path_that_the_chart_tells_others() {
    let page = Page::read("installing.md").unwrap();
    let own = page.file("gke.yaml").unwrap();
    let ingress = "ingress: {enabled: true, hosts: [{host: hub.example.com}]}";
    let objects = render("atlas", "atlas", &[&own, ingress]).unwrap();
    let named = &find(&objects, "Service", "atlas-envoy-internal").unwrap()["metadata"]["annotations"]
        ["cloud.google.com/backend-config"];
    let named: Value = serde_json::from_str(named.as_str().unwrap()).unwrap();
    let config = find(&objects, "BackendConfig", named["default"].as_str().unwrap()).unwrap();
    let path = &config["spec"]["healthCheck"]["requestPath"];
    let told = &find(&objects, "Ingress", "atlas").unwrap()["metadata"]["annotations"];
    assert_eq!(&told["alb.ingress.kubernetes.io/healthcheck-path"], path);
    assert!(page.text.contains(&format!("`{}`", path.as_str().unwrap())));
}
