//! Errors as text.

use std::error::Error;

/// An error and its causes, separated by colons. A cause that the text says already isn't repeated.
pub fn error_with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
