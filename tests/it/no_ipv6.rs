//! A machine whose kernel has no IPv6 (`ipv6.disable=1`): no socket of that family can be had at
//! all. Here a seccomp filter refuses it with the same error.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::process::{Proc, wait_until};
use atlas_lab::world_test;

use crate::atlas;

/// How long anything may take before it counts as hanging.
const LONG: Duration = Duration::from_secs(60);

/// What Envoy says of a listener at `::`, and what docs/troubleshooting.md is searched for.
const SAID: &str = "malformed IP address: ::";

/// Refuses `socket(AF_INET6, …)` with EAFNOSUPPORT (97), then becomes the program. For x86_64.
const WITHOUT_IPV6: &str = r#"
import ctypes, os, struct, sys
step = lambda code, yes, no, value: struct.pack("HBBI", code, yes, no, value)
load, equal, answer = 0x20, 0x15, 0x06
filter = ctypes.create_string_buffer(b"".join([
    step(load, 0, 0, 0), step(equal, 0, 3, 41),   # the call's number: socket
    step(load, 0, 0, 16), step(equal, 0, 1, 10),  # its first argument: AF_INET6
    step(answer, 0, 0, 0x00050000 | 97), step(answer, 0, 0, 0x7fff0000),
]))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program, libc = Program(6, ctypes.addressof(filter)), ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn without_ipv6(program: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_IPV6]).arg(program);
    command
}

world_test! {
    needs [Envoy, EnvoyOldest],
    fn without_ipv6_envoy_and_atlas_do_what_troubleshooting_says(world) {
        let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md"))?;
        let entry = page.split("\n### ").find(|entry| entry.starts_with(&format!("`{SAID}`"))).context("no entry in docs/troubleshooting.md")?;
        for advice in ["goatlas.io/bind-address: 0.0.0.0", "atlas.bindAddress", "--bind-address"] {
            ensure!(entry.contains(advice), "{entry}");
        }
        let host = world.host("hub")?;
        let dir = host.dir().to_owned();
        std::fs::create_dir(dir.join("clusters"))?;
        host.write("clusters/tokyo.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: tokyo, labels: {goatlas.io/cluster: \"true\"}}\n")?;
        let bootstrap = dir.join("state/nodes/hub/envoy.yaml");
        let atlas = |name: &str, bind: &[&str]| -> Result<Proc> {
            let mut run = without_ipv6(atlas());
            let ip = host.ip().to_string();
            run.args(["run", "--hub-address", &ip, "--hub-store-address", &ip, "--listen-address", "::"]).args(bind);
            run.arg("--from").arg(dir.join("clusters")).arg("--state").arg(dir.join("state"));
            let mut hub = host.spawn(name, &run)?;
            hub.wait_until("a plan is in force", LONG, || Ok(std::fs::read_to_string(dir.join(format!("{name}.log")))?.contains("plan is in force").then_some(())))?;
            Ok(hub)
        };
        let envoy = |part: Part, name: &str| -> Result<Proc> {
            let mut envoy = without_ipv6(&parts::get(part)?);
            host.spawn(name, envoy.args(["--disable-hot-restart", "--concurrency", "1", "-c"]).arg(&bootstrap))
        };
        let envoys = [(Part::Envoy, "newest"), (Part::EnvoyOldest, "oldest")];

        let mut hub = atlas("atlas", &[])?;
        for (part, name) in envoys {
            let mut refused = envoy(part, name)?;
            wait_until("Envoy ends", LONG, || Ok((!refused.is_running()).then_some(())))?;
            ensure!(refused.log().contains(SAID), "{}", refused.log_tail(20));
        }
        hub.stop(LONG)?;

        let _hub = atlas("atlas-advised", &["--bind-address", "0.0.0.0"])?;
        for (part, name) in envoys {
            let mut running = envoy(part, &format!("{name}-advised"))?;
            wait_until("Envoy has everything", LONG, || {
                ensure!(running.is_running(), "Envoy has ended: {}", running.log_tail(20));
                let mut status = Command::new(crate::atlas());
                status.args(["status", "-o", "json", "--state"]).arg(dir.join("state"));
                let status: serde_json::Value = serde_json::from_str(&host.run(&status)?)?;
                let node = status["nodes"].as_array().context("no nodes")?.iter().find(|node| node["node"] == "hub").context("no hub")?.to_string();
                ensure!(node.contains("SYNCED") && !node.contains("NACK") && !node.contains("STALE"), "{node}");
                Ok(Some(()))
            })?;
            running.stop(LONG)?;
        }
    }
}
