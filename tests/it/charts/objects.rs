//! Rules for the objects of the charts, in every case.

use std::collections::BTreeSet;

use super::labels::{is_monitored, is_selected};
use super::*;

#[test]
fn rights_are_within_a_namespace_and_have_no_wildcard() {
    for object in all() {
        let kind = text(&object, "kind");
        assert!(!kind.starts_with("ClusterRole"), "{}", text(&object, "metadata/name"));
        for rule in list(&object, "rules") {
            let words = ["apiGroups", "resources", "verbs", "resourceNames"]
                .iter()
                .flat_map(|key| list(rule, key));
            assert!(words.into_iter().all(|word| word.as_str() != Some("*")), "{rule:?}");
        }
    }
}

#[test]
fn no_envoy_has_rights_or_a_service_account_token() {
    for case in cases("envoy").unwrap() {
        for object in case.objects(&[]).unwrap() {
            let kind = text(&object, "kind");
            assert!(
                !["Role", "RoleBinding", "ServiceAccount"].contains(&kind),
                "{}: {kind}",
                case.name
            );
        }
    }
    for object in all() {
        for spec in
            pods(&object).filter(|_| text(&object, "spec/template/metadata/labels/app") == "envoy")
        {
            assert_eq!(at(spec, "automountServiceAccountToken").as_bool(), Some(false));
        }
    }
}

/// The rules of the level `restricted` that a Pod template can break. Nor is a user fixed, which
/// OpenShift would reject, except for images that have none.
#[test]
fn every_pod_is_restricted_unless_it_has_host_ports() {
    for case in CHARTS.into_iter().flat_map(|chart| cases(chart).unwrap()) {
        let on_host = ["host-ports", "legacy-0.3"].contains(&case.name.as_str());
        for object in case.objects(&[]).unwrap() {
            for spec in pods(&object) {
                let name = text(&object, "metadata/name");
                let mut broken = broken(spec);
                if on_host {
                    broken.retain(|rule| !rule.contains("host port"));
                }
                assert!(
                    broken.is_empty(),
                    "{}/{}: {name}: {}",
                    case.chart,
                    case.name,
                    broken.join(", ")
                );
                let fixed = !at(spec, "securityContext/runAsUser").is_null()
                    || !at(spec, "securityContext/fsGroup").is_null();
                let own = name.ends_with("-test") || case.name == "everything";
                assert!(
                    !fixed || own && case.name != "openshift",
                    "{}/{}: {name} fixes a user",
                    case.chart,
                    case.name
                );
            }
        }
    }
}

#[test]
fn on_openshift_no_user_is_fixed() {
    for chart in CHARTS {
        let rendered = case(chart, "openshift").unwrap().render(Part::Helm).unwrap();
        assert!(!rendered.contains("runAsUser:") && !rendered.contains("fsGroup:"), "{rendered}");
        assert!(
            rendered.contains("kind: Deployment") && rendered.contains("kind: Pod"),
            "{rendered}"
        );
    }
}

#[test]
fn every_selector_finds_one_deployment_with_the_named_ports() {
    for case in CHARTS.into_iter().flat_map(|chart| cases(chart).unwrap()) {
        let objects = case.objects(&[]).unwrap();
        for object in &objects {
            let selector = match text(object, "kind") {
                "Service" => at(object, "spec/selector"),
                "PodDisruptionBudget" => at(object, "spec/selector/matchLabels"),
                "NetworkPolicy" => at(object, "spec/podSelector/matchLabels"),
                "Deployment" => at(object, "spec/selector/matchLabels"),
                _ => continue,
            };
            let what = format!(
                "{}/{}: {} {}",
                case.chart,
                case.name,
                text(object, "kind"),
                text(object, "metadata/name")
            );
            let found: Vec<_> =
                objects.iter().filter(|deployment| is_selected(selector, deployment)).collect();
            assert_eq!(found.len(), 1, "{what} finds {} Deployments", found.len());
            let named: BTreeSet<_> =
                pods(found[0]).flat_map(ports).map(|port| text(port, "name")).collect();
            for port in list(object, "spec/ports") {
                assert!(
                    named.contains(text(port, "targetPort")),
                    "{what}: {port:?} leads to none of {named:?}"
                );
            }
        }
        for monitor in objects.iter().filter(|object| text(object, "kind") == "ServiceMonitor") {
            let port = text(monitor, "spec/endpoints/0/port");
            let services = objects.iter().filter(|object| {
                text(object, "kind") == "Service" && is_monitored(monitor, object)
            });
            let with_port = services.filter(|service| {
                list(service, "spec/ports").iter().any(|listed| text(listed, "name") == port)
            });
            assert!(
                with_port.count() > 0,
                "{}/{}: nothing has the port {port:?}",
                case.chart,
                case.name
            );
        }
    }
}

