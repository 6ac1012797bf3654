use atlas_core::xds::messages::Variant;

use super::*;
use crate::xds::connection::STREAM_GRACE;

const LIMITS: ConnectionLimits = ConnectionLimits { total: 5, per_node: 3, envoys: 1 };

fn client(node: &str) -> AuthenticatedClient {
    AuthenticatedClient {
        node: node.parse().unwrap(),
        spiffe_id: String::new(),
        fingerprint: node.into(),
        not_after: i64::MAX,
        address: ([127, 0, 0, 1], 1).into(),
    }
}

async fn connect(
    streams: &Arc<Streams>,
    node: &str,
    limits: ConnectionLimits,
) -> RegisteredConnection {
    streams
        .add_connection(client(node), limits)
        .await
        .unwrap_or_else(|reached| panic!("{node}: {reached:?}"))
}

/// Connects where another connection must close first: `connections[which]`, and none of the
/// others.
async fn replace(
    streams: &Arc<Streams>,
    node: &str,
    limits: ConnectionLimits,
    connections: &mut Vec<RegisteredConnection>,
    which: usize,
) -> RegisteredConnection {
    let closing = async {
        connections[which].connection.close_requested().await;
        drop(connections.remove(which));
    };
    let ((), connection) = tokio::join!(closing, connect(streams, node, limits));
    assert!(connections.iter().all(|other| other.connection.close_reason().is_none()));
    connection
}

fn stream(streams: &Arc<Streams>, connection: &RegisteredConnection) -> RegisteredStream {
    let registered = streams.add_stream(
        &connection.connection,
        Session::new(Variant::Delta, None),
        0,
        CancellationToken::new(),
    );
    registered.stream.memory.set_node_limit(1 << 20);
    registered
}

#[tokio::test(start_paused = true)]
async fn a_node_reconnections_its_own_longest_silent_connection() {
    let streams = Arc::new(Streams::default());
    let paris = connect(&streams, "paris", LIMITS).await;
    let (mut connections, mut open) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let connection = connect(&streams, "tokyo", LIMITS).await;
        open.push(stream(&streams, &connection));
        connections.push(connection);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // The first client sends something, so now the second one has been silent for longest.
    connections[0].connection.note_received();
    let fourth = replace(&streams, "tokyo", LIMITS, &mut connections, 1).await;
    assert_eq!(streams.connections(), 4);
    connections.push(fourth);
    // A connection without a stream is replaced first, once it has had the time to open one.
    tokio::time::advance(STREAM_GRACE).await;
    connections[2].connection.note_received();
    let fifth = replace(&streams, "tokyo", LIMITS, &mut connections, 2).await;
    let sixth = replace(&streams, "tokyo", LIMITS, &mut connections, 1).await;
    assert!(paris.connection.close_reason().is_none() && fifth.connection.close_reason().is_none());
    drop((connections, fifth, sixth, paris, open));
    assert!(lock(&streams.open).nodes.is_empty(), "nodes without a connection aren't kept");
}

#[tokio::test(start_paused = true)]
async fn only_spare_connections_give_way_to_other_nodes() {
    let streams = Arc::new(Streams::default());
    let (mut connections, mut open) = (Vec::new(), Vec::new());
    for node in ["tokyo", "paris", "hub", "hub", "paris"] {
        let connection = connect(&streams, node, LIMITS).await;
        open.push(stream(&streams, &connection));
        connections.push(connection);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // Paris has two connections for one Envoy, so its longest silent one is replaced.
    let oslo = replace(&streams, "oslo", LIMITS, &mut connections, 1).await;
    let _oslo = stream(&streams, &oslo);
    // Now no cluster has more connections than Envoys, and the hub's aren't replaced for clusters.
    let refused = streams.add_connection(client("lima"), LIMITS).await.err();
    assert_eq!(refused, Some(LimitReached::Total));
    // The hub reconnections any connection.
    let hub = replace(&streams, "hub", LIMITS, &mut connections, 0).await;
    assert_eq!(streams.connections(), 5);
    // A connection without a stream is replaced by any node.
    tokio::time::advance(STREAM_GRACE).await;
    connections.push(hub);
    let _lima = replace(&streams, "lima", LIMITS, &mut connections, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_takes_effect_with_the_next_connection() {
    let streams = Arc::new(Streams::default());
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(connect(&streams, "tokyo", LIMITS).await);
    }
    let fewer = ConnectionLimits { per_node: 1, ..LIMITS };
    let closing = async {
        while !connections.is_empty() {
            connections[0].connection.close_requested().await;
            drop(connections.remove(0));
        }
    };
    let ((), _only) = tokio::join!(closing, connect(&streams, "tokyo", fewer));
    assert_eq!(streams.connections(), 1);
}

#[tokio::test]
async fn closing_a_node_closes_its_unused_connections_too() {
    let streams = Arc::new(Streams::default());
    let (busy, idle, other) = (
        connect(&streams, "tokyo", LIMITS).await,
        connect(&streams, "tokyo", LIMITS).await,
        connect(&streams, "paris", LIMITS).await,
    );
    let stream = stream(&streams, &busy);
    streams.close_node(&"tokyo".parse().unwrap());
    assert!(stream.stream.cancel.is_cancelled());
    assert_eq!(
        [&busy, &idle].map(|one| one.connection.close_reason()),
        [Some(CloseReason::Credential); 2]
    );
    assert_eq!(other.connection.close_reason(), None);
}

#[tokio::test]
async fn the_streams_of_a_node_share_one_memory_budget() {
    let streams = Arc::new(Streams::default());
    let (one, two, other) = (
        connect(&streams, "tokyo", LIMITS).await,
        connect(&streams, "tokyo", LIMITS).await,
        connect(&streams, "paris", LIMITS).await,
    );
    let (one, two, other) =
        (stream(&streams, &one), stream(&streams, &two), stream(&streams, &other));
    let mut reservation = one.stream.memory.reservation();
    reservation.resize(1 << 19).await.unwrap();
    assert!(two.stream.memory.reservation().resize((1 << 19) + 1).await.is_err());
    other.stream.memory.reservation().resize(1 << 20).await.unwrap();
    assert!(
        !one.stream.cancel.is_cancelled(),
        "the stream that asks for too much ends itself only"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_from_the_end_of_its_last_stream() {
    let streams = Arc::new(Streams::default());
    let connection = connect(&streams, "tokyo", LIMITS).await;
    let begin = Instant::now();
    connection.connection.idle_for(Duration::from_secs(60)).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(60));
    let stream = stream(&streams, &connection);
    let end = async {
        tokio::time::sleep(Duration::from_secs(150)).await;
        drop(stream);
    };
    let begin = Instant::now();
    tokio::join!(end, connection.connection.idle_for(Duration::from_secs(60)));
    assert!((210..=211).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}
