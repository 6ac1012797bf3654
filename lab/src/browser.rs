//! A headless Chromium for tests: opens pages, clicks, types, and reads what is shown.
//!
//! ```text
//! Browser ─WebDriver (HTTP, host's loopback)─▶ chromedriver ─▶ Chromium ─▶ the host's network
//! ```
//!
//! The protocol is W3C WebDriver. Chromium's own extension `goog:loggingPrefs` adds the console's
//! log and, as "performance", the network's events, which show a missing picture or script.

mod log;
mod png;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Request;
use crate::parts::{self, Part};
use crate::process::{Proc, wait_until};
use crate::run::START;
use crate::world::Host;

pub use log::{Answer, Seen};

/// Time limit of a command. Chromium's own limits, set below, are shorter.
const COMMAND: Duration = Duration::from_secs(60);

/// How long a page may take to load, in milliseconds.
const PAGE_LOAD_MS: u32 = 30_000;

/// The words before the port in chromedriver's log.
const PORT_FOLLOWS: &str = "was started successfully on port ";

/// The key of an element reference (W3C WebDriver, section 12.2).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// No window; no sandbox, which needs more rights than a private world has; and no requests but the
/// page's own.
const FLAGS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--window-size=1280,900",
];

/// A running browser with one tab. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    /// Its chromedriver; Chromium's own messages are in the same log.
    pub process: Proc,
    host: Host,
    /// URL of its session, without a slash at its end.
    session: String,
}

impl Browser {
    /// Starts chromedriver and Chromium on `host`. `name` is the log's and the directory's, with a
    /// new profile in it.
    ///
    /// # Errors
    /// One of them doesn't start; the log's end says why.
    pub fn start(host: &Host, name: &str) -> Result<Self> {
        let home = host.dir().join(name);
        std::fs::create_dir_all(&home)
            .with_context(|| format!("cannot make {}", home.display()))?;
        let mut command = Command::new(parts::get(Part::ChromeDriver)?);
        // Both keep per-user files below these directories.
        command
            .arg("--port=0")
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", &home)
            .env("XDG_CACHE_HOME", &home);
        let mut process = host.spawn(name, &command)?;
        let port = wait_port(&mut process)?;
        let sessions = format!("http://127.0.0.1:{port}/session");
        let answer = send(host, "POST", &sessions, Some(&capabilities(&home)?));
        let answer = answer
            .with_context(|| format!("no session; the log ends with:\n{}", process.log_tail(20)))?;
        let id = answer["sessionId"].as_str().context("a session without an id")?;
        Ok(Self { process, host: host.clone(), session: format!("{sessions}/{id}") })
    }

