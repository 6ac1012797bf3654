//! The pictures in README.md: `docs/images/NAME.png`, and beside each `NAME.txt`, which is what the
//! page said.
//!
//! `UPDATE_SCREENSHOTS=1` takes them anew. Otherwise a page that says something else than its text
//! file fails the test, since then the picture in README.md shows what is no longer so. Pixels are
//! not compared.

use std::env::VarError;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::browser::Browser;

/// The largest picture, in bytes: everyone who reads README.md loads it.
const LARGEST: usize = 150 << 10;

/// Checks or takes the picture of the page that `browser` shows, in a window of this size in
/// pixels.
pub fn picture(browser: &Browser, name: &str, size: (u32, u32)) -> Result<()> {
    let file = |extension: &str| {
        let path: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "docs", "images", name].into_iter().collect();
        path.with_extension(extension)
    };
    let (png, txt) = (file("png"), file("txt"));
    let text = constant(&browser.text()?);
    let update = match std::env::var("UPDATE_SCREENSHOTS").as_deref() {
        Ok("1") => true,
        Ok("0") | Err(VarError::NotPresent) => false,
        other => bail!("UPDATE_SCREENSHOTS is {other:?}: it must be 1, 0 or unset"),
    };
    if update {
        browser.resize(size.0, size.1)?;
        browser.screenshot(&png)?;
        std::fs::write(&txt, &text).with_context(|| format!("cannot write {}", txt.display()))?;
    }
    let again = "UPDATE_SCREENSHOTS=1 cargo test --test it browser:: takes it anew";
    let picture = std::fs::read(&png).with_context(|| format!("{}; {again}", png.display()))?;
    ensure!(
        dimensions(&picture) == Some(size) && picture.len() <= LARGEST,
        "{} is {} bytes and {:?}; {again}",
        png.display(),
        picture.len(),
        dimensions(&picture)
    );
    let told =
        std::fs::read_to_string(&txt).with_context(|| format!("{}; {again}", txt.display()))?;
    ensure!(
        told == text,
        "{} shows another page than there is today; {again}\nit shows:\n{told}\ntoday:\n{text}",
        png.display()
    );
    Ok(())
}

/// A page's text, a line for each line that isn't blank, without ages and times, which are others
/// in each run.
fn constant(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut kept = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let age = words.get(at + 1) == Some(&"ago");
            let time = word.starts_with(|c: char| c.is_ascii_digit())
                && (word.matches('-').count() == 2 || word.matches(':').count() == 2);
            if !age && !time {
                kept.push(*word);
            }
        }
        if !kept.is_empty() {
            lines.push_str(&kept.join(" "));
            lines.push('\n');
        }
    }
    lines
}

/// Width and height of a PNG, from its first chunk (IHDR).
fn dimensions(png: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    png.starts_with(b"\x89PNG\r\n\x1a\n").then_some(())?;
    Some((number(16)?, number(20)?))
}

#[test]
fn ages_and_times_are_left_out_of_a_pages_text() {
    let text = "a\t133.000ms ago\n\n2026-11-26 07:49:01 b:10901 10.91.2.1:11901\n";
    assert_eq!(constant(text), "a ago\nb:10901 10.91.2.1:11901\n");
}
