//! What a person sees: a real Chromium at the hub's pages. Here with the classic Prometheus, in
//! [`newest`] with Prometheus 3 and the newest Alertmanager.

mod newest;
mod readme;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::browser::{Answer, Browser};
use atlas_lab::parts::Part;
use atlas_lab::scene::{Hub, Scene, prove};
use atlas_lab::world_test;

use crate::atlas;

/// How long a page may take to show what its scripts fetch, with two cores for everything.
const DRAWN: Duration = Duration::from_secs(30);

/// Set to a directory, it gets the pictures.
const SCREENSHOTS: &str = "ATLAS_SCREENSHOTS";

/// The Escape key.
const ESCAPE: &str = "\u{e00c}";

/// Debian's Prometheus page loads Debian's popper.js as a script, which is a module: so it is on
/// Debian itself. Only tooltips need it.
const DEBIANS: &[&str] = &["popper.min.js", "tooltips require Popper"];

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
            std::fs::copy(&path, &copy)
                .with_context(|| format!("cannot write {}", copy.display()))?;
        }
        Ok(())
    }

    /// Nothing failed since it was last asked, but for what `allowed` names; yields all answers.
    fn nothing_failed(&self, allowed: &[&str]) -> Result<Vec<Answer>> {
        let seen = self.browser.seen()?;
        let failed: Vec<_> = seen
            .errors
            .iter()
            .filter(|error| !allowed.iter().any(|allowed| error.contains(allowed)))
            .collect();
        ensure!(failed.is_empty(), "{} has failures: {failed:#?}", self.browser.url()?);
        Ok(seen.answers)
    }

    /// [`Person::nothing_failed`], and all that was asked for, but what pages carry within them, is
    /// beneath `base`.
    fn all_beneath(&self, base: &str, allowed: &[&str]) -> Result<Vec<Answer>> {
        let answers = self.nothing_failed(allowed)?;
        let elsewhere = answers
            .iter()
            .find(|answer| !answer.url.starts_with(base) && !answer.url.starts_with("data:"));
        ensure!(elsewhere.is_none(), "{elsewhere:?} is not beneath {base}");
        Ok(answers)
    }

    /// Opens a page that answers with `status` and says `text`.
    fn refused(&self, url: &str, status: u16, text: &str) -> Result<()> {
        self.browser.goto(url)?;
        self.browser.wait_for_text(text, DRAWN)?;
        let answers = self.browser.seen()?.answers;
        ensure!(
            answers.iter().any(|answer| answer.url == url && answer.status == status),
            "{url} is not {status}: {answers:?}"
        );
        Ok(())
    }
}

/// Atlas's page, and from there to tokyo's Prometheus.
fn from_atlas_to_prometheus(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    browser.goto(&hub.web_url("/"))?;
    assert_eq!(browser.title()?, "Atlas");
    let text = browser.text()?;
    assert!(text.contains("tokyo") && text.contains("paris"), "{text}");
    person.picture("atlas")?;
    readme::picture(browser, "atlas", (1000, 290))?;
    person.nothing_failed(&[])?;
    browser.click("a[href='/prom/tokyo/']")?;
    browser.wait_for("textarea[name=expr]", DRAWN)
}

/// Tokyo's Prometheus, open already: a query as a table and as a graph, and the targets by its
/// menu.
fn prometheus(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    let base = hub.web_url("/prom/tokyo/");
    assert!(browser.url()?.starts_with(&base), "{}", browser.url()?);
    browser.type_into("textarea[name=expr]", "up")?;
    // Completions come a little later, and lie over the button.
    browser.wait_for("ul.typeahead li.active", DRAWN)?;
    browser.type_into("textarea[name=expr]", ESCAPE)?;
    browser.click("input.execute_btn")?;
    browser.wait_for_text("up{", DRAWN)?;
    let rows = browser.texts(".console_table tbody tr")?;
    let row = rows.first().context("no row")?;
    assert!(
        rows.len() == 1 && row.ends_with("\t1") && row.contains("job=\"prometheus\""),
        "{rows:?}"
    );
    let instance =
        row.split('"').find(|label| label.ends_with(":9090")).context("no instance")?.to_owned();
    person.picture("tokyo-prometheus")?;
    browser.click("a[href='#graph0']")?;
    browser.wait_for("#graph0 .graph_area svg path", DRAWN)?;
    // The links in its pages lead back through the hub, and to the same replica.
    browser.click("a.dropdown-toggle")?;
    browser.click("a[href='/prom/tokyo/classic/targets']")?;
    browser.wait_for_text("(1/1 up)", DRAWN)?;
    assert!(
        browser.text()?.contains(&instance),
        "another replica than {instance}: {}",
        browser.text()?
    );
    person.picture("tokyo-prometheus-targets")?;
    let answers = person.all_beneath(&base, DEBIANS)?;
    assert!(
        answers.iter().any(|answer| answer.url.starts_with(&format!("{base}api/v1/query_range?"))),
        "{answers:?}"
    );
    Ok(())
}

