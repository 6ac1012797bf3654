//! The work of each script is linear in the length of what clients and backends send, because
//! Envoy's worker thread does nothing else meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlua::{HookTriggers, VmState};

use super::*;
use crate::envoy::web::{WebEntry, WebUi};
use crate::model::HostHeader;
use crate::name::HostPort;

/// Lua instructions for each byte of input. A pattern takes about 10 for each step.
const INSTRUCTIONS_PER_BYTE: usize = 150;
/// Bytes of memory for each byte of input, without garbage collection.
const MEMORY_PER_BYTE: usize = 100;
/// The instructions, and the bytes of memory, of an empty request.
const FIXED: usize = 300_000;

/// A script whose instructions are counted, those of its patterns too.
struct Counted {
    name: &'static str,
    script: Script,
    instructions: Arc<AtomicUsize>,
}

impl Counted {
    fn load(name: &'static str, text: &str) -> Self {
        let script = Script::load(text);
        script.0.load(include_str!("../test_helpers/patterns.lua")).exec().unwrap();
        script.0.load(include_str!("../test_helpers/interpreter.lua")).exec().unwrap();
        Self { name, script, instructions: Arc::default() }
    }

    /// Fails if `work`, whose input is `bytes` long and contains `value`, takes too much.
    fn is_linear(&self, value: &str, bytes: usize, work: impl FnOnce(&Script)) {
        let lua = &self.script.0;
        lua.gc_collect().unwrap();
        lua.gc_stop();
        let before = lua.used_memory();
        self.instructions.store(0, Ordering::Relaxed);
        let (counted, name, value) =
            (Arc::clone(&self.instructions), self.name, format!("{:.40}", value));
        let hook = move |lua: &Lua, _: &mlua::Debug<'_>| {
            let instructions = counted.fetch_add(1_000, Ordering::Relaxed);
            let memory = lua.used_memory() - before;
            if instructions > FIXED + INSTRUCTIONS_PER_BYTE * bytes
                || memory > FIXED + MEMORY_PER_BYTE * bytes
            {
                let spent =
                    format!("{instructions} instructions and {memory} B of memory for {bytes} B");
                return Err(mlua::Error::runtime(format!("{name}: {spent} that begin {value:?}")));
            }
            Ok(VmState::Continue)
        };
        lua.set_hook(HookTriggers::new().every_nth_instruction(1_000), hook).unwrap();
        work(&self.script);
        lua.remove_hook();
    }
}

/// Every script, by its name.
fn every_script() -> Vec<(&'static str, String)> {
    let (headers, cookies) = (["x-more".parse().unwrap()].into(), ["lang".parse().unwrap()].into());
    let entry = WebEntry {
        bind: [0; 4].into(),
        trusted_hops: 0,
        path: "/observability",
        pass_headers: &headers,
        pass_cookies: &cookies,
    };
    let at = HostPort::parse("backend:9090", 9090).unwrap();
    let ui = |kind, base, backend_prefix| WebUi {
        kind,
        base,
        backend_prefix,
        address: &at,
        host: &HostHeader::Hub,
    };
    vec![
        ("limit_alert_posts", limit_alert_posts()),
        ("list_alertmanagers", list_alertmanagers("[\"AUTHORITY\", \"AUTHORITY\"]\n")),
        ("responses_without_route", responses_without_route(entry.path)),
        ("redirect_alertmanager_api", redirect_alertmanager_api()),
        ("cluster_of_store", cluster_of_store()),
        ("cluster_of_web_ui", cluster_of_web_ui("/observability")),
        ("remove_websocket_offer", remove_websocket_offer()),
        ("replica_cookie", replica_cookie()),
        (
            "web_in_cluster",
            web_in_cluster(&[
                ui("prometheus", "/prom/tokyo", "/prefix"),
                ui("alertmanager", "/alertmanager/tokyo", ""),
            ]),
        ),
        ("web_on_hub", web_on_hub(&entry)),
        ("websocket_responses_in_cluster", websocket_responses_in_cluster()),
        ("websocket_responses_on_hub", websocket_responses_on_hub()),
    ]
}

/// How often `everywhere` sends a value.
const TIMES: usize = 33;

