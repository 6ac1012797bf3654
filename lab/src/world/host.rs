//! A host that processes run on: a network and a mount namespace in a private world, this machine
//! itself in the demo.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::link::{self, Link};
use super::{World, net};
use crate::process::{self, Proc};

/// A host with addresses and a directory for logs. Clones are the same host.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    dir: PathBuf,
    place: Place,
    /// How many IPv4 addresses it has.
    addresses: AtomicU8,
}

#[derive(Debug)]
enum Place {
    /// This machine, on loopback addresses.
    Here,
    /// The world's root namespaces, where the test itself runs.
    Root,
    /// Its own namespaces, which exist as long as the process `holder`. That reads a pipe until
    /// this process closes it. `link`: for a far host.
    Joined { number: u8, holder: Child, link: Option<Link> },
}

impl Host {
    /// This machine without any namespace, for the demo: its addresses are loopback's, its logs go
    /// to `dir`.
    pub fn here(dir: impl Into<PathBuf>) -> Self {
        Self::new("here", dir.into(), Place::Here)
    }

    /// The world's root: see [`World::root`].
    pub(super) fn root(world_dir: &Path) -> Result<Self> {
        let host = Self::new("root", world_dir.join("root"), Place::Root);
        host.own_etc()?;
        Ok(host)
    }

    /// A host with namespaces of its own, joined to the bridge: see [`World::host`], and with a
    /// seed [`World::far_host`].
    pub(super) fn joined(
        world_dir: &Path,
        name: &str,
        number: u8,
        far: Option<u64>,
    ) -> Result<Self> {
        let make = || -> Result<Self> {
            ensure!(!world_dir.join(name).exists(), "there is a host or a file of that name");
            let holder = hold_namespaces()?;
            let link = match far {
                None => net::join(number, holder.id()).map(|()| None)?,
                Some(seed) => {
                    let own = within(holder.id(), || link::device(net::INTERFACE))?;
                    let port = link::device(&net::port_of(number))?;
                    net::join_port(number)?;
                    Some(Link::between(own, port, seed))
                }
            };
            let host =
                Self::new(name, world_dir.join(name), Place::Joined { number, holder, link });
            host.within(net::bring_up)?;
            host.add_address(host.ip().into())?;
            host.add_address(host.ip6().into())?;
            host.own_etc()?;
            Ok(host)
        };
        make().with_context(|| format!("cannot make host {name}"))
    }

