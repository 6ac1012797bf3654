//! The private world itself: hosts reach each other, a pulled link is silence, and everything ends
//! with the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use atlas_lab::process::wait_until;
use atlas_lab::world::{self, Host};
use atlas_lab::{http, world_test};

/// Sends one line to whoever connects, from then on.
fn greet(host: &Host, address: SocketAddr) -> anyhow::Result<()> {
    let listener = host.within(|| Ok(TcpListener::bind(address)?))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"hello"));
        }
    });
    Ok(())
}

fn greeting(from: &Host, address: SocketAddr) -> anyhow::Result<String> {
    from.within(|| {
        let mut text = String::new();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(4))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

world_test! {
    fn a_pulled_link_is_silence_until_it_is_put_back(world) {
        let tokyo = world.host("tokyo")?;
        let paris = world.host("paris")?;
        let second = tokyo.add_ip()?;
        let addresses: [IpAddr; 3] = [tokyo.ip().into(), tokyo.ip6().into(), second.into()];
        for ip in addresses {
            greet(&tokyo, SocketAddr::new(ip, 1000))?;
            assert_eq!(greeting(&paris, SocketAddr::new(ip, 1000))?, "hello");
            assert_eq!(greeting(world.root(), SocketAddr::new(ip, 1000))?, "hello");
        }
        let address = SocketAddr::new(tokyo.ip().into(), 1000);

        tokyo.link_down()?;
        // Longer than the 3 s after which an unanswered ARP request would become an error.
        thread::scope(|scope| {
            for from in [&paris, world.root()] {
                scope.spawn(move || {
                    let error = greeting(from, address).unwrap_err();
                    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                    assert_eq!(kind, Some(ErrorKind::TimedOut), "{error:?}");
                });
            }
        });
        assert_eq!(greeting(&tokyo, address)?, "hello");

        tokyo.link_up()?;
        wait_until("the link is back", Duration::from_secs(3), || greeting(&paris, address).map(Some))?;
    }
}

world_test! {
    fn each_host_has_its_own_names_and_loopback(world) {
        let tokyo = world.host("tokyo")?;
        let paris = world.host("paris")?;
        tokyo.write_hosts([(paris.ip().into(), "prometheus-operated.monitoring.svc.cluster.local")])?;
        let mut getent = Command::new("getent");
        getent.args(["ahostsv4", "prometheus-operated.monitoring.svc.cluster.local"]);
        assert!(tokyo.run(&getent)?.starts_with("10.91.2.1 "));
        assert!(paris.run(&getent).is_err());

        greet(&tokyo, "127.0.0.1:1000".parse()?)?;
        assert_eq!(greeting(&tokyo, "127.0.0.1:1000".parse()?)?, "hello");
        assert!(greeting(&paris, "127.0.0.1:1000".parse()?).is_err());
        assert!(http::get("http://127.0.0.1:1000/").is_err());
    }
}

world_test! {
    fn a_process_is_stopped_paused_and_started_again(world) {
        let tokyo = world.host("tokyo")?;
        let mut command = Command::new("sh");
        command.args(["-c", "pwd; trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done"]);
        let mut process = tokyo.spawn("shell", &command)?;
        let log = process.log_path().to_owned();
        let dir = format!("{}\n", tokyo.dir().display());
        process.wait_until("its directory", Duration::from_secs(5), || Ok((std::fs::read_to_string(&log)? == dir).then_some(())))?;
        process.pause()?;
        process.resume()?;
        assert!(process.resident_bytes() > 0);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(process.stop(Duration::from_secs(5))?.code(), Some(3));
        assert!(process.log().ends_with("bye\n"));
        assert!(process.pause().unwrap_err().to_string().contains("bye"));
        process.restart()?;
        let pid = process.pid();
        assert!(process.is_running());
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let mut brief = tokyo.spawn("brief", Command::new("sh").args(["-c", "echo no such option; exit 1"]))?;
        let started = Instant::now();
        let error = brief.wait_until("readiness", Duration::from_secs(30), || Ok(None::<()>)).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5) && format!("{error:#}").contains("no such option"), "{error:#}");
    }
}

/// What the outer run says about a test that goes wrong inside.
fn failure(name: &str, limit: Duration, body: impl FnOnce()) -> Option<String> {
    let run = || world::inside_with(&[], limit, name, body);
    if std::env::var_os(world::VARIABLE).is_some() {
        run();
        return None;
    }
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the failure was noticed");
    Some(panic.downcast::<String>().map_or_else(|_| "no text".to_owned(), |text| *text))
}

#[test]
fn a_failure_shows_the_logs() {
    let body = || {
        let world = world::World::new().unwrap();
        let mut process =
            world.root().spawn("talker", Command::new("echo").arg("something to say")).unwrap();
        while process.is_running() {}
        panic!("the reason");
    };
    if let Some(text) = failure("world::a_failure_shows_the_logs", Duration::from_secs(60), body) {
        assert!(
            text.contains("the reason")
                || std::env::args().any(|argument| argument == "--nocapture"),
            "{text}"
        );
        assert!(text.contains("talker.log") && text.contains("something to say"), "{text}");
    }
}

#[test]
fn a_hanging_test_is_killed_with_its_world() {
    let body = || thread::sleep(Duration::from_secs(60));
    if let Some(text) =
        failure("world::a_hanging_test_is_killed_with_its_world", Duration::from_secs(1), body)
    {
        assert!(text.contains("time limit of 1s"), "{text}");
    }
}

#[test]
fn a_wrong_name_is_noticed() {
    if let Some(text) = failure("no_such_test", Duration::from_secs(60), || {}) {
        assert!(text.contains("no test named \"no_such_test\""), "{text}");
    }
}
