//! Rules for every resource of every fleet: of the golden cases, and of random ones.

use std::collections::BTreeSet;

use atlas_core::install::bootstrap_files;
use atlas_core::model::Fleet;
use atlas_core::plan::plan;
use atlas_core::render;
use atlas_core::validate::{Severity, validate};
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::snapshot::Snapshot;
use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, Value};

use crate::update_golden::update_golden;
use crate::walk::{Set, walk};
use crate::{cases, golden, random};

/// Fleets of all golden cases, by the case's name.
fn fleets() -> Vec<(String, Fleet)> {
    cases::all(&golden::directory())
        .into_iter()
        .map(|case| (case.name.clone(), case.validate().fleet))
        .collect()
}

/// All resources and bootstraps of a fleet, with the name of the node.
fn everything(fleet: &Fleet) -> Vec<(String, Any)> {
    let trust = cases::trust(fleet);
    let plan = plan(fleet, &trust);
    let mut all = Vec::new();
    for (node, snapshot) in &plan.nodes {
        all.extend(snapshot.iter().map(|resource| {
            (format!("{node}: {} {}", resource.kind, resource.name), resource.body())
        }));
        if let Ok(bootstrap) = bootstrap_files::node_bootstrap(fleet, &trust, node, "/credential") {
            all.push((format!("{node}: bootstrap"), atlas_core::envoy::any(&bootstrap)));
        }
    }
    all
}

/// The complaints of `rule` about the fields of all messages, each with its place.
fn complaints(fleet: &Fleet, complain: impl Fn(&Set<'_>) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (whose, any) in everything(fleet) {
        walk(&any, &mut |set| {
            found.extend(complain(set).map(|text| format!("{whose}: {}: {text}", set.path)))
        });
    }
    found
}

fn deprecated(set: &Set<'_>) -> Option<String> {
    let value = || match (set.field.kind(), set.value) {
        (Kind::Enum(of), Value::EnumNumber(number)) if is_deprecated_value(&of, *number) => {
            Some(format!("value {number}"))
        }
        _ => None,
    };
    let field = is_deprecated(&set.field).then(|| format!("field {}", set.full_name()));
    field.or_else(value).map(|what| format!("{what} is deprecated"))
}

fn is_deprecated(field: &FieldDescriptor) -> bool {
    field
        .field_descriptor_proto()
        .options
        .as_ref()
        .is_some_and(|options| options.deprecated == Some(true))
}

fn is_deprecated_value(of: &EnumDescriptor, number: i32) -> bool {
    let value = of.get_value(number);
    value.is_some_and(|value| {
        value
            .enum_value_descriptor_proto()
            .options
            .as_ref()
            .is_some_and(|options| options.deprecated == Some(true))
    })
}

/// Protobuf maps have no order, and a resource's version is the hash of its bytes.
fn unordered(set: &Set<'_>) -> Option<String> {
    let entries = set.value.as_map()?.len();
    (entries > 1).then(|| format!("is a map of {entries} entries, whose order is random"))
}

#[test]
fn the_descriptors_say_what_is_deprecated() {
    let field = |message: &str, name: &str| {
        render::descriptors().get_message_by_name(message).unwrap().get_field_by_name(name).unwrap()
    };
    assert!(is_deprecated(&field("envoy.config.cluster.v3.Cluster", "http2_protocol_options")));
    assert!(!is_deprecated(&field("envoy.config.cluster.v3.Cluster", "name")));
    let of = render::descriptors().get_enum_by_name("envoy.config.core.v3.HealthStatus").unwrap();
    assert!(!is_deprecated_value(&of, 0));
    let of = render::descriptors().get_enum_by_name("envoy.config.core.v3.ApiVersion").unwrap();
    assert!(is_deprecated_value(&of, 1), "V2");
}

