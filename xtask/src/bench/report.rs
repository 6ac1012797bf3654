//! The output of a measurement: a table and JSON rows.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// A text table: the first column aligned left, the others right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell =
        |row: &[String], column: usize| row.get(column).map_or(0, |text| text.chars().count());
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            rows.iter()
                .map(|row| cell(row, column))
                .chain([header[column].chars().count()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let heading: Vec<String> = header.iter().map(|&text| text.to_owned()).collect();
    let mut text = String::new();
    for row in [&heading].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| {
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                })
                .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// Writes the rows as a JSON list.
///
/// # Errors
/// The file can't be written.
pub(crate) fn write_json(file: &Path, rows: &[Value]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows).context("BUG: figures that are no JSON")?;
    std::fs::write(file, text + "\n").with_context(|| {
        format!("cannot write {}: give --json a file in a directory that exists", file.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_below_each_other() {
        let rows = [vec!["add".into(), "7".into()], vec!["remove".into(), "1234".into()]];
        assert_eq!(table(&["case", "ms"], &rows), "case      ms\nadd        7\nremove  1234\n");
    }
}
