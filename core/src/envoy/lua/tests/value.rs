use super::*;

#[test]
fn lua_reads_strings_as_they_were() {
    let lua = Lua::new();
    for text in ["", "/prom/tokyo", "a\"b\\c", "new\nline", "\u{0}1", "ü", "]] .. os.exit() .. [["]
    {
        let read: mlua::String = lua.load(LuaValue::text(text).to_string()).eval().unwrap();
        assert_eq!(read.as_bytes(), text.as_bytes());
    }
}

#[test]
fn lua_reads_tables_as_they_were() {
    let value = LuaValue::Lines(vec![
        ("a\"".into(), LuaValue::Record(vec![("list", LuaValue::list(["x", "y\\"]))])),
        ("b".into(), LuaValue::Record(vec![("set", LuaValue::set(["x", "y", "x"]))])),
        ("c".into(), LuaValue::Record(vec![("number", LuaValue::Number(-7))])),
        ("d".into(), LuaValue::Record(vec![("boolean", LuaValue::Boolean(false))])),
    ]);
    let lua = Lua::new();
    let table: Table = lua.load(value.to_string()).eval().unwrap();
    let get = |key: &str, field: &str| -> mlua::Value {
        table.get::<Table>(key).unwrap().get(field).unwrap()
    };
    let list: Vec<String> =
        get("a\"", "list").as_table().unwrap().sequence_values().map(Result::unwrap).collect();
    assert_eq!(list, ["x", "y\\"]);
    let set = get("b", "set");
    let mut keys: Vec<(String, bool)> =
        set.as_table().unwrap().pairs().map(Result::unwrap).collect();
    keys.sort();
    assert_eq!(keys, [("x".to_owned(), true), ("y".to_owned(), true)]);
    assert_eq!(get("c", "number").as_integer(), Some(-7));
    assert_eq!(get("d", "boolean").as_boolean(), Some(false));
}

#[test]
fn a_declaration_names_its_variables_in_order() {
    let line = declaration(&[("one", LuaValue::Number(1)), ("two", LuaValue::text("2"))]);
    assert_eq!(line, "local one, two = 1, \"2\"\n");
}
