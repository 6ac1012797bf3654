//! The state directory: killed at any moment, shared by nobody, readable by its owner alone.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::process::wait_until;

use crate::atlas;

/// Three ports that were free a moment ago.
fn ports() -> Result<Vec<String>> {
    let listeners =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port().to_string())).collect()
}

fn run(from: &Path, state: &Path, extra: &[&str]) -> Result<Child> {
    let ports = ports()?;
    let mut command = Command::new(atlas());
    // Relative, as people write it.
    command.current_dir(from.parent().context("a directory within another")?);
    command
        .arg("run")
        .arg("--from")
        .arg(from.file_name().context("a name")?)
        .arg("--state")
        .arg(state)
        .args(extra);
    for (flag, port) in ["--xds-port", "--metrics-port", "--web-port"].iter().zip(&ports) {
        command.args([*flag, port]);
    }
    command.args(["--dns-port", "0"]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{goatlas.io/cluster: \"true\"}}}}\nspec: {{externalIPs: [10.0.0.1]}}\n"
    )
}

/// All certificates and keys that lie in a state directory go together, and every issued credential
/// is in the list.
fn check(state: &Path) -> Result<usize> {
    let lists = fs::read_dir(state.join("pki/issued")).into_iter().flatten().flatten();
    let ledger: String = lists.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    let mut count = 0;
    for entry in fs::read_dir(state.join("pki"))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            continue;
        }
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
        let text = fs::read_to_string(&path)?;
        if path.extension().is_some_and(|extension| extension == "pem") {
            ensure!(
                text.contains("BEGIN CERTIFICATE")
                    && text.trim_end().ends_with("-----END PRIVATE KEY-----"),
                "{} is half",
                path.display()
            );
            count += 1;
        }
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bootstrap.")) {
            let der = <rustls_pki_types::CertificateDer as rustls_pki_types::pem::PemObject>::from_pem_slice(text.as_bytes());
            let der = der.map_err(|error| anyhow::anyhow!("{error}"))?;
            let fingerprint: String = <sha2::Sha256 as sha2::Digest>::digest(&der)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            ensure!(ledger.contains(&fingerprint), "{} is in nobody's list", path.display());
        }
    }
    Ok(count)
}

#[test]
fn killed_at_any_moment_it_starts_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, state) = (dir.path().join("clusters"), dir.path().join("state"));
    fs::create_dir(&from)?;
    for n in 0..60 {
        fs::write(from.join(format!("c{n}.yaml")), manifest(&format!("c{n}")))?;
    }
    let mut seen = Vec::new();
    for round in 0..25u64 {
        // Certificates of seconds keep it writing; each time it is killed a little later.
        let mut child = run(&from, &state, &["--leaf-lifetime=2s", "--bootstrap-lifetime=3s"])?;
        std::thread::sleep(Duration::from_millis(15 + round * 17));
        child.kill()?;
        child.wait()?;
        if state.join("pki").exists() {
            seen.push(check(&state)?);
        }
    }
    println!("certificates on disk after each kill: {seen:?}");
    assert!(
        seen.windows(2).any(|pair| pair[0] != pair[1]),
        "no kill came while it was writing: {seen:?}"
    );
    let mut child = run(&from, &state, &[])?;
    let result = wait_until("all clusters have their files", Duration::from_secs(20), || {
        Ok(state.join("nodes/c59/tls.key").exists().then_some(()))
    });
    // Ending a child that this test started.
    child.kill()?;
    child.wait()?;
    result?;
    assert_eq!(check(&state)?, 3 + 2 + 2 * 60);
    Ok(())
}

#[test]
fn a_second_atlas_is_turned_away() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, state) = (dir.path().join("clusters"), dir.path().join("state"));
    fs::create_dir(&from)?;
    let mut first = run(&from, &state, &[])?;
    wait_until("the first runs", Duration::from_secs(20), || {
        Ok(state.join("status.sock").exists().then_some(()))
    })?;
    let second = run(&from, &state, &[])?.wait_with_output()?;
    first.kill()?;
    first.wait()?;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another atlas runs with the state directory"), "{said}");
    Ok(())
}

/// Runs until `what` holds, then kills it as a power cut would.
fn run_until(from: &Path, state: &Path, what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let mut child = run(from, state, &["--hub-address=10.0.0.9"])?;
    let result = wait_until(what, Duration::from_secs(20), || Ok(holds().then_some(())));
    child.kill()?;
    child.wait()?;
    result
}

