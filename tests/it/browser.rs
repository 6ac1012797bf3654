//! What a person sees: a real Chromium at the hub's pages, with the classic Prometheus, which has pages to look at.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::browser::{Answer, Browser};
use atlas_lab::parts::Part;
use atlas_lab::process::wait_until;
use atlas_lab::scene::{Scene, prove};
use atlas_lab::world_test;

use crate::atlas;

/// How long a page may take to show what its scripts fetch, with two cores for everything.
const DRAWN: Duration = Duration::from_secs(30);

/// Set to a directory, it gets the screenshots.
const SCREENSHOTS: &str = "ATLAS_SCREENSHOTS";

/// A browser, and where its pictures go.
struct Person<'a> {
    browser: Browser,
    dir: &'a Path,
}

impl Person<'_> {
    /// Takes a picture, also for whoever asked for it by [`SCREENSHOTS`].
    fn picture(&self, name: &str) -> Result<()> {
        let path = self.dir.join(format!("{name}.png"));
        self.browser.screenshot(&path)?;
        if let Some(dir) = std::env::var_os(SCREENSHOTS) {
            let copy = Path::new(&dir).join(format!("{name}.png"));
            std::fs::copy(&path, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        }
        Ok(())
    }

    /// Nothing failed since it was last asked, but for what `allowed` names; yields all answers.
    fn nothing_failed(&self, allowed: &[&str]) -> Result<Vec<Answer>> {
        let seen = self.browser.seen()?;
        let failed: Vec<_> = seen.errors.iter().filter(|error| !allowed.iter().any(|allowed| error.contains(allowed))).collect();
        ensure!(failed.is_empty(), "{} has failures: {failed:#?}", self.browser.url()?);
        Ok(seen.answers)
    }
}

/// A browser asks every site for an icon unless its page names one.
const ICON: &str = "/favicon.ico";

/// Atlas's page leads to a cluster's Prometheus, whose page works.
fn prometheus(person: &Person, scene: &Scene) -> Result<()> {
    let browser = &person.browser;
    browser.goto(&scene.hub.web_url("/"))?;
    assert_eq!(browser.title()?, "Atlas");
    assert!(browser.text()?.contains("tokyo") && browser.text()?.contains("paris"), "{}", browser.text()?);
    person.picture("atlas")?;
    person.nothing_failed(&[ICON])?;

    browser.click("a[href='/prom/tokyo/']")?;
    browser.wait_for("textarea[name=expr]", DRAWN)?;
    let url = browser.url()?;
    assert!(url.starts_with(&scene.hub.web_url("/prom/tokyo/")), "{url}");
    browser.type_into("textarea[name=expr]", "up\u{e007}")?;
    browser.wait_for("td.value", DRAWN)?;
    let rows = browser.texts("td.value")?;
    assert_eq!(rows, ["1"], "a Prometheus scrapes itself alone");
    Ok(())
}
