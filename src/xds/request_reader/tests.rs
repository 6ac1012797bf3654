use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Frame;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::xds::memory_budget::MemoryBudget;

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

async fn read_all(frames: Vec<Vec<u8>>) -> (Vec<Bytes>, Option<ReadError>) {
    let memory = Arc::new(MemoryBudget::default()).add_stream(0, CancellationToken::new());
    let mut requests = RequestReader::new(Frames(frames.into_iter()), memory.reservation());
    requests.max_bytes = 100;
    let mut read = Vec::new();
    loop {
        match requests.next().await {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return (read, None),
            Err(error) => return (read, Some(error)),
        }
    }
}

#[tokio::test]
async fn messages_are_read_however_their_bytes_arrive() {
    let bytes = [framed(b"one"), framed(b""), framed(&[7; 100])].concat();
    for size in [1, 2, 7, 200] {
        let (read, error) = read_all(bytes.chunks(size).map(<[u8]>::to_vec).collect()).await;
        assert_eq!(read, [b"one".as_slice(), b"", &[7; 100]], "in pieces of {size}");
        assert!(error.is_none(), "{error:?}");
    }
}

#[tokio::test]
async fn a_too_large_request_is_refused_by_its_header() {
    let (_, error) = read_all(vec![framed(&[7; 101])[..GRPC_HEADER_BYTES].to_vec()]).await;
    assert!(
        matches!(&error, Some(ReadError::TooLarge(status)) if status.message().contains("101 bytes")),
        "{error:?}"
    );
    let (_, error) = read_all(vec![vec![0, 0xff, 0xff, 0xff, 0xff]]).await;
    assert!(matches!(error, Some(ReadError::TooLarge(_))), "{error:?}");
}

#[tokio::test]
async fn truncated_and_compressed_messages_are_malformed() {
    for frames in [vec![framed(b"half")[..7].to_vec()], vec![vec![0, 0]], vec![vec![1, 0, 0, 0, 0]]]
    {
        let (read, error) = read_all(frames).await;
        assert!(read.is_empty() && matches!(error, Some(ReadError::Malformed(_))), "{error:?}");
    }
}

#[tokio::test]
async fn a_request_beyond_the_memory_budget_is_not_read() {
    let memory = Arc::new(MemoryBudget::default()).add_stream(0, CancellationToken::new());
    memory.set_node_limit(10_000);
    let frames: Vec<Vec<u8>> = framed(&[7; 50_000]).chunks(1000).map(<[u8]>::to_vec).collect();
    let mut requests = RequestReader::new(Frames(frames.into_iter()), memory.reservation());
    requests.max_bytes = 100_000;
    assert!(matches!(requests.next().await, Err(ReadError::OutOfMemory)));
    assert!(requests.buffer.len() < 20_000, "{}", requests.buffer.len());
}

#[tokio::test]
async fn bytes_after_a_large_request_keep_none_of_its_memory() {
    let memory = Arc::new(MemoryBudget::default()).add_stream(0, CancellationToken::new());
    memory.set_node_limit(1 << 20);
    let mut bytes = framed(&[7; 100_000]);
    bytes.extend([0, 0, 0]);
    let mut requests = RequestReader::new(Frames(vec![bytes].into_iter()), memory.reservation());
    requests.max_bytes = 200_000;
    assert_eq!(requests.next().await.unwrap().map(|message| message.len()), Some(100_000));
    assert_eq!(requests.buffer.len(), 3);
    assert!(!requests.buffer.try_reclaim(50_000), "the request is gone, and so is its memory");
}
