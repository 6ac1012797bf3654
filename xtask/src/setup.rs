//! `cargo xtask setup [PART…]`: gets the real programs that Atlas is tried with into the cache.

use std::path::{Path, PathBuf};
use std::{fs, iter};

use anyhow::{Context, Result};
use atlas_lab::parts::{self, Part};

/// Gets the named parts, or all if none is named, and prints a table of their paths.
///
/// # Errors
/// A name is unknown, a prerequisite is missing, or a download or build fails.
pub fn run(only: Vec<String>) -> Result<()> {
    let wanted = if only.is_empty() {
        Part::ALL.to_vec()
    } else {
        only.iter().map(|name| Part::from_name(name)).collect::<Result<Vec<_>>>()?
    };
    parts::get_all(&wanted)?;
    let rows =
        wanted.iter().map(|&part| row(part, &parts::get(part)?)).collect::<Result<Vec<_>>>()?;
    print!("{}", table(&rows));
    Ok(())
}

/// A part's row of the table.
struct Row {
    part: Part,
    megabytes: u64,
    program: PathBuf,
}

fn row(part: Part, program: &Path) -> Result<Row> {
    let file =
        fs::metadata(program).with_context(|| format!("cannot look at {}", program.display()))?;
    Ok(Row { part, megabytes: file.len().div_ceil(1_000_000), program: program.to_path_buf() })
}

fn table(rows: &[Row]) -> String {
    let line = |name: &str, version: &str, size: &str, path: &str| {
        format!("{name:<18}  {version:<14}  {size:>6}  {path}\n")
    };
    let head = line("PART", "VERSION", "SIZE", "PROGRAM");
    let body = rows.iter().map(|row| {
        let size = format!("{} MB", row.megabytes);
        line(row.part.name(), row.part.version(), &size, &row.program.to_string_lossy())
    });
    iter::once(head).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_per_part() {
        let rows = [Row { part: Part::Thanos, megabytes: 187, program: "/cache/thanos".into() }];
        let expected = "PART                VERSION           SIZE  PROGRAM\n\
                        thanos              0.42.0          187 MB  /cache/thanos\n";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn an_unknown_part_is_an_error_before_anything_is_fetched() {
        let error = run(vec!["envoi".to_string()]).unwrap_err().to_string();
        assert!(error.contains("\"envoi\"") && error.contains("envoy-oldest"), "{error}");
    }
}