#[test]
fn nothing_deprecated_is_used() {
    for (case, fleet) in fleets() {
        let complaints = complaints(&fleet, deprecated);
        assert!(complaints.is_empty(), "{case}:\n{}", complaints.join("\n"));
    }
}

#[test]
fn a_resource_is_called_as_its_message_is() {
    for (case, fleet) in fleets() {
        for (node, snapshot) in &plan(&fleet, &cases::trust(&fleet)).nodes {
            for resource in snapshot.iter() {
                let message = render::decode(&resource.body()).expect("a message of the API");
                let name = message
                    .get_field_by_name("name")
                    .and_then(|name| name.as_str().map(str::to_owned));
                assert_eq!(name.as_deref(), Some(&*resource.name), "{case}: {node}: {resource:?}");
            }
        }
    }
}

/// The resource that a field refers to.
fn reference(set: &Set<'_>) -> Option<(ResourceType, String)> {
    let name = || set.value.as_str().map(str::to_owned);
    match set.full_name() {
        "envoy.config.route.v3.RouteAction.cluster"
        | "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.cluster"
        | "envoy.config.core.v3.GrpcService.EnvoyGrpc.cluster_name" => {
            Some((ResourceType::Cluster, name()?))
        }
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds.route_config_name" => {
            Some((ResourceType::Route, name()?))
        }
        "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig.sds_config" => {
            Some((ResourceType::Secret, set.sibling("name")?))
        }
        _ => None,
    }
}

