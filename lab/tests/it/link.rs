//! A far link: it is as long, lossy, narrow and black as it is told to be, and as the kernel's own
//! programs see it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use atlas_lab::world::{Direction, Host};
use atlas_lab::world_test;

const PORT: u16 = 1000;

/// Sends every datagram back to where it came from.
fn echo(host: &Host, ip: IpAddr) -> anyhow::Result<()> {
    let socket = host.within(|| Ok(UdpSocket::bind((ip, PORT))?))?;
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

/// How long a datagram of this size takes there and back; `None` if it is lost.
fn round_trip(from: &Host, to: IpAddr, size: usize) -> anyhow::Result<Option<Duration>> {
    let socket =
        from.within(|| Ok(UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0))?))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let began = Instant::now();
    socket.send_to(&vec![0; size], (to, PORT))?;
    Ok(socket.recv(&mut [0; 2000]).ok().map(|_| began.elapsed()))
}

world_test! {
    fn a_round_trip_takes_as_long_as_it_should(world) {
        let tokyo = world.far_host("tokyo", 1)?;
        let paris = world.host("paris")?;
        for ip in [IpAddr::from(tokyo.ip()), tokyo.ip6().into()] {
            echo(&tokyo, ip)?;
            let near = round_trip(&paris, ip, 100)?.expect("an answer");
            tokyo.link()?.set_distance(Duration::from_millis(400), 0.0);
            let far = round_trip(&paris, ip, 100)?.expect("an answer");
            println!("{ip}: near {near:?}, far {far:?}");
            assert!(near < Duration::from_millis(400) && far >= Duration::from_millis(400), "{near:?} {far:?}");
            tokyo.link()?.set_distance(Duration::ZERO, 0.0);
        }
        // TCP's own measurement: a handshake is one round trip.
        let address = SocketAddr::new(tokyo.ip().into(), PORT);
        let _listener = tokyo.within(|| Ok(TcpListener::bind(address)?))?;
        tokyo.link()?.set_distance(Duration::from_millis(300), 0.0);
        let began = Instant::now();
        paris.within(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(10))?))?;
        println!("a TCP handshake took {:?}", began.elapsed());
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
}

world_test! {
    fn as_many_packets_are_lost_as_should_be(world) {
        let tokyo = world.far_host("tokyo", 7)?;
        let socket = tokyo.within(|| Ok(UdpSocket::bind((tokyo.ip(), PORT))?))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        tokyo.link()?.set_distance(Duration::from_millis(50), 0.1);
        let before = tokyo.link()?.counts(Direction::ToHost);
        let sender = world.root().within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        let mut received = 0;
        for _ in 0..20 {
            for _ in 0..100 {
                sender.send_to(b"x", (tokyo.ip(), PORT))?;
            }
            // Fewer at a time than any socket's or device's queue holds.
            let mut got = 0;
            while got < 100 && socket.recv(&mut [0; 10]).is_ok() {
                got += 1;
                let counts = tokyo.link()?.counts(Direction::ToHost);
                if received + got + counts.lost - before.lost >= counts.lost + counts.passed - before.lost - before.passed {
                    break;
                }
            }
            received += got;
        }
        let lost = tokyo.link()?.counts(Direction::ToHost).lost - before.lost;
        println!("2,000 sent, {received} received, {lost} lost");
        assert!((1700..=1900).contains(&received), "{received}");
        assert!(received + lost >= 1990, "what isn't received was lost on the link: {received} and {lost}");
    }
}

world_test! {
    fn a_direction_alone_can_be_black(world) {
        let tokyo = world.far_host("tokyo", 1)?;
        echo(&tokyo, tokyo.ip().into())?;
        for direction in [Direction::FromHost, Direction::ToHost] {
            tokyo.link()?.change(direction, |conditions| conditions.black = true);
            let before = tokyo.link()?.counts(direction).blackened;
            assert_eq!(round_trip(world.root(), tokyo.ip().into(), 100)?, None);
            assert!(tokyo.link()?.counts(direction).blackened > before, "{direction:?}");
            tokyo.link()?.change(direction, |conditions| conditions.black = false);
            assert!(round_trip(world.root(), tokyo.ip().into(), 100)?.is_some(), "{direction:?}");
        }
        tokyo.link_down()?;
        assert_eq!(round_trip(world.root(), tokyo.ip().into(), 100)?, None);
        tokyo.link_up()?;
        assert!(round_trip(world.root(), tokyo.ip().into(), 100)?.is_some());
    }
}

world_test! {
    fn a_narrow_link_carries_no_more_than_its_rate_and_no_larger_packets(world) {
        let tokyo = world.far_host("tokyo", 1)?;
        let link = tokyo.link()?;
        echo(&tokyo, tokyo.ip().into())?;
        link.change_both(|conditions| conditions.largest_packet = Some(1280));
        // 28 bytes of headers.
        assert!(round_trip(world.root(), tokyo.ip().into(), 1252)?.is_some());
        assert_eq!(round_trip(world.root(), tokyo.ip().into(), 1253)?, None);
        assert_eq!(link.counts(Direction::ToHost).too_large, 1);
        link.change_both(|conditions| conditions.largest_packet = None);

        link.change_both(|conditions| conditions.bytes_per_second = Some(500_000));
        let address = SocketAddr::new(tokyo.ip().into(), PORT);
        let listener = tokyo.within(|| Ok(TcpListener::bind(address)?))?;
        let reading = thread::spawn(move || -> std::io::Result<usize> {
            let mut all = Vec::new();
            listener.accept()?.0.read_to_end(&mut all)
        });
        let began = Instant::now();
        let mut stream = world.root().within(|| Ok(TcpStream::connect(address)?))?;
        stream.write_all(&vec![0; 1_000_000])?;
        drop(stream);
        assert_eq!(reading.join().expect("no panic")?, 1_000_000);
        println!("1 MB at 0.5 MB/s took {:?}", began.elapsed());
        assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    }
}
