//! Prometheus 3's own pages and the newest Alertmanager's, through the hub.

use std::thread;

use anyhow::{Result, ensure};
use atlas_lab::http::Request;
use atlas_lab::parts::Part;
use atlas_lab::process::wait_until;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, prove};
use serde_json::json;

use super::*;

/// Where Prometheus 3 takes a query.
const EXPRESSION: &str = ".cm-content";

/// Longer than the 5 s after which Prometheus 3's pages ask again for notifications when their
/// stream ends.
const STREAM_ASKED_AGAIN: Duration = Duration::from_secs(8);

impl Person<'_> {
    /// Chooses from the menu "Status", which is called by the page that it led to last.
    fn status_menu(&self, item: &str) -> Result<()> {
        self.browser.click("button[aria-haspopup=menu], a[aria-haspopup=menu]")?;
        self.browser.wait_for("[role=menuitem]", DRAWN)?;
        self.browser.click_text("[role=menuitem]", item)
    }
}

/// Tokyo's Prometheus: a query as a table and as a graph.
fn query(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    let base = hub.web_url("/prom/tokyo/");
    // As people type it, without the slash at its end.
    browser.goto(base.trim_end_matches('/'))?;
    browser.wait_for(EXPRESSION, DRAWN)?;
    assert_eq!(browser.url()?, format!("{base}query"));
    browser.type_into(EXPRESSION, "up")?;
    // Completions come a little later, and lie over the tabs.
    browser.wait_for(".cm-tooltip-autocomplete", DRAWN)?;
    browser.type_into(EXPRESSION, ESCAPE)?;
    browser.click_text("button", "Execute")?;
    browser.wait_for_text("job=\"prometheus\"", DRAWN)?;
    let rows = browser.texts("tbody tr")?;
    assert!(
        rows.len() == 1 && rows[0].starts_with("up{") && rows[0].trim_end().ends_with('1'),
        "{rows:?}"
    );
    person.picture("tokyo-prometheus-3")?;
    browser.click_text("[role=tab]", "Graph")?;
    // A graph of an hour has a point every 14 s, and a cluster that has just started nothing to
    // show at the first of them.
    wait_until("a graph", DRAWN, || {
        browser.click_text("button", "Execute")?;
        Ok(browser.exists(".uplot canvas")?.then_some(()))
    })?;
    person.picture("tokyo-prometheus-3-graph")?;
    let answers = person.all_beneath(&base, &[])?;
    for api in
        ["api/v1/query?query=up&", "api/v1/query_range?query=up&", "api/v1/notifications/live"]
    {
        assert!(
            answers.iter().any(|answer| answer.url.starts_with(&format!("{base}{api}"))),
            "no {api}: {answers:?}"
        );
    }
    Ok(())
}

/// By its menus from there: alerts, from one of them to its expression in another tab, targets,
/// rules.
fn alerts_targets_rules(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    let base = hub.web_url("/prom/tokyo/");
    browser.click_text("a", "Alerts")?;
    browser.wait_for_text("Watchdog", DRAWN)?;
    person.picture("tokyo-prometheus-3-alerts")?;
    assert_eq!(browser.url()?, format!("{base}alerts"));
    browser.click(".mantine-Accordion-control")?;
    browser.wait_for_text("alerts arrive", DRAWN)?;
    browser.click(".mantine-Accordion-panel button")?;
    browser.to_new_tab()?;
    expression_of_the_alert(person, &base)?;
    person.status_menu("Target health")?;
    browser.wait_for_text("1 / 1 up", DRAWN)?;
    person.picture("tokyo-prometheus-3-targets")?;
    assert_eq!(browser.url()?, format!("{base}targets"));
    person.status_menu("Rule health")?;
    browser.wait_for_text("Watchdog", DRAWN)?;
    browser.wait_for_text("every 1s", DRAWN)?;
    person.picture("tokyo-prometheus-3-rules")?;
    assert_eq!(browser.url()?, format!("{base}rules"));
    person.all_beneath(&base, &[]).map(drop)
}

/// From an alert at one of the hub's Alertmanagers to the Prometheus that sent it.
fn link_in_an_alert(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    browser.goto(hub.alertmanagers[0].url())?;
    browser.wait_for_text("cluster=\"tokyo\"", DRAWN)?;
    person.nothing_failed(&[])?;
    browser.click_text("a", "Source")?;
    let base = hub.web_url("/prom/tokyo/");
    expression_of_the_alert(person, &base)?;
    person.picture("tokyo-prometheus-3-source")?;
    person.all_beneath(&base, &[])?;
    // Nobody asks again for notifications, nor says that the connection is gone.
    thread::sleep(STREAM_ASKED_AGAIN);
    assert_eq!(person.all_beneath(&base, &[])?, []);
    Ok(())
}

/// The page of the Watchdog's expression, with its value.
fn expression_of_the_alert(person: &Person, base: &str) -> Result<()> {
    let browser = &person.browser;
    browser.wait_for(EXPRESSION, DRAWN)?;
    let url = browser.url()?;
    ensure!(
        url.starts_with(&format!("{base}query?g0.expr=vector")),
        "{url} is not the page of the alert's expression"
    );
    browser.wait_for("tbody tr", DRAWN)?;
    let rows = browser.texts("tbody tr")?;
    ensure!(rows.len() == 1 && rows[0].trim_end().ends_with('1'), "{rows:?}");
    Ok(())
}