/// The Envoy clusters of an aggregate.
fn parts(set: &Set<'_>) -> Vec<String> {
    match set.full_name() {
        "envoy.extensions.clusters.aggregate.v3.ClusterConfig.clusters" => set
            .value
            .as_list()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

fn references(snapshot: &Snapshot) -> BTreeSet<(ResourceType, String)> {
    let mut found = BTreeSet::new();
    for resource in snapshot.iter() {
        walk(&resource.body(), &mut |set| {
            found.extend(reference(set));
            found.extend(parts(set).into_iter().map(|name| (ResourceType::Cluster, name)));
        });
    }
    found
}

/// References to resources that don't exist, and resources without a reference. Those of the hub's
/// `cluster/…` are in requests, and `hub/alerts` has none if there are no Alertmanagers.
fn loose_ends(snapshot: &Snapshot) -> Vec<String> {
    let references = references(snapshot);
    let missing = references.iter().filter(|(kind, name)| snapshot.get(*kind, name).is_none());
    let missing =
        missing.map(|(kind, name)| format!("{kind} {name} is referred to, but does not exist"));
    let unused = snapshot.iter().filter(|resource| match resource.kind {
        ResourceType::Listener => false,
        ResourceType::Cluster
            if ["cluster/", "hub/alerts"].iter().any(|kind| resource.name.starts_with(kind)) =>
        {
            false
        }
        kind => !references.contains(&(kind, resource.name.to_string())),
    });
    missing
        .chain(
            unused.map(|resource| {
                format!("{} {} has no reference to it", resource.kind, resource.name)
            }),
        )
        .collect()
}

#[test]
fn every_reference_leads_to_a_resource_of_the_same_node() {
    for (case, fleet) in fleets() {
        for (node, snapshot) in &plan(&fleet, &cases::trust(&fleet)).nodes {
            let loose = loose_ends(snapshot);
            assert!(loose.is_empty(), "{case}: {node}:\n{}", loose.join("\n"));
            assert!(
                references(snapshot).len() > 4,
                "{case}: {node}: the references are looked for in the wrong fields"
            );
        }
    }
}

#[test]
fn a_static_configuration_asks_nobody_and_shows_no_key() {
    for (case, fleet) in fleets() {
        for (node, snapshot) in &plan(&fleet, &cases::trust(&fleet)).nodes {
            let text = render::static_yaml(snapshot, "/credential");
            let keys: Vec<&str> =
                text.lines().map(|line| line.trim_start_matches([' ', '-'])).collect();
            for absent in ["rds:", "ads: {}", "-----BEGIN PRIVATE KEY-----"] {
                assert!(!keys.contains(&absent), "{case}: {node}: {absent}\n{text}");
            }
            assert!(
                keys.contains(&"path: /credential/leaf.yaml") && keys.contains(&"route_config:"),
                "{case}: {node}:\n{text}"
            );
        }
    }
}

/// All messages of a fleet as bytes.
fn encoded(fleet: &Fleet) -> Vec<(String, Vec<u8>)> {
    everything(fleet).into_iter().map(|(whose, any)| (whose, any.value)).collect()
}

#[test]
fn no_map_has_more_than_one_entry() {
    for (case, fleet) in fleets() {
        let complaints = complaints(&fleet, unordered);
        assert!(complaints.is_empty(), "{case}:\n{}", complaints.join("\n"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_fleets_keep_the_rules(manifests in random::manifests()) {
        let first = validate(&cases::settings(), &manifests, None);
        prop_assert!(first.findings.iter().all(|finding| finding.severity != Severity::Rejected), "{:#?}", first.findings);
        let reversed: Vec<_> = manifests.iter().rev().cloned().collect();
        let second = validate(&cases::settings(), &reversed, None);
        prop_assert_eq!(encoded(&first.fleet), encoded(&second.fleet));
        for rule in [unordered, deprecated] {
            let complaints = complaints(&first.fleet, rule);
            prop_assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        }
        for (node, snapshot) in &plan(&first.fleet, &cases::trust(&first.fleet)).nodes {
            let loose = loose_ends(snapshot);
            prop_assert!(loose.is_empty(), "{node}:\n{}", loose.join("\n"));
        }
    }
}

/// Adds the types of all messages and enums within a message.
fn types(any: &Any, found: &mut BTreeSet<String>) {
    fn of_message(message: &prost_reflect::DynamicMessage, found: &mut BTreeSet<String>) {
        use prost_reflect::{Kind, ReflectMessage};
        found.insert(message.descriptor().full_name().to_owned());
        if message.descriptor().full_name() == "google.protobuf.Any" {
            return types(&message.transcode_to().expect("an Any"), found);
        }
        for (field, value) in message.fields() {
            if let Kind::Enum(kind) = field.kind() {
                found.insert(kind.full_name().to_owned());
            }
            of_value(value, found);
        }
    }
    fn of_value(value: &prost_reflect::Value, found: &mut BTreeSet<String>) {
        match value {
            prost_reflect::Value::Message(message) => of_message(message, found),
            prost_reflect::Value::List(list) => {
                for value in list {
                    of_value(value, found);
                }
            }
            prost_reflect::Value::Map(map) => {
                for value in map.values() {
                    of_value(value, found);
                }
            }
            _ => {}
        }
    }
    of_message(&render::decode(any).expect("a message of the API"), found);
}

#[test]
fn the_few_descriptors_are_those_of_bootstrap_files() {
    let mut used = BTreeSet::new();
    for (_, fleet) in fleets() {
        let trust = cases::trust(&fleet);
        for node in plan(&fleet, &trust).nodes.keys() {
            if let Ok(bootstrap) =
                bootstrap_files::node_bootstrap(&fleet, &trust, node, "/credential")
            {
                types(&atlas_core::envoy::any(&bootstrap), &mut used);
            }
        }
    }
    for (_, secret) in atlas_core::envoy::bootstrap::file_secrets("/credential") {
        types(&atlas_core::envoy::any(&secret), &mut used);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/render/bootstrap.types");
    let wanted: String = used.iter().map(|name| format!("{name}\n")).collect();
    if update_golden() {
        std::fs::write(file, &wanted).expect("the list is written");
    }
    let list = std::fs::read_to_string(file).expect("the list");
    assert_eq!(list, wanted, "UPDATE_GOLDEN=1 writes it");
}