    fn new(name: &str, dir: PathBuf, place: Place) -> Self {
        Self(Arc::new(Inner { name: name.to_owned(), dir, place, addresses: AtomicU8::new(1) }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The directory of its logs and its programs' files.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Writes a file into [`Host::dir`] and says where it is.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir().join(name);
        let write = || -> std::io::Result<()> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, content)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Its first address. A joined host's is 10.91.N.1 in 10.91.0.0/16.
    pub fn ip(&self) -> Ipv4Addr {
        self.numbered_ip(1)
    }

    /// Its first IPv6 address. A joined host's is fd91::N:1 in fd91::/64.
    pub fn ip6(&self) -> Ipv6Addr {
        match self.0.place {
            Place::Here => Ipv6Addr::LOCALHOST,
            Place::Root => World::IP6,
            Place::Joined { number, .. } => Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, number.into(), 1),
        }
    }

    /// Adds one more IPv4 address, as one more pod would have: 10.91.N.2, and so on (in the demo
    /// 127.0.0.2, and so on).
    pub fn add_ip(&self) -> Result<Ipv4Addr> {
        let count = self.0.addresses.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(count < 255, "{} has no more addresses", self.name());
        let ip = self.numbered_ip(count);
        // The whole of 127.0.0.0/8 is there already.
        if !matches!(self.0.place, Place::Here) {
            self.add_address(ip.into())?;
        }
        Ok(ip)
    }

    /// Adds an address of the caller's choice, out of 10.91.0.0/16 or fd91::/64 if others are to
    /// reach it.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        match self.0.place {
            Place::Here => bail!("the lab adds no addresses to this machine"),
            Place::Root => net::add_address(net::BRIDGE, address),
            Place::Joined { .. } => self.within(|| net::add_address(net::INTERFACE, address)),
        }
        .with_context(|| format!("cannot add {address} to {}", self.name()))
    }

    fn numbered_ip(&self, count: u8) -> Ipv4Addr {
        match self.0.place {
            Place::Here => Ipv4Addr::new(127, 0, 0, count),
            Place::Root => Ipv4Addr::new(10, 91, 0, count),
            Place::Joined { number, .. } => Ipv4Addr::new(10, 91, number, count),
        }
    }

    /// Disables its link: all packets from and to it are silently lost. Its loopback still works.
    pub fn link_down(&self) -> Result<()> {
        self.enable_link(false)
    }

    /// Enables its link. Connections that have not timed out continue.
    pub fn link_up(&self) -> Result<()> {
        self.enable_link(true)
    }

    /// Its link, which can be changed at any time.
    ///
    /// # Errors
    /// It was not made by [`World::far_host`].
    pub fn link(&self) -> Result<&Link> {
        match &self.0.place {
            Place::Joined { link: Some(link), .. } => Ok(link),
            _ => bail!("{} is not far: make it by World::far_host", self.name()),
        }
    }

    /// Sets TCP's congestion control for new connections of this host. Without root only those in
    /// `net.ipv4.tcp_allowed_congestion_control` are available; `reno` always is.
    pub fn set_congestion_control(&self, name: &str) -> Result<()> {
        let file = "/proc/sys/net/ipv4/tcp_congestion_control";
        self.within(|| {
            fs::write(file, name).with_context(|| {
                let allowed =
                    fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
                        .unwrap_or_default();
                format!("cannot write {name} to {file}; this machine allows: {}", allowed.trim())
            })
        })
    }

    fn enable_link(&self, enabled: bool) -> Result<()> {
        match &self.0.place {
            Place::Joined { link: Some(link), .. } => {
                link.change_both(|conditions| conditions.black = !enabled);
                Ok(())
            }
            Place::Joined { number, .. } => net::enable_port(*number, enabled),
            Place::Here | Place::Root => bail!("{} has no link", self.name()),
        }
    }

    /// Drops all packets to one of its TCP ports, of open connections too. Its loopback still
    /// works.
    pub fn drop_port(&self, port: u16) -> Result<()> {
        ensure!(matches!(self.0.place, Place::Joined { .. }), "{} has no link", self.name());
        self.within(|| net::drop_port(port))
    }

    /// Ends [`Host::drop_port`].
    pub fn pass_port(&self, port: u16) -> Result<()> {
        self.within(|| net::pass_port(port))
    }

    /// Replaces its `/etc/hosts` but for the lines for `localhost`. Running programs see it at
    /// once.
    pub fn write_hosts<'a>(
        &self,
        entries: impl IntoIterator<Item = (IpAddr, &'a str)>,
    ) -> Result<()> {
        let lines = entries.into_iter().map(|(address, name)| format!("{address} {name}\n"));
        let text: String = ["127.0.0.1 localhost\n".to_owned(), "::1 localhost\n".to_owned()]
            .into_iter()
            .chain(lines)
            .collect();
        self.write_etc("hosts", &text)
    }

    /// Replaces its `/etc/resolv.conf`, which names no server at first. Running programs see the
    /// new file, but most read it rarely (Go's resolver every 5 s).
    pub fn write_resolv_conf(&self, text: &str) -> Result<()> {
        self.write_etc("resolv.conf", text)
    }

    fn write_etc(&self, file: &str, text: &str) -> Result<()> {
        ensure!(
            !matches!(self.0.place, Place::Here),
            "the lab writes no /etc/{file} outside private worlds"
        );
        // Without a rename, since the bind mount is on this inode.
        self.write(&format!("etc/{file}"), text).map(drop)
    }

    /// Mounts its own files over `/etc/hosts` and `/etc/resolv.conf`, in its mount namespace.
    fn own_etc(&self) -> Result<()> {
        self.write_hosts([])?;
        self.write_resolv_conf("")?;
        for file in ["hosts", "resolv.conf"] {
            let mut mount = Command::new("mount");
            mount
                .arg("--bind")
                .arg(self.dir().join("etc").join(file))
                .arg(Path::new("/etc").join(file));
            self.run(&mount)?;
        }
        Ok(())
    }

    /// Starts a process on this host; its log is `<name>.log` in [`Host::dir`], so names must be
    /// unique. Redirections set on `command` are lost. It ends when its [`Proc`] is dropped.
    pub fn spawn(&self, name: &str, command: &Command) -> Result<Proc> {
        Proc::spawn(name, self.dir(), &self.entering(command))
            .with_context(|| format!("on host {}", self.name()))
    }

    /// Runs a command on this host and returns its standard output; a failure has its standard
    /// error.
    pub fn run(&self, command: &Command) -> Result<String> {
        net::run(&mut self.entering(command)).with_context(|| format!("on host {}", self.name()))
    }

    /// Runs `body` on a thread in this host's network namespace. Sockets that are made there stay
    /// in it. Files and name resolution are those of the test, so use addresses, not names.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Place::Joined { holder, .. } = &self.0.place else {
            return body();
        };
        within(holder.id(), body)
    }

    /// The command as it must be started from the test's namespaces to run in this host's.
    fn entering(&self, command: &Command) -> Command {
        let Place::Joined { holder, .. } = &self.0.place else {
            return process::wrapped(&["env"], command);
        };
        let target = format!("--target={}", holder.id());
        let mut wrapper = vec![
            "nsenter".to_owned(),
            target,
            "--net".to_owned(),
            "--mount".to_owned(),
            "--".to_owned(),
        ];
        // nsenter leaves the working directory at the new namespace's root.
        let dir = command.get_current_dir().unwrap_or(self.dir());
        wrapper.extend(["env".to_owned(), format!("--chdir={}", dir.display())]);
        process::wrapped(&wrapper, command)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Place::Joined { holder, link, .. } = &mut self.place {
            if let Some(link) = link {
                link.close();
            }
            // The namespaces exist as long as processes are in them. After an error the holder ends
            // with the world.
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Runs `body` on a thread that is in the network namespace of process `pid`.
fn within<T: Send>(pid: u32, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = format!("/proc/{pid}/ns/net");
    let enter_and_run = || -> Result<T> {
        let file = File::open(&namespace).with_context(|| format!("cannot open {namespace}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {namespace}"))?;
        body()
    };
    let ended = thread::scope(|scope| scope.spawn(enter_and_run).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Starts a process in new network and mount namespaces and waits until it is in them.
fn hold_namespaces() -> Result<Child> {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--", "sh", "-c", "echo ready && exec cat"]);
    let mut command = process::dying_with_parent(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let (_, child) = process::spawn_from_lasting_thread(command);
    let mut child = child.context("cannot start unshare")?;
    let mut line = String::new();
    let output = child.stdout.take().context("BUG: its output is not a pipe")?;
    BufReader::new(output).read_line(&mut line)?;
    if line != "ready\n" {
        let status = child.wait()?;
        bail!("no new network namespace ({status})");
    }
    Ok(child)
}