/// Tokyo's Alertmanager: its new pages, and what a script in them asks for from the root.
fn alertmanager(person: &Person, hub: &Hub) -> Result<()> {
    let browser = &person.browser;
    let base = hub.web_url("/alertmanager/tokyo/");
    browser.goto(&format!("{base}ui"))?;
    browser.wait_for_text("Alerts List", DRAWN)?;
    assert_eq!(browser.url()?, format!("{base}ui/#/alerts"));
    person.status_menu("Runtime & Build Information")?;
    browser.wait_for_text(Part::AlertmanagerNewest.version(), DRAWN)?;
    person.picture("tokyo-alertmanager-newest")?;
    person.status_menu("Configuration")?;
    browser.wait_for_text("receiver: nobody", DRAWN)?;
    // A browser asks for its icon at the root.
    let answers = person.nothing_failed(&[])?;
    assert!(
        answers
            .iter()
            .all(|one| one.url.starts_with(&base) || one.url == hub.web_url("/favicon.ico")),
        "{answers:?}"
    );
    assert!(
        answers.iter().any(|answer| answer.url.contains("status.v3alpha.StatusService/GetStatus")),
        "{answers:?}"
    );

    let script = "return fetch('/api/v2/status').then(async answer => [answer.url, (await answer.json()).versionInfo.version])";
    assert_eq!(
        browser.evaluate(script)?,
        json!([format!("{base}api/v2/status"), Part::AlertmanagerNewest.version()])
    );
    let silence = json!({
        "matchers": [{"name": "alertname", "value": "Watchdog", "isRegex": false, "isEqual": true}],
        "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2100-01-01T00:00:00Z", "createdBy": "somebody", "comment": "from the root",
    });
    let script = format!(
        "return fetch('/api/v2/silences', {{method: 'POST', headers: {{'content-type': 'application/json'}}, body: {}}})\
         .then(answer => answer.status)",
        json!(silence.to_string())
    );
    assert_eq!(browser.evaluate(&script)?, json!(200));
    let script = "return fetch('/api/v2/silences').then(answer => answer.json())";
    assert_eq!(browser.evaluate(script)?[0]["comment"], "from the root");
    person.all_beneath(&base, &[]).map(drop)
}

/// What is asked for at the root goes to no cluster by itself: a browser is sent to where the page
/// that asks belongs.
fn root(hub: &Hub) -> Result<()> {
    let asked = |path: &str, referer: &str| -> Result<(u16, Option<String>)> {
        let request = Request::new("GET", hub.web_url(path))?.header("referer", referer);
        let answer = hub.place.host.within(|| request.send())?;
        Ok((answer.status, answer.header("location").map(str::to_owned)))
    };
    let sent = |to: &str| (307, Some(to.to_owned()));
    assert_eq!(
        asked("/api/v2/status?a=b", "http://hub/alertmanager/tokyo/")?,
        sent("/alertmanager/tokyo/api/v2/status?a=b")
    );
    assert_eq!(
        asked("/api/v2/x/../alerts", "https://hub/alertmanager/osaka/ui/x")?,
        sent("/alertmanager/osaka/api/v2/alerts")
    );
    let behind = "https://tools.example.com/observability/alertmanager/tokyo/ui/";
    assert_eq!(
        asked("/api/v2/status", behind)?,
        sent("/observability/alertmanager/tokyo/api/v2/status")
    );
    for referer in [
        "",
        "http://hub/",
        "http://hub/prom/tokyo/",
        "http://hub/alertmanager/",
        "http://hub/alertmanager/TOKYO/",
        "http://hub/alertmanager/tokyo",
        "http://hub//evil.example/alertmanager/tokyo/",
        "http://hub/x//evil.example/alertmanager/tokyo/",
        "/alertmanager/tokyo/",
        "http://hub/?x=/alertmanager/tokyo/",
        "http://hub/%2fevil/alertmanager/tokyo/",
        "http://hub/\\evil/alertmanager/tokyo/",
        "javascript://x/alertmanager/tokyo/",
    ] {
        assert_eq!(asked("/api/v2/status", referer)?, (404, None), "{referer}");
    }
    assert_eq!(hub.web("/favicon.ico")?.status, 204);
    let text = hub.web("/api/v2/status")?.text();
    assert!(text.contains("/alertmanager/CLUSTER/api/v2/"), "{text}");
    Ok(())
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, AlertmanagerNewest, CoreDns, Chromium, ChromeDriver],
    fn the_pages_of_prometheus_3_and_of_the_newest_alertmanager_in_chromium(world) {
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas()))?;
        let options = ClusterOptions { alertmanager: Part::AlertmanagerNewest, ..ClusterOptions::new("tokyo") };
        let tokyo = Cluster::start(Place::in_world(world, "tokyo")?, &mut hub, options)?;
        let mut scene = Scene { hub, clusters: vec![tokyo] };
        println!("{}", prove::stores(&mut scene)?);
        println!("{}", prove::alert(&scene.hub, "tokyo")?);
        let hub = &scene.hub;
        root(hub)?;
        let person = Person { browser: Browser::start(&hub.place.host, "browser")?, dir: world.dir() };
        query(&person, hub)?;
        alerts_targets_rules(&person, hub)?;
        link_in_an_alert(&person, hub)?;
        alertmanager(&person, hub)?;
    }
}