    /// Opens a page and waits for its load event. What scripts fetch later may still be missing.
    ///
    /// # Errors
    /// There is no answer, or the page takes too long. A status such as 404 is no error.
    pub fn goto(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({"url": url})).map(drop).with_context(|| format!("opening {url}"))
    }

    /// The URL of the current page, after redirects.
    ///
    /// # Errors
    /// The browser has ended.
    pub fn url(&self) -> Result<String> {
        text_of(&send(&self.host, "GET", &format!("{}/url", self.session), None)?)
    }

    /// The page's title.
    ///
    /// # Errors
    /// The browser has ended.
    pub fn title(&self) -> Result<String> {
        text_of(&send(&self.host, "GET", &format!("{}/title", self.session), None)?)
    }

    /// The page's visible text.
    ///
    /// # Errors
    /// The browser has ended.
    pub fn text(&self) -> Result<String> {
        text_of(&self.evaluate("return document.body.innerText")?)
    }

    /// The texts of all elements that a CSS selector matches, in the order of the page.
    ///
    /// # Errors
    /// The selector is invalid.
    pub fn texts(&self, css: &str) -> Result<Vec<String>> {
        let script = format!(
            "return [...document.querySelectorAll({})].map(one => one.innerText)",
            json!(css)
        );
        self.evaluate(&script)?
            .as_array()
            .context("no list of texts")?
            .iter()
            .map(text_of)
            .collect()
    }

    /// Whether a CSS selector matches anything.
    ///
    /// # Errors
    /// The selector is invalid.
    pub fn exists(&self, css: &str) -> Result<bool> {
        Ok(self.evaluate(&format!("return document.querySelector({}) !== null", json!(css)))?
            == json!(true))
    }

    /// Runs JavaScript, the body of a function, in the page; yields what it returns.
    ///
    /// # Errors
    /// It throws.
    pub fn evaluate(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Clicks the first element that a CSS selector matches, and waits if that opens another page.
    ///
    /// # Errors
    /// Nothing matches, or the element is hidden or covered.
    pub fn click(&self, css: &str) -> Result<()> {
        let element = self.element(css)?;
        self.post(&format!("/element/{element}/click"), &json!({}))
            .map(drop)
            .with_context(|| format!("clicking {css}"))
    }

    /// Like [`Browser::click`], for the element of a CSS selector that has this text.
    ///
    /// # Errors
    /// As [`Browser::click`].
    pub fn click_text(&self, css: &str, text: &str) -> Result<()> {
        let script = format!(
            "return [...document.querySelectorAll({})].find(one => one.innerText.trim() === {}) ?? null",
            json!(css),
            json!(text)
        );
        let found = self.evaluate(&script)?;
        let element = text_of(&found[ELEMENT])
            .with_context(|| format!("no {css} says {text:?}; {}", self.describe()))?;
        self.post(&format!("/element/{element}/click"), &json!({}))
            .map(drop)
            .with_context(|| format!("clicking {css} {text:?}"))
    }

    /// Switches to the tab that a page opened, and closes the current one.
    ///
    /// # Errors
    /// There is no other tab.
    pub fn to_new_tab(&self) -> Result<()> {
        let get = |path: &str| send(&self.host, "GET", &format!("{}{path}", self.session), None);
        let here = get("/window")?;
        let other = wait_until("another tab", START, || {
            Ok(get("/window/handles")?
                .as_array()
                .into_iter()
                .flatten()
                .find(|tab| **tab != here)
                .cloned())
        })?;
        send(&self.host, "DELETE", &format!("{}/window", self.session), None)?;
        self.post("/window", &json!({"handle": other})).map(drop)
    }

    /// Types into the first element that a CSS selector matches; `\u{e007}` is the Enter key.
    ///
    /// # Errors
    /// Nothing matches, or the element takes no text.
    pub fn type_into(&self, css: &str, text: &str) -> Result<()> {
        let element = self.element(css)?;
        self.post(&format!("/element/{element}/value"), &json!({"text": text}))
            .map(drop)
            .with_context(|| format!("typing into {css}"))
    }

    /// Waits until a CSS selector matches something.
    ///
    /// # Errors
    /// It takes too long; the error quotes the page.
    pub fn wait_for(&self, css: &str, timeout: Duration) -> Result<()> {
        let found = wait_until(&format!("{css} on the page"), timeout, || {
            Ok(self.exists(css)?.then_some(()))
        });
        found.with_context(|| self.describe())
    }

    /// Waits until the page's text contains `text`.
    ///
    /// # Errors
    /// It takes too long; the error quotes the page.
    pub fn wait_for_text(&self, text: &str, timeout: Duration) -> Result<()> {
        let found = wait_until(&format!("{text:?} on the page"), timeout, || {
            Ok(self.text()?.contains(text).then_some(()))
        });
        found.with_context(|| self.describe())
    }

    /// What the network's and the console's logs have since the last call.
    ///
    /// # Errors
    /// The browser has ended.
    pub fn seen(&self) -> Result<Seen> {
        let entries = |kind: &str| -> Result<Vec<Value>> {
            let entries = self.post("/se/log", &json!({"type": kind}))?;
            Ok(entries.as_array().cloned().unwrap_or_default())
        };
        log::read(&entries("performance")?, &entries("browser")?)
    }

    /// The errors of [`Browser::seen`]: failed requests, answers from 400 on, errors in the
    /// console.
    ///
    /// # Errors
    /// The browser has ended.
    pub fn errors(&self) -> Result<Vec<String>> {
        Ok(self.seen()?.errors)
    }

    /// Sets the size of the viewport, in pixels.
    ///
    /// # Errors
    /// The browser has ended.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        // WebDriver sets the outer size of the window.
        let script = "return [outerWidth - innerWidth, outerHeight - innerHeight]";
        let frame = self.evaluate(script)?;
        let frame = |axis: usize| frame[axis].as_u64().context("no size of the window");
        let (width, height) = (u64::from(width) + frame(0)?, u64::from(height) + frame(1)?);
        self.post("/window/rect", &json!({"width": width, "height": height})).map(drop)
    }

    /// Writes a screenshot of the viewport, as PNG.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let base64 =
            text_of(&send(&self.host, "GET", &format!("{}/screenshot", self.session), None)?)?;
        std::fs::write(path, png::decode(&base64)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn element(&self, css: &str) -> Result<String> {
        let found = self
            .post("/element", &json!({"using": "css selector", "value": css}))
            .with_context(|| self.describe())?;
        text_of(&found[ELEMENT])
    }

    /// The page, for errors.
    fn describe(&self) -> String {
        let text: String =
            self.text().unwrap_or_else(|error| format!("{error:#}")).chars().take(2000).collect();
        format!("the page {} says:\n{text}", self.url().unwrap_or_default())
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        send(&self.host, "POST", &format!("{}{path}", self.session), Some(body))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Lets Chromium end in order. Otherwise it ends with chromedriver, which ends with its
        // `Proc`.
        let _ = send(&self.host, "DELETE", &self.session, None);
    }
}

