//! The environment variable by which people have golden files rewritten.
//!
//! Also used by `tests/it/charts/golden.rs`, so that it means the same for all golden files.

use std::ffi::OsStr;

const VARIABLE: &str = "UPDATE_GOLDEN";

/// Whether golden files are rewritten (`UPDATE_GOLDEN=1`) or compared (`UPDATE_GOLDEN=0`, or
/// unset).
pub fn update_golden() -> bool {
    parse(std::env::var_os(VARIABLE).as_deref()).unwrap_or_else(|problem| panic!("{problem}"))
}

fn parse(value: Option<&OsStr>) -> Result<bool, String> {
    let Some(value) = value else { return Ok(false) };
    match value.to_str() {
        Some("1") => Ok(true),
        Some("0") => Ok(false),
        _ => Err(format!("{VARIABLE} is {value:?}: it must be 1 (rewrite), 0 or unset (compare)")),
    }
}

#[test]
fn only_1_rewrites_and_only_0_or_nothing_compares() {
    assert_eq!(parse(None), Ok(false));
    let parse = |text: &str| parse(Some(OsStr::new(text)));
    assert_eq!(parse("0"), Ok(false));
    assert_eq!(parse("1"), Ok(true));
    for wrong in ["", "true", "false", "no", "01", "1 "] {
        let problem = parse(wrong).unwrap_err();
        assert!(problem.contains(VARIABLE) && problem.contains(&format!("{wrong:?}")), "{problem}");
    }
}
