//! The tests of `lua/NAME.lua` are in `lua/tests/NAME.rs`; here is what they share.

mod below_web_path;
mod cluster_of_store;
mod cluster_of_web_ui;
mod limit_alert_posts;
mod list_alertmanagers;
mod paths;
mod redirect_alertmanager_api;
mod remove_websocket_offer;
mod replica_cookie;
mod responses_without_route;
mod urls;
mod value;
mod web_in_cluster;
mod web_on_hub;
mod websocket_responses_in_cluster;
mod websocket_responses_on_hub;
mod work_is_linear;

use mlua::{Function, Lua, ObjectLike, Table};

use super::*;

/// A script, loaded once, as on one worker thread.
struct Script(Lua);

/// A request and its response, which share dynamic metadata.
struct Stream<'s> {
    script: &'s Script,
    metadata: Table,
}

type Headers = Vec<(String, String)>;

impl Script {
    fn load(text: &str) -> Self {
        let lua = Lua::new();
        lua.load(include_str!("test_helpers/handle.lua")).exec().unwrap();
        lua.load(text).exec().unwrap();
        Self(lua)
    }

    /// Loads libraries, so that [`Script::library`] can find their functions.
    fn load_with_libraries(libraries: &str) -> Self {
        Self::load(&[libraries, include_str!("test_helpers/libraries.lua")].concat())
    }

    /// The function of a library.
    fn library(&self, function: &str) -> Function {
        self.0.globals().get::<Table>("library").unwrap().get(function).unwrap()
    }

    /// Calls a library's function that changes headers.
    fn correct_headers(&self, function: &str, list: &Table, correct: Option<Function>) {
        let options = self.0.create_table().unwrap();
        let handle: Table = self.function("new_handle").call((list, options)).unwrap();
        let headers: Table = handle.call_method("headers", ()).unwrap();
        self.library(function).call::<()>((headers, correct)).unwrap();
    }

    fn stream(&self) -> Stream<'_> {
        Stream { script: self, metadata: self.0.create_table().unwrap() }
    }

    fn entries(&self, entries: &[(&str, &str)]) -> Table {
        let entry =
            |(name, value): &(&str, &str)| self.0.create_sequence_from([*name, *value]).unwrap();
        self.0.create_sequence_from(entries.iter().map(entry)).unwrap()
    }

    fn function(&self, name: &str) -> Function {
        self.0.globals().get(name).unwrap()
    }

    /// The result of `envoy_on_route`.
    fn route(&self, headers: &[(&str, &str)]) -> String {
        let options = self.0.create_table().unwrap();
        let handle: Table =
            self.function("new_handle").call((self.entries(headers), options)).unwrap();
        self.function("envoy_on_route").call(handle).unwrap()
    }
}

fn read(table: &Table) -> Headers {
    table
        .sequence_values::<Table>()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.get(1).unwrap(), entry.get(2).unwrap()))
        .collect()
}

impl Stream<'_> {
    fn run(&self, function: &str, headers: &[(&str, &str)], set: impl FnOnce(&Table)) -> Table {
        let options = self.script.0.create_table().unwrap();
        options.set("metadata", &self.metadata).unwrap();
        set(&options);
        let handle: Table = self
            .script
            .function("new_handle")
            .call((self.script.entries(headers), options))
            .unwrap();
        self.script.function(function).call::<()>(&handle).unwrap();
        handle
    }

    fn request(&self, headers: &[(&str, &str)]) -> Headers {
        read(&self.run("envoy_on_request", headers, |_| ()).get("list").unwrap())
    }

    fn response(&self, headers: &[(&str, &str)]) -> Headers {
        read(&self.run("envoy_on_response", headers, |_| ()).get("list").unwrap())
    }

    /// The local response of the script: the status, one header and the body.
    fn local_response(
        &self,
        headers: &[(&str, &str)],
        header: &str,
    ) -> Option<(String, Option<String>, String)> {
        let responded: Option<Table> =
            self.run("envoy_on_request", headers, |_| ()).get("responded").unwrap();
        let responded = responded?;
        let headers_sent: Table = responded.get("headers").unwrap();
        Some((
            headers_sent.get(":status").unwrap(),
            headers_sent.get(header).unwrap(),
            responded.get("body").unwrap(),
        ))
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn value(headers: &Headers, name: &str) -> Option<String> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

fn values(headers: &Headers, name: &str) -> Vec<String> {
    headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test may look at its own sources, and only the directory lists all files"
)]
fn every_lua_file_has_a_file_of_tests() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/envoy/lua");
    let mut scripts = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "lua") {
            scripts += 1;
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let tests = directory.join("tests").join(format!("{name}.rs"));
            let text = std::fs::read_to_string(&tests).unwrap_or_default();
            assert!(text.contains("#[test]"), "{} has no test", tests.display());
        }
    }
    assert!(scripts > 10, "{scripts}");
}
