use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::r#type::v3::SemanticVersion as Number;
use envoy_types::pb::google::rpc;

use super::*;

fn envoy() -> core::Node {
    let version = Number { major_number: 1, minor_number: 40, patch: 3 };
    let build = core::BuildVersion { version: Some(version), metadata: None };
    let extensions = vec![
        core::Extension {
            name: "envoy.filters.http.router".into(),
            ..core::Extension::default()
        };
        3
    ];
    let user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(build));
    core::Node {
        id: "tokyo".into(),
        cluster: "tokyo".into(),
        extensions,
        user_agent_version_type,
        ..core::Node::default()
    }
}

fn error_detail() -> rpc::Status {
    rpc::Status { code: 3, message: "no".into(), details: vec![Default::default()] }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn an_incremental_request_is_decoded() {
    let request = discovery::DeltaDiscoveryRequest {
        node: Some(envoy()),
        type_url: "type".into(),
        resource_names_subscribe: texts(&["a", "b"]),
        resource_names_unsubscribe: texts(&["gone"]),
        initial_resource_versions: HashMap::from([("has".into(), "1".into())]),
        response_nonce: "7".into(),
        error_detail: Some(error_detail()),
        ..Default::default()
    };
    let (decoded, node) = decode(Variant::Delta, request.encode_to_vec().into()).unwrap();
    let expected = Request {
        type_url: "type".into(),
        nonce: "7".into(),
        error: Some("no".into()),
        subscribe: texts(&["a", "b"]),
        unsubscribe: texts(&["gone"]),
        initial_versions: [("has".into(), "1".into())].into(),
        ..Request::default()
    };
    assert_eq!(decoded, expected);
    let node = node.unwrap();
    assert_eq!((node.id.as_str(), node.version().as_str()), ("tokyo", "1.40.3"));
}

#[test]
fn a_state_of_the_world_request_is_decoded() {
    let user_agent_version_type = Some(UserAgentVersionType::UserAgentVersion("my own".into()));
    let request = discovery::DiscoveryRequest {
        version_info: "v1".into(),
        node: Some(core::Node { user_agent_version_type, ..envoy() }),
        resource_names: texts(&["a", "b"]),
        type_url: "type".into(),
        response_nonce: "7".into(),
        error_detail: Some(error_detail()),
        ..Default::default()
    };
    let (decoded, node) = decode(Variant::StateOfTheWorld, request.encode_to_vec().into()).unwrap();
    let expected = Request {
        type_url: "type".into(),
        nonce: "7".into(),
        error: Some("no".into()),
        names: texts(&["a", "b"]),
        version_info: "v1".into(),
        ..Request::default()
    };
    assert_eq!((decoded, node.unwrap().version().as_str()), (expected, "my own"));
}

#[test]
fn lists_are_measured_without_decoding_them() {
    let request = discovery::DeltaDiscoveryRequest {
        node: Some(envoy()),
        type_url: "type".into(),
        resource_names_subscribe: vec!["ab".into(); 5],
        resource_names_unsubscribe: vec![String::new(); 7],
        response_nonce: "7".into(),
        ..Default::default()
    };
    let sizes_of = |variant, bytes: &[u8]| measure_lists(variant, bytes).unwrap();
    let bytes = request.encode_to_vec();
    assert_eq!(sizes_of(Variant::Delta, &bytes), ListSizes { longest: 7, names: 12, bytes: 10 });
    let request = discovery::DiscoveryRequest {
        node: Some(envoy()),
        resource_names: vec!["abc".into(); 4],
        ..Default::default()
    };
    assert_eq!(
        sizes_of(Variant::StateOfTheWorld, &request.encode_to_vec()),
        ListSizes { longest: 4, names: 4, bytes: 12 }
    );
    // Truncated messages are measured or refused, without a panic.
    for end in 0..bytes.len() {
        let _ = measure_lists(Variant::Delta, &bytes[..end]);
    }
    assert!(measure_lists(Variant::Delta, &[0xff; 20]).is_err());
}