#[test]
fn only_a_new_bootstrap_restarts_pods_a_new_credential_does_not() {
    let case = case("envoy", "defaults").unwrap();
    let template = |set: &str| {
        let objects = case.objects(&["--set", set]).unwrap();
        at(find(&objects, "Deployment", "tokyo-envoy"), "spec/template").clone()
    };
    let before = template("cluster=tokyo");
    for file in ["leaf.yaml", "trust.yaml", "tls.crt", "tls.key", "ca.crt"] {
        assert_eq!(
            template(&format!("files.{}=renewed", file.replace('.', "\\."))),
            before,
            "{file}"
        );
    }
    assert_ne!(template("files.envoy\\.yaml=other"), before);
}

#[test]
fn the_credential_is_mounted_whole_and_readable_by_any_user() {
    for (chart, name, secret) in
        [("atlas", "atlas-envoy", "atlas-hub"), ("envoy", "tokyo-envoy", "tokyo-envoy")]
    {
        let objects = case(chart, "defaults").unwrap().objects(&[]).unwrap();
        let spec = at(find(&objects, "Deployment", name), "spec/template/spec");
        let mount = at(spec, "containers/0/volumeMounts/0");
        assert_eq!((text(mount, "mountPath"), at(mount, "subPath")), ("/etc/atlas", &Value::Null));
        let volume = at(spec, "volumes/0/secret");
        assert_eq!(
            (text(volume, "secretName"), at(volume, "defaultMode").as_u64()),
            (secret, Some(0o444))
        );
        assert!(
            at(volume, "optional").is_null(),
            "an optional mount would start an Envoy without its configuration"
        );
    }
}

#[test]
fn the_hub_is_the_same_in_another_namespace_and_domain() {
    let rendered = case("atlas", "other-namespace").unwrap();
    let objects = rendered.objects(&[]).unwrap();
    let variables =
        list(find(&objects, "Deployment", "hub-atlas"), "spec/template/spec/containers/0/env");
    let value = |name: &str| {
        variables
            .iter()
            .find(|variable| text(variable, "name") == name)
            .map(|variable| text(variable, "value"))
    };
    assert_eq!(value("ATLAS_ATLAS_ADDRESS"), Some("hub-atlas.observability.svc.corp.example"));
    assert_eq!(value("ATLAS_NAMESPACE"), Some("observability"));
    assert_eq!(
        value("ATLAS_ENVOY_SELECTORS"),
        Some("app=envoy,release=hub,app.kubernetes.io/component=envoy")
    );
    for object in &objects {
        let elsewhere = text(object, "metadata/name").ends_with("-alertmanagers");
        assert_eq!(
            text(object, "metadata/namespace"),
            if elsewhere { "alerting" } else { "observability" }
        );
        let text = serde_yaml_ng::to_string(object).unwrap();
        assert!(!text.contains("cluster.local") && !text.contains("monitoring.svc"), "{text}");
    }
}

#[test]
fn pods_of_the_hubs_envoys_have_the_labels_that_atlas_selects() {
    for case in cases("atlas").unwrap() {
        let objects = case.objects(&[]).unwrap();
        let told =
            objects.iter().flat_map(|object| list(object, "spec/template/spec/containers/0/env"));
        let told = told
            .filter(|variable| text(variable, "name") == "ATLAS_ENVOY_SELECTORS")
            .map(|variable| text(variable, "value"));
        let release = &case.arguments[0];
        let expected = format!("app=envoy,release={release},app.kubernetes.io/component=envoy");
        assert_eq!(told.collect::<BTreeSet<_>>(), BTreeSet::from([expected.as_str()]));
        let found = objects.iter().filter(|object| {
            text(object, "spec/template/metadata/labels/app") == "envoy"
                && text(object, "spec/template/metadata/labels/release") == release
        });
        assert_eq!(found.count(), 1, "{}", case.name);
    }
}

/// Atlas takes the URL and the client's address from headers of a proxy in front, if it is trusted.
#[test]
fn an_ingress_or_a_value_makes_headers_of_proxies_trusted() {
    let ingress = "ingress: {enabled: true, hosts: [{host: hub.example.com}]}";
    let cases = [
        ("{}", None),
        (ingress, Some("1")),
        (
            "ingress: {enabled: true, hosts: [{host: hub.example.com}]}\natlas: {trustedHops: 0}",
            None,
        ),
        (
            "ingress: {enabled: true, hosts: [{host: hub.example.com}]}\natlas: {trustedHops: 2}",
            Some("2"),
        ),
        ("atlas: {trustedHops: 1}", Some("1")),
        (
            "ingress: {enabled: true, hosts: [{host: hub.example.com}]}\nenv: {ATLAS_TRUSTED_HOPS: 3}",
            Some("3"),
        ),
    ];
    for helm in HELMS {
        for (values, expected) in cases {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), values).unwrap();
            let rendered =
                template(helm, "atlas", &["atlas", "--values", &file.path().to_string_lossy()])
                    .unwrap();
            let objects = super::objects(&rendered).unwrap();
            let variables =
                list(find(&objects, "Deployment", "atlas"), "spec/template/spec/containers/0/env");
            let hops =
                variables.iter().filter(|variable| text(variable, "name") == "ATLAS_TRUSTED_HOPS");
            assert_eq!(
                hops.map(|variable| text(variable, "value")).collect::<Vec<_>>(),
                Vec::from_iter(expected),
                "{helm}: {values}"
            );
        }
    }
}

