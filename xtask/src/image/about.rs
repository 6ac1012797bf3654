//! An image's description, from `Cargo.toml` and the commit only, so that it doesn't depend on the
//! machine or the day of the build.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// Named after <https://github.com/opencontainers/image-spec/blob/main/annotations.md>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub title: String,
    pub version: String,
    pub description: String,
    /// SPDX expression.
    pub licence: String,
    /// Where the source is, if `Cargo.toml` says so.
    pub source: Option<String>,
    /// The commit, with `-dirty` appended if the tree differs from it; `None` without git.
    pub revision: Option<String>,
    /// The commit's time (RFC 3339), so that a second build has the same.
    pub created: String,
}

impl About {
    /// `root` is the checkout, `package` what `cargo metadata` has of `atlas`.
    ///
    /// # Errors
    /// There is neither `SOURCE_DATE_EPOCH` nor a commit, or its time is invalid.
    pub fn of(root: &Path, package: &Value) -> Result<Self> {
        let text = |key: &str| package[key].as_str().map(str::to_owned);
        let need =
            |key: &str| text(key).with_context(|| format!("Cargo.toml of atlas has no {key}"));
        let revision = git(root, &["rev-parse", "HEAD"]).ok();
        // Untracked files count too, since they are built.
        let dirty = revision.is_some() && !git(root, &["status", "--porcelain"])?.is_empty();
        Ok(Self {
            title: need("name")?,
            version: need("version")?,
            description: need("description")?,
            licence: need("license")?,
            source: text("repository"),
            revision: revision.map(|commit| if dirty { format!("{commit}-dirty") } else { commit }),
            created: created(root, std::env::var("SOURCE_DATE_EPOCH").ok())?,
        })
    }

    /// Labels of the image's configuration, and annotations of its manifest.
    pub fn labels(&self) -> Value {
        let known = [
            ("title", Some(&self.title)),
            ("version", Some(&self.version)),
            ("description", Some(&self.description)),
            ("licenses", Some(&self.licence)),
            ("source", self.source.as_ref()),
            ("revision", self.revision.as_ref()),
            ("created", Some(&self.created)),
        ];
        let known = known.into_iter().filter_map(|(key, value)| {
            Some((format!("org.opencontainers.image.{key}"), value?.clone().into()))
        });
        Value::Object(known.collect::<Map<_, _>>())
    }
}

/// See <https://reproducible-builds.org/specs/source-date-epoch/>.
fn created(root: &Path, epoch: Option<String>) -> Result<String> {
    let seconds = match epoch {
        Some(epoch) => epoch,
        None => git(root, &["log", "-1", "--format=%ct"])
            .context("no commit to take the image's time from: set SOURCE_DATE_EPOCH")?,
    };
    let time = seconds
        .parse()
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let time = time.filter(|time| *time < UNIX_EPOCH + Duration::from_secs(253_402_300_800));
    let time = time.with_context(|| {
        format!("SOURCE_DATE_EPOCH={seconds:?}: give seconds since 1970, e.g. 1767225600")
    })?;
    Ok(humantime::format_rfc3339_seconds(time).to_string())
}

/// One line that git prints.
fn git(root: &Path, args: &[&str]) -> Result<String> {
    let output =
        Command::new("git").arg("-C").arg(root).args(args).output().context("cannot start git")?;
    if !output.status.success() {
        bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_the_given_one_or_an_error_says_what_to_give() {
        let nowhere = tempfile::tempdir().unwrap();
        assert_eq!(
            created(nowhere.path(), Some("1795390064".into())).unwrap(),
            "2026-11-22T23:27:44Z"
        );
        for wrong in ["", "yesterday", "-1", "99999999999999999999", "253402300800"] {
            let error = format!("{:#}", created(nowhere.path(), Some(wrong.into())).unwrap_err());
            assert!(error.starts_with(&format!("SOURCE_DATE_EPOCH={wrong:?}")), "{error}");
        }
        let error = format!("{:#}", created(nowhere.path(), None).unwrap_err());
        assert!(error.contains("set SOURCE_DATE_EPOCH"), "{error}");
    }
}