#[test]
fn restarted_while_a_manifest_is_wrong_it_keeps_the_cluster() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, state) = (dir.path().join("clusters"), dir.path().join("state"));
    fs::create_dir(&from)?;
    fs::write(from.join("tokyo.yaml"), manifest("tokyo"))?;
    let lists = |name: &str| {
        fs::read_to_string(state.join("endpoints.yaml")).is_ok_and(|text| text.contains(name))
    };
    run_until(&from, &state, "tokyo is kept", || {
        lists("tokyo-") && state.join("last-good/tokyo.yaml").exists()
    })?;
    let half = "apiVersion: v1\nkind: Service\nmetadata: {name: tok".to_owned();
    let rejected = manifest("tokyo").replace("\"true\"", "\"true\", goatlas.io/replicas: x");
    for (n, spoilt) in [half, rejected, String::new()].iter().enumerate() {
        fs::write(from.join("tokyo.yaml"), spoilt)?;
        // Another cluster shows that a reconcile is over; what Thanos and the nodes have must not
        // come from before.
        fs::write(from.join(format!("other{n}.yaml")), manifest(&format!("other{n}")))?;
        fs::remove_dir_all(state.join("nodes"))?;
        fs::remove_file(state.join("endpoints.yaml"))?;
        let tokyo = state.join("nodes/tokyo/envoy.yaml");
        run_until(&from, &state, "tokyo's files", || {
            lists(&format!("other{n}-")) && tokyo.exists()
        })?;
        assert!(lists("tokyo-"), "spoilt: {spoilt:?}");
    }
    fs::remove_file(from.join("tokyo.yaml"))?;
    run_until(&from, &state, "tokyo is gone", || {
        !lists("tokyo-") && !state.join("last-good/tokyo.yaml").exists()
    })
}

/// Ten clusters in one file, with addresses in this range.
fn fleet(range: &str) -> String {
    let one = |n: usize| {
        let labels = "{goatlas.io/cluster: \"true\"}";
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: c{n}, labels: {labels}}}\nspec:\n  externalIPs:\n  - {range}.1\n  - {range}.12{n}\n"
        )
    };
    (0..10).map(one).collect()
}

/// The clusters in force, each with its addresses.
fn in_force(state: &Path) -> Result<Vec<Vec<String>>> {
    let output =
        Command::new(atlas()).args(["status", "-o", "json", "--state"]).arg(state).output()?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let clusters = status["clusters"].as_array().context("clusters")?;
    let addresses = |cluster: &serde_json::Value| {
        let all = cluster["addresses"].as_array().into_iter().flatten();
        all.map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
    };
    Ok(clusters.iter().map(addresses).collect())
}

/// As `kustomize build > all.yaml` does on a slow machine: truncated, written with pauses, and
/// closed at the end.
fn write_slowly(file: &Path, text: &str, ends: &[usize], pause: Duration) -> Result<()> {
    let mut out = fs::File::create(file)?;
    let mut written = 0;
    for end in ends.iter().copied().chain([text.len()]) {
        std::thread::sleep(pause);
        out.write_all(&text.as_bytes()[written..end])?;
        written = end;
    }
    Ok(())
}

#[test]
fn a_manifest_that_is_written_slowly_counts_once_it_is_whole() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, state) = (dir.path().join("clusters"), dir.path().join("state"));
    fs::create_dir(&from)?;
    let file = from.join("all.yaml");
    fs::write(&file, fleet("192.0.2"))?;
    let is = |range: &str| -> Vec<Vec<String>> {
        (0..10).map(|n| vec![format!("{range}.1:11901"), format!("{range}.12{n}:11901")]).collect()
    };
    let start = || -> Result<Child> {
        let child = run(&from, &state, &["--hub-address=10.0.0.9"])?;
        wait_until("ten clusters", Duration::from_secs(30), || {
            Ok(in_force(&state).is_ok_and(|all| all.len() == 10).then_some(()))
        })?;
        Ok(child)
    };
    let mut child = start()?;
    let mut tests = || -> Result<()> {
        let mut before = is("192.0.2");
        for range in ["198.51.100", "203.0.113", "192.0.2"] {
            let (text, now) = (fleet(range), is(range));
            // What is there at each pause is a right manifest, and in the end an address is cut.
            let ends = text
                .match_indices("---")
                .map(|(start, _)| start)
                .filter(|start| *start > 0)
                .chain([text.len() - 3]);
            let ends: Vec<usize> = ends.collect();
            let writer = std::thread::spawn({
                let (file, text) = (file.clone(), text.clone());
                move || write_slowly(&file, &text, &ends, Duration::from_millis(150))
            });
            // All the while everything is as it was, and then as it is to be.
            let mut looks = 0;
            wait_until("the new addresses", Duration::from_secs(30), || {
                let all = in_force(&state)?;
                looks += 1;
                ensure!(all == before || all == now, "{all:?}");
                Ok((all == now).then_some(()))
            })?;
            ensure!(looks > 5, "{looks}");
            writer.join().expect("the writer goes on")?;
            before = now;
        }
        // It is started while a writer pauses where what is there is a right manifest. Then what is
        // missing is waited for, for 10 s.
        let text = fleet("203.0.113");
        let half = text.match_indices("---").nth(5).context("a document")?.0;
        for attempt in 1.. {
            child.kill()?;
            child.wait()?;
            fs::remove_file(state.join("status.sock"))?;
            let mut out = fs::File::create(&file)?;
            out.write_all(&text.as_bytes()[..half])?;
            let written = Instant::now();
            child = run(&from, &state, &["--hub-address=10.0.0.9"])?;
            let all = wait_until("it has read", Duration::from_secs(30), || {
                Ok(in_force(&state).ok().filter(|all| !all.is_empty()))
            })?;
            let slow = written.elapsed() >= Duration::from_secs(9);
            if all == is("192.0.2") {
                out.write_all(&text.as_bytes()[half..])?;
                break;
            }
            ensure!(slow && attempt < 5, "{all:?}");
            // This machine took so long to start it that the half counts: once more, from the
            // start.
            fs::write(&file, fleet("192.0.2"))?;
            wait_until("the old addresses", Duration::from_secs(30), || {
                Ok((in_force(&state)? == is("192.0.2")).then_some(()))
            })?;
        }
        wait_until("the new addresses", Duration::from_secs(30), || {
            Ok((in_force(&state)? == is("203.0.113")).then_some(()))
        })?;
        // A removal is one, after a while in which it is told.
        let nine = text.rfind("---\n").context("a document")?;
        fs::write(&file, &text[..nine])?;
        wait_until("one less", Duration::from_secs(30), || {
            Ok((in_force(&state)? == is("203.0.113")[..9]).then_some(()))
        })
    };
    let result = tests();
    child.kill()?;
    child.wait()?;
    result
}

