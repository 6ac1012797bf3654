//! The processes of the servers under test.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to stop after SIGTERM.
const STOP: Duration = Duration::from_secs(20);

/// A free TCP port on loopback.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A running process, its CPU time and its memory.
pub struct Process {
    child: Child,
    /// CPU time of each thread by its id, in nanoseconds. Keeps those of threads that have ended.
    threads: HashMap<String, u64>,
}

impl Process {
    fn new(child: Child) -> Self {
        Self { child, threads: HashMap::new() }
    }

    /// CPU time of all threads so far.
    pub fn cpu(&mut self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .into_iter()
            .flatten()
            .flatten();
        for task in tasks {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            if let Some(nanoseconds) =
                text.split_whitespace().next().and_then(|number| number.parse().ok())
            {
                self.threads.insert(task.file_name().to_string_lossy().into_owned(), nanoseconds);
            }
        }
        Duration::from_nanos(self.threads.values().sum())
    }

    /// Resident memory now, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib =
            line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops it with SIGTERM, and after [`STOP`] with SIGKILL.
    pub fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("BUG: a child without a process id")?;
        if self.is_running() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP;
        while self.is_running() {
            if Instant::now() > deadline {
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// `atlas run --from`.
pub struct Atlas {
    program: PathBuf,
    from: PathBuf,
    pub state: PathBuf,
    log: PathBuf,
    ports: [u16; 4],
    pub process: Process,
}

impl Atlas {
    /// Starts it and waits until it is ready. On a new state directory it issues two certificates
    /// for each cluster first.
    pub fn start(program: &Path, dir: &Path, clusters: usize) -> Result<Self> {
        let ports = [free_port()?, free_port()?, free_port()?, free_port()?];
        let (from, state, log) = (dir.join("clusters"), dir.join("state"), dir.join("atlas.log"));
        let process = Self::spawn(program, &from, &state, &log, &ports)?;
        let mut atlas = Self { program: program.to_owned(), from, state, log, ports, process };
        atlas.wait_ready(Duration::from_secs(60 + clusters as u64 / 10))?;
        Ok(atlas)
    }

    fn spawn(
        program: &Path,
        from: &Path,
        state: &Path,
        log: &Path,
        ports: &[u16; 4],
    ) -> Result<Process> {
        std::fs::create_dir_all(state)?;
        let file = std::fs::File::options().create(true).append(true).open(log)?;
        let [xds, metrics, web, dns] = ports;
        let child = Command::new(program)
            .arg("run")
            .arg("--from")
            .arg(from)
            .arg("--state")
            .arg(state)
            .args([
                "--hub-address=hub.example.com",
                "--hub-store-address=10.0.0.1",
                "--max-stream-age=12h",
            ])
            .args([
                format!("--xds-port={xds}"),
                format!("--metrics-port={metrics}"),
                format!("--web-port={web}"),
                format!("--dns-port={dns}"),
            ])
            // Without a log line for each stream, whose cost would be measured too.
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Process::new(child))
    }

    fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let began = Instant::now();
        let mut printed = began;
        while !self.is_ready() {
            ensure!(
                self.process.is_running(),
                "atlas has ended: {}",
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
            ensure!(
                began.elapsed() < limit,
                "atlas was not ready within {limit:?}: see {}",
                self.log.display()
            );
            if printed.elapsed() > Duration::from_secs(10) {
                printed = Instant::now();
                eprintln!("  atlas is getting ready: {:.0} s", began.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let get = || -> std::io::Result<String> {
            let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[1]))?;
            tcp.set_read_timeout(Some(Duration::from_secs(2)))?;
            tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            std::io::read_to_string(tcp)
        };
        get().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Its xDS address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    pub fn restart(&mut self) -> Result<()> {
        self.process.stop()?;
        self.process = Self::spawn(&self.program, &self.from, &self.state, &self.log, &self.ports)?;
        self.wait_ready(Duration::from_secs(120))
    }
}

/// The server in `peers/go-control-plane`.
pub struct Peer {
    command: Box<dyn Fn() -> Command + Send>,
    address: SocketAddr,
    pub process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it with the resources of a directory, and with Atlas's own certificate.
    pub fn start(program: &Path, resources: &Path, state: &Path) -> Result<Self> {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let (program, resources, state) =
            (program.to_owned(), resources.to_owned(), state.to_owned());
        let command = move || {
            let mut command = Command::new(&program);
            let pem = state.join("pki/atlas.pem");
            command.arg("-resources").arg(&resources).arg("-listen").arg(address.to_string());
            command
                .arg("-cert")
                .arg(&pem)
                .arg("-key")
                .arg(&pem)
                .arg("-ca")
                .arg(state.join("nodes/hub/ca.crt"));
            command
        };
        let (process, stdin, stdout) = Self::spawn(&command)?;
        Ok(Self { command: Box::new(command), address, process, stdin, stdout })
    }

    fn spawn(
        command: &dyn Fn() -> Command,
    ) -> Result<(Process, ChildStdin, BufReader<ChildStdout>)> {
        let mut child = command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start go-control-plane's server")?;
        let stdin = child.stdin.take().context("BUG: no standard input")?;
        let mut stdout = BufReader::new(child.stdout.take().context("BUG: no standard output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(line.starts_with("serving"), "go-control-plane's server didn't start: {line}");
        Ok((Process::new(child), stdin, stdout))
    }

    /// Its xDS address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a command without waiting for its end.
    pub fn send(&mut self, command: &str) -> Result<()> {
        writeln!(self.stdin, "{command}").context("go-control-plane's server has ended")
    }

    /// Waits for the answer to a command.
    pub fn read_answer(&mut self) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.trim() == "ok" {
            Ok(())
        } else {
            bail!("go-control-plane's server: {}", line.trim())
        }
    }

    /// Restarts it with the resources of the start.
    pub fn restart(&mut self) -> Result<()> {
        self.process.stop()?;
        (self.process, self.stdin, self.stdout) = Self::spawn(&self.command)?;
        Ok(())
    }
}
