use super::*;
use atlas_core::xds::messages::Variant;

const MOST: Most = Most { of_all: 5, of_node: 3, envoys: 1 };

fn peer(node: &str) -> Peer {
    Peer {
        node: node.parse().unwrap(),
        spiffe_id: String::new(),
        fingerprint: node.into(),
        not_after: i64::MAX,
        address: ([127, 0, 0, 1], 1).into(),
    }
}

async fn connect(streams: &Arc<Streams>, node: &str, most: Most) -> Place {
    streams.connect(peer(node), most).await.unwrap_or_else(|full| panic!("{node}: {full:?}"))
}

/// Connects where another connection has to end first: that which `places` has at this index, and none of the others.
async fn replace(
    streams: &Arc<Streams>,
    node: &str,
    most: Most,
    places: &mut Vec<Place>,
    which: usize,
) -> Place {
    let ending = async {
        places[which].connection.ended().await;
        drop(places.remove(which));
    };
    let ((), place) = tokio::join!(ending, connect(streams, node, most));
    assert!(places.iter().all(|other| other.connection.cause().is_none()));
    place
}

fn stream(streams: &Arc<Streams>, place: &Place) -> Registration {
    let registration = streams.register(
        &place.connection,
        Session::new(Variant::Delta, None),
        0,
        CancellationToken::new(),
    );
    registration.stream.share.limit(1 << 20);
    registration
}

#[tokio::test(start_paused = true)]
async fn of_one_node_the_longest_silent_connection_makes_room_and_no_other_nodes() {
    let streams = Arc::new(Streams::default());
    let paris = connect(&streams, "paris", MOST).await;
    let (mut places, mut open) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let place = connect(&streams, "tokyo", MOST).await;
        open.push(stream(&streams, &place));
        places.push(place);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // The first one says something; so the second one has been silent for longest.
    places[0].connection.hears();
    let fourth = replace(&streams, "tokyo", MOST, &mut places, 1).await;
    assert_eq!(streams.connections(), 4);
    places.push(fourth);
    // One without a stream goes first, though it has spoken last; but not before it can have opened one.
    tokio::time::advance(GRACE).await;
    places[2].connection.hears();
    let fifth = replace(&streams, "tokyo", MOST, &mut places, 2).await;
    let sixth = replace(&streams, "tokyo", MOST, &mut places, 1).await;
    assert!(paris.connection.cause().is_none() && fifth.connection.cause().is_none());
    drop((places, fifth, sixth, paris, open));
    assert!(lock(&streams.open).of_node.is_empty(), "who is gone isn't kept");
}

#[tokio::test(start_paused = true)]
async fn where_all_places_are_taken_only_what_is_to_spare_makes_room() {
    let streams = Arc::new(Streams::default());
    let (mut places, mut open) = (Vec::new(), Vec::new());
    for node in ["tokyo", "paris", "hub", "hub", "paris"] {
        let place = connect(&streams, node, MOST).await;
        open.push(stream(&streams, &place));
        places.push(place);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // Paris has two for one Envoy, so its longest silent one goes.
    let oslo = replace(&streams, "oslo", MOST, &mut places, 1).await;
    let _oslo = stream(&streams, &oslo);
    // Now everyone has as many as Envoys, but for the hub, which gives way to nobody.
    assert_eq!(streams.connect(peer("lima"), MOST).await.err(), Some(Full::All));
    // And the hub gets in for anybody's.
    let hub = replace(&streams, "hub", MOST, &mut places, 0).await;
    assert_eq!(streams.connections(), 5);
    // One that has no stream makes room for everyone.
    tokio::time::advance(GRACE).await;
    places.push(hub);
    let _lima = replace(&streams, "lima", MOST, &mut places, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lower_than_before_takes_effect_with_the_next_connection() {
    let streams = Arc::new(Streams::default());
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(connect(&streams, "tokyo", MOST).await);
    }
    let fewer = Most { of_node: 1, ..MOST };
    let ending = async {
        while !places.is_empty() {
            places[0].connection.ended().await;
            drop(places.remove(0));
        }
    };
    let ((), _only) = tokio::join!(ending, connect(&streams, "tokyo", fewer));
    assert_eq!(streams.connections(), 1);
}

#[tokio::test]
async fn whoever_ends_a_node_ends_its_connections_without_streams_too() {
    let streams = Arc::new(Streams::default());
    let (busy, idle, other) = (
        connect(&streams, "tokyo", MOST).await,
        connect(&streams, "tokyo", MOST).await,
        connect(&streams, "paris", MOST).await,
    );
    let stream = stream(&streams, &busy);
    streams.end(&"tokyo".parse().unwrap());
    assert!(stream.stream.cancel.is_cancelled());
    assert_eq!([&busy, &idle].map(|place| place.connection.cause()), [Some(Cause::Credential); 2]);
    assert_eq!(other.connection.cause(), None);
}

#[tokio::test]
async fn all_streams_of_a_node_share_their_memory_and_no_other_nodes() {
    let streams = Arc::new(Streams::default());
    let (one, two, other) = (
        connect(&streams, "tokyo", MOST).await,
        connect(&streams, "tokyo", MOST).await,
        connect(&streams, "paris", MOST).await,
    );
    let (one, two, other) =
        (stream(&streams, &one), stream(&streams, &two), stream(&streams, &other));
    let mut taken = one.stream.share.charge();
    taken.ask(1 << 19).await.unwrap();
    assert!(two.stream.share.charge().ask((1 << 19) + 1).await.is_err());
    other.stream.share.charge().ask(1 << 20).await.unwrap();
    assert!(!one.stream.cancel.is_cancelled(), "who asks for more than there is ends nobody");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_when_its_last_stream_has_been_gone_for_long_enough() {
    let streams = Arc::new(Streams::default());
    let place = connect(&streams, "tokyo", MOST).await;
    let begin = Instant::now();
    place.connection.idle(Duration::from_secs(60)).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(60));
    let stream = stream(&streams, &place);
    let end = async {
        tokio::time::sleep(Duration::from_secs(150)).await;
        drop(stream);
    };
    let begin = Instant::now();
    tokio::join!(end, place.connection.idle(Duration::from_secs(60)));
    assert!((210..=211).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}
