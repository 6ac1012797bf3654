//! Every command of docs/standalone.md as it stands, with the real programs, on two hosts with the
//! names it gives them.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use atlas_lab::http;
use atlas_lab::process::{Proc, wait_until};
use atlas_lab::run::CoreDns;
use atlas_lab::world::{Host, World};
use atlas_lab::world_test;

use super::*;

/// How long a program of the page may take until what the next step needs is there.
const STARTED: Duration = Duration::from_secs(60);

/// Runs the blocks of the page in its order, and keeps the programs that go on running.
struct Walk {
    hub: Host,
    tokyo: Host,
    /// Before every command: where the programs are.
    path: String,
    running: Vec<Proc>,
}

impl Walk {
    fn new(world: &World) -> Result<Self> {
        let (hub, tokyo) = (world.host("hub")?, world.host("tokyo")?);
        let names =
            [(hub.ip().into(), "hub.example.com"), (tokyo.ip().into(), "tokyo.example.com")];
        let mut running = Vec::new();
        for host in [&hub, &tokyo] {
            let listen = SocketAddr::from(([127, 0, 0, 1], 53));
            let program = parts::get(Part::CoreDns)?;
            let corefile = CoreDns::corefile(listen, names);
            running.push(CoreDns::start(host, "dns", &program, listen, &corefile)?.process);
            host.write_resolv_conf("nameserver 127.0.0.1\n")?;
        }
        let bin = world.dir().join("bin");
        std::fs::create_dir_all(&bin)?;
        let parts = [
            ("envoy", Part::Envoy),
            ("thanos", Part::Thanos),
            ("prometheus", Part::Prometheus),
            ("alertmanager", Part::Alertmanager),
        ];
        for (name, part) in parts {
            std::os::unix::fs::symlink(parts::get(part)?, bin.join(name))?;
        }
        std::os::unix::fs::symlink(crate::atlas(), bin.join("atlas"))?;
        let path = format!("export PATH={}:$PATH\n", bin.display());
        Ok(Self { hub, tokyo, path, running })
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euc", &format!("{}{script}", self.path)]);
        command
    }

    /// A block that begins with the name of a machine is a command, one that begins with that of a
    /// file its content.
    fn block(&mut self, block: &Block) -> Result<()> {
        let (head, text) = block.text.split_once('\n').unwrap_or_default();
        let Some(head) = head.strip_prefix("# ") else { return Ok(()) };
        if block.language == "yaml" {
            for host in [&self.hub, &self.tokyo] {
                host.write(head, text)?;
            }
            return Ok(());
        }
        let (machine, runs_on) = head.split_once(',').unwrap_or((head, ""));
        let host = if machine == "hub" { self.hub.clone() } else { self.tokyo.clone() };
        if runs_on.is_empty() {
            println!("{machine}: {text}{}", host.run(&self.shell(text))?);
        } else {
            let name = format!("{}-{}", self.running.len(), text.split(' ').next().unwrap());
            let script = text.trim_end().to_owned();
            println!("{machine}: {script} &");
            self.running.push(host.spawn(&name, &self.shell(&script))?);
        }
        Ok(())
    }

    /// What a person waits for or does between two blocks.
    fn between(&mut self, block: &Block) -> Result<()> {
        let state = self.hub.dir().join("state");
        if block.text.contains("atlas run") {
            wait_until("the nodes' files", STARTED, || {
                let ready = ["hub", "tokyo"].map(|node| state.join("nodes").join(node).exists());
                Ok((ready == [true; 2]).then_some(()))
            })?;
        }
        if block.text.contains("--out tokyo-envoy") {
            // Carried to tokyo, where this directory is /srv/envoy.
            let carried = self.hub.dir().join("tokyo-envoy");
            let mut mount = Command::new("bash");
            mount.args([
                "-euc",
                "mount -t tmpfs none /srv && mkdir /srv/envoy && cp \"$0\"/* /srv/envoy",
            ]);
            self.tokyo.run(mount.arg(carried))?;
        }
        Ok(())
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn the_walk_of_the_standalone_page_works_as_it_stands(world) {
        let page = Page::read("standalone.md")?;
        let mut walk = Walk::new(world)?;
        std::fs::create_dir_all(walk.hub.dir().join("clusters"))?;
        for block in page.blocks() {
            // The last question is asked until everything has come up.
            if block.text.contains("curl") {
                wait_until("one series of tokyo", STARTED, || {
                    let answer = walk.hub.run(&walk.shell(&block.text))?;
                    Ok(answer.contains("\"cluster\":\"tokyo\"").then_some(()))
                })?;
                continue;
            }
            if block.text.contains("atlas status") {
                wait_until("both nodes in sync", STARTED, || {
                    let status = walk.hub.run(&walk.shell(&block.text))?;
                    Ok((status.matches("SYNCED").count() == 2).then_some(()))
                })?;
            }
            walk.block(&block)?;
            walk.between(&block)?;
        }
        for path in ["/", "/prom/tokyo/", "/alertmanager/tokyo/"] {
            let url = format!("http://{}:10904{path}", walk.hub.ip());
            let answer = walk.hub.within(|| http::get(&url))?;
            anyhow::ensure!(answer.status < 400, "{url} is {}", answer.status);
        }
        let targets = format!("http://{}:11903/alertmanagers", walk.tokyo.ip());
        let targets = walk.tokyo.within(|| http::get(&targets))?.text();
        anyhow::ensure!(targets.contains("/alertmanager/0/"), "{targets}");
    }
}
