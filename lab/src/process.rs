//! Child processes with a log, which end when their parent ends.
//!
//! A child ends when its [`Proc`] is dropped, and when this process ends in any way: the kernel
//! then sends it SIGKILL. That is set by `setpriv --pdeathsig KILL` (util-linux), because doing so
//! between fork and exec would be `unsafe` here. The kernel ties the signal to the parent *thread*,
//! so all children are started by one thread that lives as long as the process. (In a private world
//! the end of the pid namespace ends them too.)
//!
//! Architecture invariant: a signal goes only to a child that this process started and has not yet
//! reaped, so its pid cannot have been given to another.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Between two polls of [`wait_until`].
const POLL: Duration = Duration::from_millis(50);

/// How many bytes at the end of a log are read.
const TAIL_BYTES: u64 = 256 * 1024;

/// A child process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Proc {
    name: String,
    log: PathBuf,
    /// For [`Proc::restart`]; `None` only while it is being started.
    command: Option<Command>,
    child: Child,
}

impl Proc {
    /// Starts `command` with its output appended to `<log_dir>/<name>.log` and without input. It
    /// inherits the environment. Redirections set on `command` are lost.
    pub fn spawn(name: &str, log_dir: &Path, command: &Command) -> Result<Self> {
        let log = log_dir.join(format!("{name}.log"));
        let mut command = dying_with_parent(command);
        let start = || -> Result<(Command, Child)> {
            fs::create_dir_all(log_dir)?;
            let file = OpenOptions::new().create(true).append(true).open(&log)?;
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
            let (command, child) = spawn_from_lasting_thread(command);
            Ok((command, child?))
        };
        let (command, child) =
            start().with_context(|| format!("cannot start {name} (log: {})", log.display()))?;
        Ok(Self { name: name.to_owned(), log, command: Some(command), child })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id as this process sees it. The wrappers (`nsenter`, `setpriv`) exec, so it is
    /// the program's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it has written so far, of all its runs.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// False once it has ended, by itself or by a signal.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Memory it holds at present (`VmRSS`), in bytes; 0 once it has ended.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory it has held (`VmHWM`) since its start or [`Proc::forget_peak`], in bytes; 0
    /// once it has ended.
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Resets [`Proc::peak_bytes`] (proc(5): 5 in `clear_refs`).
    pub fn forget_peak(&self) -> Result<()> {
        let file = format!("/proc/{}/clear_refs", self.pid());
        fs::write(&file, "5").with_context(|| format!("cannot write {file}"))
    }

    fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map_or(0, |kib: u64| kib * 1024)
    }

    /// Sends SIGKILL and waits for the end. Does nothing if the process has ended.
    pub fn kill(&mut self) -> Result<()> {
        if self.is_running() {
            self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        }
        self.child.wait().map(drop).with_context(|| format!("cannot reap {}", self.name))
    }

    /// Sends SIGTERM, and SIGKILL after `timeout`. Returns the exit status.
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.child.kill()?;
                return Ok(self.child.wait()?);
            }
            thread::sleep(POLL);
        }
    }

    /// Sends SIGSTOP: it keeps its connections and answers nothing, like a machine that hangs.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Sends SIGCONT, after [`Proc::pause`].
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends a signal such as SIGHUP (reread the configuration); an error if it has already ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("{} is not running; its log ends with:\n{}", self.name, self.log_tail(20));
        }
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Kills the process if it still runs, and starts the same command again. The log is continued.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let command =
            self.command.take().with_context(|| format!("{} failed to start before", self.name))?;
        let (command, child) = spawn_from_lasting_thread(command);
        self.command = Some(command);
        self.child = child.with_context(|| format!("cannot start {} again", self.name))?;
        Ok(())
    }

    /// [`wait_until`] for an effect of this process. Fails at once if the process ends; the error
    /// has the end of its log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut poll: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut last = None;
        while Instant::now() < deadline && self.is_running() {
            match poll() {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => last = None,
                Err(error) => last = Some(error),
            }
            thread::sleep(POLL);
        }
        let how = if self.is_running() {
            format!("not within {timeout:?}")
        } else {
            "the process ended".to_owned()
        };
        let log = format!("{} ends with:\n{}", self.log.display(), self.log_tail(20));
        Err(last
            .unwrap_or_else(|| anyhow!("nothing more is known"))
            .context(format!("{}: {what}: {how}; {log}", self.name)))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // After an error here the kernel's parent-death signal still ends it.
        let _ = self.kill();
    }
}

/// Polls until `poll` returns a value. `Ok(None)` and errors mean "not yet". After `timeout` the
/// error has `what` and the last error of `poll`.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut poll: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match poll() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            let message = format!("{what}: not within {timeout:?}");
            return Err(match last {
                Some(error) => error.context(message),
                None => anyhow!(message),
            });
        }
        thread::sleep(POLL);
    }
}

/// On a panic, prints the end of every log beneath a directory. (In a private world the outer
/// process does that.)
#[derive(Debug)]
pub struct Dump {
    dir: PathBuf,
}

impl Dump {
    pub fn on_panic(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", dump(&self.dir));
        }
    }
}

/// The last lines of every `*.log` beneath `dir`, each with its name, in the order of their paths.
pub fn dump(dir: &Path) -> String {
    let mut logs = Vec::new();
    collect_logs(dir, &mut logs);
    logs.sort();
    let text = |log: &PathBuf| {
        format!("──── {} ────\n{}\n", log.strip_prefix(dir).unwrap_or(log).display(), tail(log, 40))
    };
    logs.iter().map(text).collect()
}

fn collect_logs(dir: &Path, logs: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect_logs(&entry.path(), logs),
            Ok(kind) if kind.is_file() && entry.path().extension() == Some(OsStr::new("log")) => {
                logs.push(entry.path())
            }
            _ => {}
        }
    }
}

/// The last `lines` lines of a file, or the error if it can't be read.
fn tail(file: &Path, lines: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(cannot be read: {error})"),
    }
}

/// Puts a program that executes its arguments in front of a command, such as `nsenter --net=… --`.
/// Keeps arguments and environment, without a shell; redirections are lost.
pub(crate) fn wrapped(wrapper: &[impl AsRef<OsStr>], command: &Command) -> Command {
    let (program, arguments) = wrapper.split_first().expect("BUG: a wrapper without a program");
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

/// Makes the kernel kill the child when the thread that starts it ends: see the module.
pub(crate) fn dying_with_parent(command: &Command) -> Command {
    wrapped(&["setpriv", "--pdeathsig", "KILL", "--"], command)
}

type Started = (Command, io::Result<Child>);

/// Starts a child from the thread that ends only with this process, and returns the command for
/// another start.
pub(crate) fn spawn_from_lasting_thread(command: Command) -> Started {
    static JOBS: OnceLock<mpsc::Sender<(Command, mpsc::Sender<Started>)>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<(Command, mpsc::Sender<Started>)>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let child = command.spawn();
                // The receiver waits below, so it still exists.
                let _ = reply.send((command, child));
            }
        });
        jobs
    });
    let (reply, answer) = mpsc::channel();
    jobs.send((command, reply)).expect("BUG: the starting thread has ended");
    answer.recv().expect("BUG: the starting thread has ended")
}
