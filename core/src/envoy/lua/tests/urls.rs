use super::*;

#[test]
fn a_path_is_under_another_at_the_end_of_a_segment_only() {
    let script = Script::load_with_libraries(&urls(""));
    let under = script.library("under");
    for (path, base, expected) in [
        ("/a", "/a", true),
        ("/a/b", "/a", true),
        ("/a?b", "/a", true),
        ("/a#b", "/a", true),
        ("/ab", "/a", false),
        ("/b", "/a", false),
        ("/", "/a", false),
        ("", "", true),
        ("/a", "", true),
    ] {
        assert_eq!(under.call::<bool>((path, base)).unwrap(), expected, "{path} {base}");
    }
}

#[test]
fn urls_are_corrected_in_location_content_location_and_refresh() {
    for (name, before, after) in [
        ("location", "/x", "/new/x"),
        ("content-location", "/x", "/new/x"),
        ("refresh", "5; url=/x", "5; url=/new/x"),
        ("refresh", "  0.5;URL = /x", "0.5;URL = /new/x"),
        ("refresh", "0, url=\"/x\"", "0, url=\"/new/x\""),
        ("refresh", "0; url='/x' ", "0; url='/new/x'"),
        ("refresh", "5", "5"),
        ("refresh", "/x", "/x"),
        ("link", "/x", "/x"),
    ] {
        let script = Script::load_with_libraries(&urls(""));
        let correct = script.0.create_function(|_, url: String| Ok(format!("/new{url}"))).unwrap();
        let list = script.entries(&[(name, before)]);
        script.correct_headers("correct_urls", &list, Some(correct));
        assert_eq!(read(&list), [owned((name, after))], "{name}: {before}");
    }
}
