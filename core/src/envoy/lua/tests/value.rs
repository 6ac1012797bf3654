use super::*;

#[test]
fn lua_reads_strings_as_they_were() {
    let lua = Lua::new();
    for text in ["", "/prom/tokyo", "a\"b\\c", "new\nline", "\u{0}1", "ü", "]] .. os.exit() .. [["]
    {
        let read: mlua::String = lua.load(Value::text(text).to_string()).eval().unwrap();
        assert_eq!(read.as_bytes(), text.as_bytes());
    }
}

#[test]
fn lua_reads_tables_as_they_were() {
    let value = Value::Lines(vec![
        ("a\"".into(), Value::Record(vec![("list", Value::list(["x", "y\\"]))])),
        ("b".into(), Value::Record(vec![("set", Value::set(["x", "y", "x"]))])),
        ("c".into(), Value::Record(vec![("number", Value::Number(-7))])),
        ("d".into(), Value::Record(vec![("boolean", Value::Boolean(false))])),
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
    let line = declaration(&[("one", Value::Number(1)), ("two", Value::text("2"))]);
    assert_eq!(line, "local one, two = 1, \"2\"\n");
}
