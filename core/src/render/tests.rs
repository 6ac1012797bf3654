use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
use envoy_types::pb::envoy::config::core::v3::{Metadata, Node, TypedExtensionConfig};
use envoy_types::pb::google::protobuf::{Any, Struct, Value as Json, value::Kind};
use proptest::prelude::*;

use super::*;
use crate::envoy::{any as pack, bootstrap::file_secrets, secret};
use crate::xds::resource::ResourceType;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n";

fn extension(typed_config: Any) -> TypedExtensionConfig {
    TypedExtensionConfig { name: "test".into(), typed_config: Some(typed_config) }
}

/// The value that a YAML parser reads.
fn read(yaml: &str) -> Value {
    serde_yaml_ng::from_str(yaml).unwrap_or_else(|error| panic!("{error}:\n{yaml}"))
}

#[test]
fn fields_have_the_names_of_the_api_and_any_is_unpacked() {
    let listener =
        crate::envoy::listener::xds_on_hub("xds", std::net::Ipv4Addr::UNSPECIFIED.into());
    let expected = "\
name: xds
address:
  socket_address:
    address: 0.0.0.0
    port_value: 10900
filter_chains:
- filters:
  - name: envoy.filters.network.connection_limit
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit
      stat_prefix: xds
      max_connections: '40000'
  - name: envoy.filters.network.tcp_proxy
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: xds
      cluster: atlas/xds
      idle_timeout: 3600s
per_connection_buffer_limit_bytes: 131072
";
    assert_eq!(yaml(&listener, Secrets::Redact), expected);
}

#[test]
fn text_of_several_lines_is_a_block() {
    let secret = yaml(
        &secret::leaf("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", KEY),
        Secrets::Show,
    );
    assert!(
        secret.contains("inline_string: |\n      -----BEGIN CERTIFICATE-----\n      MII\n"),
        "{secret}"
    );
    let routes = yaml(&crate::envoy::route::stores_on_hub("stores", 150), Secrets::Show);
    assert!(routes.contains("inline_string: |\n"), "{routes}");
}

#[test]
fn resources_are_listed_by_type_and_name() {
    let trust = |name: &str| Resource::new(ResourceType::Secret, name, &secret::trust(name));
    let listener =
        crate::envoy::listener::xds_on_hub("xds", std::net::Ipv4Addr::UNSPECIFIED.into());
    let all = [Resource::new(ResourceType::Listener, "a", &listener), trust("z"), trust("b")];
    let text = resources_yaml(all.iter().map(AsRef::as_ref), Secrets::Redact);
    let places: Vec<_> = ["inline_string: b", "inline_string: z", "name: xds"]
        .iter()
        .map(|what| text.find(what).expect(what))
        .collect();
    assert!(places.is_sorted(), "{text}");
    assert!(text.starts_with("resources:\n- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n"), "{text}");
}

#[test]
fn private_keys_are_redacted_at_any_depth() {
    let secret = secret::leaf("chain", KEY);
    let nested = extension(pack(&extension(pack(&secret))));
    let shown = yaml(&nested, Secrets::Show);
    assert!(shown.contains("SECRET"), "{shown}");
    let within = bootstrap::Bootstrap {
        static_resources: Some(bootstrap::bootstrap::StaticResources {
            secrets: vec![secret],
            ..Default::default()
        }),
        ..Default::default()
    };
    for text in [yaml(&nested, Secrets::Redact), yaml(&within, Secrets::Redact)] {
        assert!(!text.contains("SECRET"), "{text}");
        assert!(text.contains("inline_string: chain\n"), "{text}");
        assert!(text.contains("inline_string: '[redacted]'\n"), "{text}");
    }
}

#[test]
fn the_names_of_key_files_are_shown() {
    let [(_, leaf), _] = file_secrets("/keys");
    assert!(yaml(&leaf, Secrets::Redact).contains("filename: /keys/tls.key\n"));
}