#[test]
fn a_restore_that_opened_it_to_others_and_lost_leaves_is_mended_and_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, state) = (dir.path().join("clusters"), dir.path().join("state"));
    fs::create_dir(&from)?;
    fs::write(from.join("tokyo.yaml"), manifest("tokyo"))?;
    run_until(&from, &state, "tokyo is kept", || state.join("last-good/tokyo.yaml").exists())?;
    let issued = fs::read(state.join("pki/issued/tokyo.json"))?;
    fs::write(state.join("pki/hub.pem"), "")?;
    let text = fs::read_to_string(state.join("pki/cluster.tokyo.pem"))?;
    fs::write(state.join("pki/cluster.tokyo.pem"), &text[..text.len() / 2])?;
    ensure!(Command::new("chmod").args(["-R", "a+rX"]).arg(&state).status()?.success());
    fs::remove_file(state.join("status.sock"))?;
    let mut child = run(&from, &state, &[])?;
    let shown = wait_until("it serves", Duration::from_secs(30), || {
        let output = Command::new(atlas()).args(["status", "--state"]).arg(&state).output()?;
        Ok((output.status.code() == Some(3))
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    });
    child.kill()?;
    let log = String::from_utf8(child.wait_with_output()?.stderr)?;
    let shown = shown?;
    for file in ["hub.pem", "cluster.tokyo.pem"] {
        ensure!(
            shown.contains(&format!(
                "{file}.broken-1 was broken, so it was set aside and issued anew"
            )),
            "{shown}"
        );
        ensure!(log.contains("a certificate's file is broken: it is set aside"), "{log}");
    }
    ensure!(check(&state)? == 3 + 2 + 2, "all are there and whole, and all are private");
    ensure!(fs::read(state.join("pki/issued/tokyo.json"))? == issued, "what was handed out counts");
    ensure!(
        log.contains("others could read files in the state directory; now they can't"),
        "{log}"
    );
    for secret in [
        "nodes/hub/tls.key",
        "nodes/tokyo/tls.key",
        "last-good/tokyo.yaml",
        "status.sock",
        "lock",
        "endpoints.yaml",
    ] {
        let mode = fs::metadata(state.join(secret))?.permissions().mode() & 0o777;
        ensure!(mode & 0o077 == 0, "{secret} has mode {mode:o}");
    }
    Ok(())
}

#[test]
fn one_node_s_trouble_stops_no_other() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, state) = (dir.path().join("clusters"), dir.path().join("state"));
    fs::create_dir_all(&from)?;
    fs::create_dir_all(state.join("nodes"))?;
    fs::write(state.join("nodes/bad"), "in the way")?;
    for name in ["bad", "tokyo"] {
        fs::write(from.join(format!("{name}.yaml")), manifest(name))?;
    }
    let file = |path: &str| state.join(path).exists();
    run_until(&from, &state, "the others", || {
        file("nodes/tokyo/tls.key") && file("nodes/hub/tls.key") && file("last-good/tokyo.yaml")
    })?;
    assert!(fs::read_to_string(state.join("endpoints.yaml"))?.contains("bad-"));
    // Once nothing is in the way, it has its files too.
    fs::remove_file(state.join("nodes/bad"))?;
    run_until(&from, &state, "bad's files", || file("nodes/bad/tls.key"))
}

#[test]
fn without_the_list_of_credentials_it_does_not_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, state) = (dir.path().join("clusters"), dir.path().join("state"));
    fs::create_dir(&from)?;
    fs::write(from.join("tokyo.yaml"), manifest("tokyo"))?;
    run_until(&from, &state, "tokyo's credential", || {
        state.join("pki/bootstrap.tokyo.pem").exists()
    })?;
    fs::remove_file(state.join("pki/issued/tokyo.json"))?;
    let output = run(&from, &state, &[])?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("tokyo.json is missing") && said.contains("backup"), "{said}");
    Ok(())
}
