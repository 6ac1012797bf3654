use proptest::prelude::*;

use super::*;

/// Each class of characters that must not be shown as they are, with examples.
const HIDDEN: &[(&str, &str)] = &[
    ("C0", "\0\x07\x08\x09\x0a\x0b\x0c\x0d\x1b\x1f"),
    ("delete", "\x7f"),
    ("C1", "\u{80}\u{85}\u{90}\u{9b}\u{9d}\u{9f}"),
    (
        "bidirectional controls",
        "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}",
    ),
    (
        "zero width",
        "\u{200b}\u{200c}\u{200d}\u{2060}\u{2061}\u{2062}\u{2063}\u{2064}\u{180e}\u{ad}",
    ),
    ("byte order mark", "\u{feff}"),
    ("line and paragraph separators", "\u{2028}\u{2029}"),
    ("blanks", "\u{a0}\u{1680}\u{2000}\u{2003}\u{200a}\u{202f}\u{205f}\u{3000}"),
    ("tags", "\u{e0000}\u{e0001}\u{e0020}\u{e0041}\u{e007f}"),
    ("variation selectors", "\u{fe00}\u{fe0e}\u{fe0f}\u{180b}\u{180f}\u{e0100}\u{e01ef}"),
    (
        "letters and signs that nobody sees",
        "\u{34f}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{2800}\u{3164}\u{ffa0}",
    ),
    ("interlinear annotations, deprecated controls", "\u{fff9}\u{fffa}\u{fffb}\u{206a}\u{206f}"),
    ("musical controls", "\u{1d173}\u{1d17a}"),
    ("private use", "\u{e000}\u{f8ff}\u{f0000}\u{10fffd}"),
    ("unassigned", "\u{378}\u{2fe0}\u{50000}\u{e0fff}"),
    ("noncharacters", "\u{fdd0}\u{fffe}\u{ffff}\u{10ffff}"),
];

#[test]
fn invisible_and_control_characters_are_shown_as_numbers() {
    for (class, characters) in HIDDEN {
        for c in characters.chars() {
            let number = c.escape_default().to_string();
            assert!(!is_plain_char(c) && !is_plain(&c.to_string()), "{class}: {number}");
            let shown = line(&format!("a{c}b"), LONGEST);
            assert_eq!(shown, format!("a{number}b"), "{class}");
            let shown = log_line(&format!("a{c}b\n"), true);
            assert!(c == '\t' || shown == format!("a{number}b\n"), "{class}: {shown:?}");
            let shown = lines(&format!("a{c}b")).into_owned();
            assert!(
                matches!(c, '\n' | '\t') || shown == format!("a{number}b"),
                "{class}: {shown:?}"
            );
        }
    }
}

#[test]
fn what_people_write_stays_as_it_is() {
    let plain = [
        "",
        "tokyo-1 {}\"'\\ ~",
        "São Paulo, Zürich",
        "東京 서울 Ελλάδα Москва",
        "ירושלים القاهرة",
        "e\u{301}a\u{323}\u{302}",
        "→ … ✓ 🌍",
    ];
    for text in plain {
        assert!(is_plain(text), "{text}");
        assert_eq!((line(text, LONGEST).as_str(), &*lines(text), &*json(text)), (text, text, text));
    }
}

#[test]
fn a_character_carries_three_marks_and_no_flood() {
    let shown = line(&format!("a{}b\u{301}", "\u{301}".repeat(500)), LONGEST);
    let expected = format!("a{}", "\u{301}".repeat(3));
    assert!(shown.starts_with(&format!("{expected}\\u{{301}}\\u{{301}}")), "{shown}");
    assert!(line(&format!("a{}b\u{301}", "\u{301}".repeat(5)), LONGEST).ends_with("b\u{301}"));
}

#[test]
fn a_long_text_is_cut_and_never_within_a_number() {
    assert_eq!(line("abcd", 4), "abcd");
    assert_eq!(line("abcde", 4), "abc…");
    assert_eq!(line("ab\u{202e}", 9), "ab…");
    assert_eq!(line("ab\u{202e}", 10), "ab\\u{202e}");
    assert_eq!(line("ab\u{202e}c", 10), "ab…");
    assert_eq!(line("abc", 1), "…");
    assert_eq!(line("abc", 0), "");
    let long = line(&"é".repeat(1 << 20), LONGEST);
    assert_eq!(long.chars().count(), LONGEST);
    assert!(long.ends_with('…'));
}

#[test]
fn a_line_of_the_log_stays_one_and_keeps_atlas_s_own_colours_only() {
    let text = "\x1b[2m12:00\x1b[0m \x1b[1;33mWARN\x1b[0m x\x1b[2Jy\x1b]0;title\x07z\nfalse line\u{202e}\n";
    let expected = "\x1b[2m12:00\x1b[0m \x1b[1;33mWARN\x1b[0m x\\u{1b}[2Jy\\u{1b}]0;title\\u{7}z\\nfalse line\\u{202e}\n";
    assert_eq!(log_line(text, true), expected);
    assert!(!log_line(text, false).contains('\x1b'));
}

#[test]
fn json_says_the_same_and_hides_nothing() {
    let value = serde_json::json!({"id": "a\u{202e}\u{200b}\u{2028}\u{e0041}\u{9b}\x1b\x7f\n", "plain": "東京"});
    let text = serde_json::to_string_pretty(&value).unwrap();
    let shown = json(&text);
    assert!(
        is_plain(&shown.replace('\n', ""))
            && shown.contains("\\u202e")
            && shown.contains("\\udb40\\udc41"),
        "{shown}"
    );
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
}

proptest! {
    #[test]
    fn escaped_text_is_plain_and_stays_so_when_escaped_again(text: String, longest in 0..300_usize) {
        let shown = line(&text, longest);
        prop_assert!(is_plain(&shown) && shown.chars().count() <= longest);
        prop_assert_eq!(line(&shown, longest), shown);
        let shown = lines(&text).into_owned();
        prop_assert!(shown.split(['\n', '\t']).all(is_plain));
        prop_assert_eq!(lines(&shown).into_owned(), shown.clone());
        let written = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(&json(&written)).unwrap(), text);
    }
}