/// Paris's Alertmanager: its pages are drawn, and what they fetch comes through the hub.
fn alertmanager(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    let base = hub.web_url("/alertmanager/paris/");
    // As people type it, without the slash at its end.
    browser.goto(base.trim_end_matches('/'))?;
    browser.wait_for_text("No alert groups found", DRAWN)?;
    assert_eq!(browser.title()?, "Alertmanager");
    let text = browser.text()?;
    assert!(
        ["Silences", "Filter", "Group", "Receiver"].iter().all(|word| text.contains(word)),
        "{text}"
    );
    person.picture("paris-alertmanager")?;
    browser.click("a[href='#/status']")?;
    browser.wait_for_text(Part::Alertmanager.version(), DRAWN)?;
    person.picture("paris-alertmanager-status")?;
    let answers = person.all_beneath(&base, &[])?;
    for api in ["api/v2/alerts/groups?", "api/v2/receivers", "api/v2/status"] {
        assert!(
            answers.iter().any(|answer| answer.url.starts_with(&format!("{base}{api}"))),
            "no {api}: {answers:?}"
        );
    }
    Ok(())
}

/// Thanos Query: every store, and one query over all clusters.
fn thanos(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    browser.goto(&format!("{}/stores", hub.query.url()))?;
    browser.wait_for("tbody tr", DRAWN)?;
    let rows = browser.texts("tbody tr")?;
    assert_eq!(rows.len(), 4, "{rows:?}");
    for (cluster, n) in [("paris", 0), ("paris", 1), ("tokyo", 0), ("tokyo", 1)] {
        let name = format!("{cluster}-thanos-sidecar{n}.");
        let row = rows
            .iter()
            .find(|row| row.starts_with(&name))
            .with_context(|| format!("no {name} in {rows:?}"))?;
        let labels =
            [format!("cluster=\"{cluster}\""), format!("prometheus_replica=\"prometheus-{n}\"")];
        assert!(row.contains("UP") && labels.iter().all(|label| row.contains(label)), "{row}");
    }
    person.picture("thanos-stores")?;
    readme::picture(browser, "thanos-stores", (1280, 560))?;
    browser.goto(&format!(
        "{}/graph?g0.expr=count%20by%20(cluster)%20(up)&g0.tab=1",
        hub.query.url()
    ))?;
    browser.wait_for_text("{cluster=\"tokyo\"}", DRAWN)?;
    assert!(browser.text()?.contains("{cluster=\"paris\"}"), "{}", browser.text()?);
    person.picture("thanos-query")?;
    person.nothing_failed(&[]).map(drop)
}

world_test! {
    needs [Envoy, Thanos, PrometheusClassic, Alertmanager, CoreDns, Chromium, ChromeDriver],
    fn the_three_jobs_with_prometheus_2_and_the_pages_in_chromium(world) {
        let mut scene = Scene::start(world, atlas(), Part::PrometheusClassic)?;
        println!("{}", prove::stores(&mut scene)?);
        println!("{}", prove::query(&mut scene)?);
        for cluster in ["tokyo", "paris"] {
            println!("{}", prove::alert(&scene.hub, cluster)?);
            println!("{}", prove::web(&scene.hub, cluster)?);
        }
        let person = Person { browser: Browser::start(&scene.hub.place.host, "browser")?, dir: world.dir() };
        from_atlas_to_prometheus(&person, &scene.hub)?;
        prometheus(&person, &scene.hub)?;
        alertmanager(&person, &scene.hub)?;
        thanos(&person, &scene.hub)?;

        person.refused(&scene.hub.web_url("/prom/osaka/"), 404, "There is no such cluster")?;
        person.picture("no-such-cluster")?;
        scene.cluster("paris").envoy.process.kill()?;
        person.refused(&scene.hub.web_url("/prom/paris/"), 503, "can't be reached")?;
        person.picture("dead-cluster")?;
        person.refused(&scene.hub.web_url("/alertmanager/paris/"), 503, "can't be reached")?;
        // What is dead takes nothing else with it.
        person.browser.goto(&scene.hub.web_url("/alertmanager/tokyo/"))?;
        person.browser.wait_for_text("No alert groups found", DRAWN)?;
    }
}
