use super::*;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::r#type::v3::SemanticVersion as Number;
use envoy_types::pb::google::rpc;
use hyper::body::Frame;
use tokio_util::sync::CancellationToken;

use crate::xds::memory_budget::Budget;

/// A body of these frames.
struct Frames(std::vec::IntoIter<Vec<u8>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|data| Ok(Frame::data(data.into()))))
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], u32::try_from(message.len()).unwrap().to_be_bytes().as_slice(), message].concat()
}

async fn all(frames: Vec<Vec<u8>>) -> (Vec<Bytes>, Option<Lost>) {
    let share = Arc::new(Budget::default()).share(0, CancellationToken::new());
    let mut requests = Requests::new(Frames(frames.into_iter()), share.charge());
    requests.limit = 100;
    let mut read = Vec::new();
    loop {
        match requests.next().await {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return (read, None),
            Err(lost) => return (read, Some(lost)),
        }
    }
}

#[tokio::test]
async fn messages_do_not_care_how_they_are_cut() {
    let bytes = [framed(b"one"), framed(b""), framed(&[7; 100])].concat();
    for size in [1, 2, 7, 200] {
        let (read, lost) = all(bytes.chunks(size).map(<[u8]>::to_vec).collect()).await;
        assert_eq!(read, [b"one".as_slice(), b"", &[7; 100]], "in pieces of {size}");
        assert!(lost.is_none(), "{lost:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_comes() {
    let (_, lost) = all(vec![framed(&[7; 101])[..HEADER].to_vec()]).await;
    assert!(
        matches!(&lost, Some(Lost::TooLarge(status)) if status.message().contains("101 bytes")),
        "{lost:?}"
    );
    let (_, lost) = all(vec![vec![0, 0xff, 0xff, 0xff, 0xff]]).await;
    assert!(matches!(lost, Some(Lost::TooLarge(_))), "{lost:?}");
}

#[tokio::test]
async fn half_a_message_and_a_compressed_one_are_nonsense() {
    for frames in [vec![framed(b"half")[..7].to_vec()], vec![vec![0, 0]], vec![vec![1, 0, 0, 0, 0]]]
    {
        let (read, lost) = all(frames).await;
        assert!(read.is_empty() && matches!(lost, Some(Lost::Nonsense(_))), "{lost:?}");
    }
}

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

fn refusal() -> rpc::Status {
    rpc::Status { code: 3, message: "no".into(), details: vec![Default::default()] }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn an_incremental_request_is_what_envoys_api_says() {
    let request = discovery::DeltaDiscoveryRequest {
        node: Some(envoy()),
        type_url: "type".into(),
        resource_names_subscribe: texts(&["a", "b"]),
        resource_names_unsubscribe: texts(&["gone"]),
        initial_resource_versions: HashMap::from([("has".into(), "1".into())]),
        response_nonce: "7".into(),
        error_detail: Some(refusal()),
        ..Default::default()
    };
    let (read, node) = decode(Variant::Delta, request.encode_to_vec().into()).unwrap();
    let expected = Request {
        type_url: "type".into(),
        nonce: "7".into(),
        error: Some("no".into()),
        subscribe: texts(&["a", "b"]),
        unsubscribe: texts(&["gone"]),
        initial_versions: [("has".into(), "1".into())].into(),
        ..Request::default()
    };
    assert_eq!(read, expected);
    let node = node.unwrap();
    assert_eq!((node.id.as_str(), node.version().as_str()), ("tokyo", "1.40.3"));
}

#[test]
fn a_request_of_the_state_of_the_world_is_what_envoys_api_says() {
    let user_agent_version_type = Some(UserAgentVersionType::UserAgentVersion("my own".into()));
    let request = discovery::DiscoveryRequest {
        version_info: "v1".into(),
        node: Some(core::Node { user_agent_version_type, ..envoy() }),
        resource_names: texts(&["a", "b"]),
        type_url: "type".into(),
        response_nonce: "7".into(),
        error_detail: Some(refusal()),
        ..Default::default()
    };
    let (read, node) = decode(Variant::StateOfTheWorld, request.encode_to_vec().into()).unwrap();
    let expected = Request {
        type_url: "type".into(),
        nonce: "7".into(),
        error: Some("no".into()),
        names: texts(&["a", "b"]),
        version_info: "v1".into(),
        ..Request::default()
    };
    assert_eq!((read, node.unwrap().version().as_str()), (expected, "my own"));
}

#[test]
fn what_a_request_lists_is_known_before_it_is_read() {
    let request = discovery::DeltaDiscoveryRequest {
        node: Some(envoy()),
        type_url: "type".into(),
        resource_names_subscribe: vec!["ab".into(); 5],
        resource_names_unsubscribe: vec![String::new(); 7],
        response_nonce: "7".into(),
        ..Default::default()
    };
    let listed_of = |variant, bytes: &[u8]| listed(variant, bytes).unwrap();
    let bytes = request.encode_to_vec();
    assert_eq!(listed_of(Variant::Delta, &bytes), Listed { longest: 7, count: 12, bytes: 10 });
    let request = discovery::DiscoveryRequest {
        node: Some(envoy()),
        resource_names: vec!["abc".into(); 4],
        ..Default::default()
    };
    assert_eq!(
        listed_of(Variant::StateOfTheWorld, &request.encode_to_vec()),
        Listed { longest: 4, count: 4, bytes: 12 }
    );
    // Whatever comes, it says how much there is or that it is nonsense.
    for end in 0..bytes.len() {
        let _ = listed(Variant::Delta, &bytes[..end]);
    }
    assert!(listed(Variant::Delta, &[0xff; 20]).is_err());
}

#[tokio::test]
async fn a_request_for_which_there_is_no_memory_is_not_waited_for() {
    let share = Arc::new(Budget::default()).share(0, CancellationToken::new());
    share.limit(10_000);
    let frames: Vec<Vec<u8>> = framed(&[7; 50_000]).chunks(1000).map(<[u8]>::to_vec).collect();
    let mut requests = Requests::new(Frames(frames.into_iter()), share.charge());
    requests.limit = 100_000;
    assert!(matches!(requests.next().await, Err(Lost::NoMemory)));
    assert!(requests.come.len() < 20_000, "{}", requests.come.len());
}

#[tokio::test]
async fn what_follows_a_large_request_keeps_none_of_its_memory() {
    let share = Arc::new(Budget::default()).share(0, CancellationToken::new());
    share.limit(1 << 20);
    let mut bytes = framed(&[7; 100_000]);
    bytes.extend([0, 0, 0]);
    let mut requests = Requests::new(Frames(vec![bytes].into_iter()), share.charge());
    requests.limit = 200_000;
    assert_eq!(requests.next().await.unwrap().map(|message| message.len()), Some(100_000));
    assert_eq!(requests.come.len(), 3);
    assert!(!requests.come.try_reclaim(50_000), "the request is gone, and so is its memory");
}
