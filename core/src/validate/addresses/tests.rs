use crate::annotations;
use crate::manifest::Service;
use crate::validate::tests::{Keys, cluster, only, rejection, validate_services};
use crate::validate::{Finding, Severity};

fn addresses(service: &Service) -> Vec<String> {
    only(service.clone()).addresses.iter().map(ToString::to_string).collect()
}

fn notes(service: Service) -> Vec<Finding> {
    let of_addresses = [
        annotations::ADDRESSES,
        annotations::EXTERNAL_IPS,
        annotations::EXTERNAL_NAME,
        annotations::SERVICE_TYPE,
    ];
    validate_services(vec![service])
        .findings
        .into_iter()
        .filter(|finding| of_addresses.contains(&finding.key.as_str()))
        .collect()
}

/// `type: ExternalName`.
fn external_name(name: &str) -> Service {
    Service { external_name: Some(name.into()), external_ips: Vec::new(), ..cluster("t") }
}

#[test]
fn an_external_name_is_the_address_where_nothing_else_is() {
    let named = external_name("edge.example.com");
    assert_eq!(addresses(&named), ["edge.example.com:11901"]);
    assert_eq!(notes(named.clone()), []);
    assert_eq!(addresses(&external_name("edge.example.com.")), ["edge.example.com:11901"]);
    assert_eq!(addresses(&external_name("203.0.113.7")), ["203.0.113.7:11901"]);
    let with_ip = Service { external_ips: vec!["10.0.0.1".into()], ..named.clone() };
    assert_eq!(addresses(&with_ip), ["10.0.0.1:11901"]);
    assert_eq!(
        addresses(&with_ip.annotation(annotations::ADDRESSES, "10.0.0.2")),
        ["10.0.0.2:11901"]
    );
    assert_eq!(addresses(&named.annotation(annotations::ADDRESSES, "10.0.0.2:5")), ["10.0.0.2:5"]);
}

#[test]
fn a_wrong_external_name_is_named() {
    for wrong in [
        "localhost",
        "edge.example.com:443",
        "a.example.com,b.example.com",
        "https://edge.example.com",
        "169.254.169.254",
        "10.0.0.300",
    ] {
        let finding = rejection(external_name(wrong));
        assert!(
            finding.key == annotations::EXTERNAL_NAME
                && finding.value.starts_with(wrong)
                && !finding.fix.is_empty(),
            "{finding}"
        );
    }
    assert!(notes(external_name(" "))[0].problem.contains("awaiting"));
}

#[test]
fn external_ips_that_kube_proxy_serves_are_warned_of() {
    let captured = Service { cluster_ip: true, ..cluster("t") };
    let found = notes(captured.clone());
    let [note] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        (note.severity, note.key.as_str(), note.value.as_str()),
        (Severity::Warning, annotations::EXTERNAL_IPS, "10.0.0.1")
    );
    assert!(
        note.problem.contains("kube-proxy")
            && note.fix.contains("clusterIP: None")
            && note.fix.contains(annotations::ADDRESSES),
        "{note}"
    );
    assert_eq!(addresses(&captured), ["10.0.0.1:11901"], "it counts all the same");

    // The node's kube-proxy doesn't ask what else says where the cluster is.
    let elsewhere = notes(captured.clone().annotation(annotations::ADDRESSES, "edge.example.com"));
    assert!(elsewhere.len() == 1 && elsewhere[0].fix.starts_with("leave it out"), "{elsewhere:?}");
    assert_eq!(notes(cluster("t")), [], "headless, or never seen by an API server");
    let without = Service { external_ips: Vec::new(), ..captured };
    assert_eq!(notes(without.annotation(annotations::ADDRESSES, "edge.example.com")), []);
}

#[test]
fn a_load_balancer_of_the_hub_is_no_address_of_a_cluster() {
    let balanced = Service { load_balancer: true, external_ips: Vec::new(), ..cluster("t") };
    let found = notes(balanced.clone());
    let [note] = found.as_slice() else { panic!("{found:?}") };
    assert!(
        note.key == annotations::SERVICE_TYPE
            && note.problem.contains("status.loadBalancer")
            && note.fix.contains(annotations::ADDRESSES),
        "{note}"
    );
    assert_eq!(notes(balanced.annotation(annotations::ADDRESSES, "edge.example.com")), []);
}