#[test]
fn bytes_of_unknown_messages_are_redacted_too() {
    let strange = extension(Any {
        type_url: "type.googleapis.com/no.such.Message".into(),
        value: b"SECRET".to_vec(),
    });
    let text = yaml(&strange, Secrets::Show);
    assert!(text.contains("base64: U0VDUkVU\n") && text.contains("no.such.Message"), "{text}");
    assert!(!yaml(&strange, Secrets::Redact).contains("U0VDUkVU"));
}

#[test]
fn maps_are_sorted() {
    let json = |text: &str| Json { kind: Some(Kind::StringValue(text.into())) };
    let names = ["e", "a", "d", "b", "c"];
    let inner = Struct { fields: names.map(|name| (name.to_owned(), json(name))).into() };
    let message = Metadata {
        filter_metadata: names.map(|name| (name.to_owned(), inner.clone())).into(),
        ..Default::default()
    };
    let text = yaml(&message, Secrets::Show);
    let keys: Vec<&str> =
        text.lines().filter(|line| line.starts_with("  ") && line.ends_with(':')).collect();
    assert_eq!(keys, ["  a:", "  b:", "  c:", "  d:", "  e:"]);
    assert!(text.contains("  a:\n    a: a\n    b: b\n    c: c\n    d: d\n    e: e\n"), "{text}");
}

#[test]
fn the_nesting_of_any_is_limited() {
    let mut nested = pack(&Node::default());
    for _ in 0..1000 {
        nested = pack(&nested);
    }
    assert!(yaml(&extension(nested), Secrets::Show).contains("no message of the Envoy API"));
}

#[test]
fn a_broken_message_is_shown_as_bytes() {
    let broken = extension(Any { value: vec![0xff; 3], ..pack(&Node::default()) });
    assert!(yaml(&broken, Secrets::Show).contains("base64: ////\n"));
}

/// Envoy's parser (yaml-cpp) reads these as booleans, numbers or null unless they are quoted.
#[test]
fn ambiguous_text_is_quoted() {
    for id in [
        "on", "off", "y", "n", "yes", "No", "true", "null", "~", "1e3", "0x1f", "0o7", "0777",
        "12", "-1", ".5", "1.", "+1", ".inf", "nan", "1e400",
    ] {
        let text = yaml(&Node { id: id.into(), ..Default::default() }, Secrets::Show);
        assert!(text == format!("id: '{id}'\n") || text == format!("id: \"{id}\"\n"), "{text}");
    }
}

proptest! {
    #[test]
    fn every_text_is_read_as_it_was(id in any::<String>(), lines in prop::collection::vec("[ \\t~:#'\"|>a-z-]{0,8}", 0..5)) {
        let node = Node { id, cluster: lines.join("\n"), ..Default::default() };
        let tree = read(&yaml(&node, Secrets::Show));
        prop_assert_eq!(tree.get("id").and_then(Value::as_str).unwrap_or_default(), &node.id);
        prop_assert_eq!(tree.get("cluster").and_then(Value::as_str).unwrap_or_default(), &node.cluster);
    }

    #[test]
    fn arbitrary_bytes_cause_no_panic(value in prop::collection::vec(any::<u8>(), 0..200), kind in 0..ResourceType::ALL.len()) {
        let any = Any { type_url: ResourceType::ALL[kind].url().into(), value };
        yaml(&extension(any.clone()), Secrets::Redact);
        yaml(&any, Secrets::Show);
    }
}

#[test]
fn a_bootstrap_needs_only_its_descriptors() {
    use crate::envoy::bootstrap::{BootstrapNode, bootstrap, file_secrets};
    let at = [crate::name::HostPort::parse("hub.example:10900", 1).unwrap()];
    let node = BootstrapNode {
        name: "tokyo",
        xds: &at,
        xds_san: "spiffe://atlas/atlas",
        bind: [0, 0, 0, 0].into(),
        memory: 256 << 20,
        credential_dir: "/credential",
    };
    let secrets =
        file_secrets("/credential").into_iter().map(|(_, secret)| crate::envoy::any(&secret));
    for any in [crate::envoy::any(&bootstrap(&node))].into_iter().chain(secrets) {
        assert!(descriptors::decode_bootstrap(&any).is_some(), "{}", any.type_url);
    }
}