/// Server-side apply, which Helm 4 uses, rejects a list with the same name twice.
#[test]
fn env_never_makes_a_variable_appear_twice() {
    let case = case("atlas", "everything").unwrap();
    let objects =
        case.objects(&["--set", "env.atlas_hub_address=other.example.com,split=true,controller.env.ATLAS_LOG_LEVEL=debug"]).unwrap();
    let mut seen = 0;
    for container in objects.iter().flat_map(pods).flat_map(|pod| list(pod, "containers")) {
        let names: Vec<_> =
            list(container, "env").iter().map(|variable| text(variable, "name")).collect();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "{names:?}");
        seen += names.len();
    }
    assert!(seen > 20, "{seen}");
    let variables = list(
        find(&objects, "Deployment", "hub-atlas-hub-controller"),
        "spec/template/spec/containers/0/env",
    );
    let address =
        variables.iter().find(|variable| text(variable, "name") == "ATLAS_HUB_ADDRESS").unwrap();
    assert_eq!(text(address, "value"), "other.example.com");
}

#[test]
fn ingress_controllers_check_a_path_that_needs_no_atlas() {
    let annotations = |set: &str| {
        let objects =
            case("atlas", "monitoring-and-network").unwrap().objects(&["--set-json", set]).unwrap();
        at(find(&objects, "Ingress", "hub-atlas"), "metadata/annotations").clone()
    };
    let told = annotations("replicaCount=2");
    for key in [
        "alb.ingress.kubernetes.io/healthcheck-path",
        "appgw.ingress.kubernetes.io/health-probe-path",
    ] {
        assert_eq!(told.get(key).and_then(Value::as_str), Some("/.atlas/health"), "{told:?}");
    }
    assert!(told.get("nginx.ingress.kubernetes.io/auth-url").is_some(), "{told:?}");
    // A value replaces the default, and null removes it.
    let own = annotations(
        r#"ingress.annotations={"alb.ingress.kubernetes.io/healthcheck-path":"/mine"}"#,
    );
    assert_eq!(
        own.get("alb.ingress.kubernetes.io/healthcheck-path").and_then(Value::as_str),
        Some("/mine")
    );
    let less = annotations(
        r#"ingress.healthAnnotations={"alb.ingress.kubernetes.io/healthcheck-path":null}"#,
    );
    assert!(less.get("alb.ingress.kubernetes.io/healthcheck-path").is_none(), "{less:?}");
    // An upgrade with --reuse-values from a chart without this key.
    let reused = annotations("ingress.healthAnnotations=null");
    assert!(reused.get("nginx.ingress.kubernetes.io/auth-url").is_some(), "{reused:?}");
}

/// Every object of every case.
fn all() -> Vec<Value> {
    CHARTS
        .into_iter()
        .flat_map(|chart| cases(chart).unwrap())
        .flat_map(|case| case.objects(&[]).unwrap())
        .collect()
}

/// The Pod specs in an object.
fn pods(object: &Value) -> impl Iterator<Item = &Value> {
    let path = match text(object, "kind") {
        "Pod" => "spec",
        "Deployment" => "spec/template/spec",
        _ => "",
    };
    Some(at(object, path)).filter(|_| !path.is_empty()).into_iter()
}

fn ports(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "containers").iter().flat_map(|container| list(container, "ports"))
}

/// Which rules of the pod-security level `restricted` a Pod breaks.
fn broken(pod: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let mut must = |holds: bool, rule: &str| {
        if !holds {
            broken.push(rule.to_owned());
        }
    };
    must(at(pod, "securityContext/runAsNonRoot").as_bool() == Some(true), "may run as root");
    must(
        text(pod, "securityContext/seccompProfile/type") == "RuntimeDefault",
        "has no seccomp profile",
    );
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        must(at(pod, host).is_null(), host);
    }
    must(ports(pod).all(|port| at(port, "hostPort").is_null()), "has a host port");
    for container in list(pod, "containers") {
        let security = at(container, "securityContext");
        must(at(security, "allowPrivilegeEscalation").as_bool() == Some(false), "may escalate");
        must(
            at(security, "readOnlyRootFilesystem").as_bool() == Some(true),
            "may write to its image",
        );
        must(list(security, "capabilities/drop") == [Value::from("ALL")], "keeps capabilities");
        let added = list(security, "capabilities/add");
        must(
            added.iter().all(|capability| capability.as_str() == Some("NET_BIND_SERVICE")),
            "adds capabilities",
        );
    }
    for volume in list(pod, "volumes") {
        must(
            ["secret", "configMap"].iter().any(|kind| !at(volume, kind).is_null()),
            "mounts something else",
        );
    }
    broken
}
