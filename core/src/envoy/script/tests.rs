//! Each script, by tables of what goes in and what comes out.

mod cluster;
mod hub;
mod web_on_hub;
mod work;

use mlua::{Function, Lua, Table};

use super::*;

/// One script, loaded once, as on one worker thread.
struct Script(Lua);

/// One request on its way through a script.
struct Stream<'s> {
    script: &'s Script,
    metadata: Table,
}

type Headers = Vec<(String, String)>;

impl Script {
    fn load(text: &str) -> Self {
        let lua = Lua::new();
        lua.load(include_str!("../lua/tests/handle.lua")).exec().unwrap();
        lua.load(text).exec().unwrap();
        Self(lua)
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

    /// What `envoy_on_route` says.
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

    /// What the script answers by itself: the status, and one header.
    fn answer(
        &self,
        headers: &[(&str, &str)],
        header: &str,
    ) -> Option<(String, Option<String>, String)> {
        let responded: Option<Table> =
            self.run("envoy_on_request", headers, |_| ()).get("responded").unwrap();
        let responded = responded?;
        let answer: Table = responded.get("headers").unwrap();
        Some((
            answer.get(":status").unwrap(),
            answer.get(header).unwrap(),
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
fn texts_are_what_they_were_in_lua_too() {
    let lua = Lua::new();
    for text in ["", "/prom/tokyo", "a\"b\\c", "new\nline", "\u{0}1", "ü", "]] .. os.exit() .. [["]
    {
        let back: mlua::String = lua.load(format!("return {}", string(text))).eval().unwrap();
        assert_eq!(back.as_bytes(), text.as_bytes());
    }
    let entries: i32 = lua
        .load(format!(
            "local n = 0 for _ in pairs({}) do n = n + 1 end return n",
            set(["a", "b\"", "a"])
        ))
        .eval()
        .unwrap();
    assert_eq!(entries, 2);
}