/// The port that chromedriver chose.
fn wait_port(process: &mut Proc) -> Result<u16> {
    let log = process.log_path().to_owned();
    process.wait_until("chromedriver listens", START, || {
        let log = std::fs::read_to_string(&log)?;
        let Some((_, after)) = log.split_once(PORT_FOLLOWS) else { return Ok(None) };
        // Only with the dot after it the number is complete.
        after.split_once('.').map(|(port, _)| port.parse().context("a port")).transpose()
    })
}

/// The capabilities of the session: this Chromium, these flags, a new profile, both logs.
fn capabilities(home: &Path) -> Result<Value> {
    let mut arguments: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    arguments.push(format!("--user-data-dir={}", home.join("profile").display()));
    // Chromium's own start page makes requests to the Internet.
    let start_page = json!({"session": {"restore_on_startup": 4, "startup_urls": ["about:blank"]}});
    Ok(json!({"capabilities": {"alwaysMatch": {
        "browserName": "chrome",
        "timeouts": {"pageLoad": PAGE_LOAD_MS, "script": PAGE_LOAD_MS},
        "goog:chromeOptions": {"binary": parts::get(Part::Chromium)?, "args": arguments, "prefs": start_page},
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    }}}))
}

/// One WebDriver command; yields the answer's `value`.
fn send(host: &Host, method: &str, url: &str, body: Option<&Value>) -> Result<Value> {
    let mut request = Request::new(method, url)?.timeout(COMMAND);
    if let Some(body) = body {
        request =
            request.header("content-type", "application/json").body(serde_json::to_vec(body)?);
    }
    let answer = host.within(|| request.send())?;
    let mut json: Value = answer.json()?;
    let value = json["value"].take();
    ensure!(
        answer.status == 200,
        "the browser says {}: {}",
        value["error"],
        value["message"].as_str().unwrap_or_default()
    );
    Ok(value)
}

fn text_of(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}