/// Runs the script with `value` in all headers that clients or backends choose.
fn everywhere(script: &Script, value: &str) {
    let exists = |function: &str| script.0.globals().contains_key(function).unwrap();
    let run_both = |stream: &Stream<'_>, request: &[(&str, &str)], response: &[(&str, &str)]| {
        for (function, headers) in [("envoy_on_request", request), ("envoy_on_response", response)]
        {
            if exists(function) {
                stream.run(function, headers, |options| {
                    options.set("id", "spiffe://atlas/cluster/tokyo/1").unwrap();
                    options.set("address", "192.0.2.7:1").unwrap();
                    options.set("now", 0).unwrap();
                });
            }
        }
    };
    let more = ["cookie", "cookie", "referer", "x-forwarded-host", "accept", "x-other"]
        .map(|name| (name, value));
    let response_headers = [
        "set-cookie",
        "set-cookie",
        "location",
        "content-location",
        "refresh",
        "server",
        "x-other",
    ]
    .map(|name| (name, value));
    for path in ["/prom/tokyo/", "/alertmanager/tokyo/"] {
        let request =
            [&[(":method", "GET"), (":path", path), (":authority", "hub")][..], &more].concat();
        run_both(
            &script.stream(),
            &request,
            &[&[(":status", "302")][..], &response_headers].concat(),
        );
    }
    let lines = [":path", ":authority", "content-length"].map(|name| (name, value));
    run_both(
        &script.stream(),
        &[&[(":method", "POST")][..], &lines].concat(),
        &[(":status", "302"), ("location", value)],
    );
    if exists("envoy_on_route") {
        script.route(&lines);
    }
}

/// A text of about `bytes` bytes: `unit` repeated between `before` and `after`.
fn filled(before: &str, unit: &str, after: &str, bytes: usize) -> String {
    format!("{before}{}{after}", unit.repeat((bytes - before.len() - after.len()) / unit.len()))
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test may look at its own sources, and only the directory lists all files"
)]
fn the_work_of_every_script_is_counted() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/envoy/lua");
    let scripts = every_script();
    for file in std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "lua"))
    {
        let text = code(&std::fs::read_to_string(&file).unwrap());
        assert!(scripts.iter().any(|(_, script)| script.contains(&text)), "{}", file.display());
    }
}

#[test]
fn work_is_linear_in_a_header_of_any_form() {
    const BYTES: usize = 1_500;
    let before = [
        "",
        "a=x",
        "lang=x; a",
        "http://hub",
        "http://hub/",
        "http://backend/",
        "/prom/tokyo/",
        "/alertmanager/",
        "0;url=\"",
    ];
    let units = [
        " ",
        "a",
        "1",
        "/",
        "=",
        ";",
        ",",
        "\"",
        ":",
        "-",
        ".",
        "a ",
        "a=1;",
        ":1",
        "/alertmanager/",
        "/consoles/",
        "/prom/tokyo",
    ];
    for (name, text) in every_script() {
        let counted = Counted::load(name, &text);
        for (before, unit) in before.iter().flat_map(|before| units.map(|unit| (before, unit))) {
            for after in ["", "a", "/", ",", " x", ";"] {
                let value = filled(before, unit, after, BYTES);
                counted.is_linear(&value, TIMES * BYTES, |script| everywhere(script, &value));
            }
        }
    }
}

#[test]
fn work_is_linear_in_the_longest_headers_too() {
    const BYTES: usize = 60_000;
    for (name, text) in every_script() {
        let counted = Counted::load(name, &text);
        for (before, unit, after) in [
            ("http://", "a", ""),
            ("a=x", " ", "y"),
            ("a=x; a=x", " ", "y"),
            ("", " ", "x"),
            ("", "a", ","),
            ("/alertmanager/tokyo/", "a", "/"),
            ("", "a=1; ", ""),
            ("a=1", "; secure", ""),
        ] {
            let value = filled(before, unit, after, BYTES);
            counted.is_linear(&value, TIMES * BYTES, |script| everywhere(script, &value));
        }
    }
}

#[test]
fn work_is_linear_in_the_number_of_headers() {
    let value = "x=1; ".repeat(120);
    for (name, text) in every_script() {
        let headers: Vec<(String, &str)> =
            (0..100).map(|number| (format!("x-other-{number}"), value.as_str())).collect();
        let named = |one_name: Option<&'static str>| -> Vec<(&str, &str)> {
            headers
                .iter()
                .map(|(other, value)| (one_name.unwrap_or(other.as_str()), *value))
                .collect()
        };
        Counted::load(name, &text).is_linear(&value, 4 * 100 * value.len(), |script| {
            for (function, names) in [
                ("envoy_on_request", [None, Some("cookie")]),
                ("envoy_on_response", [None, Some("set-cookie")]),
            ] {
                for name in names {
                    let stream = script.stream();
                    let first = [(":method", "GET"), (":path", "/prom/tokyo/"), (":status", "200")];
                    if script.0.globals().contains_key(function).unwrap() {
                        let metadata =
                            script.0.create_table_from([("base", "/prom/tokyo")]).unwrap();
                        stream.metadata.set("atlas", metadata).unwrap();
                        stream.run(function, &[&first[..], &named(name)].concat(), |options| {
                            options.set("now", 0).unwrap()
                        });
                    }
                }
            }
        });
    }
}
