//! Files that are incomplete: they are being written, quickly or slowly.

use std::fs::File;
use std::io::Write;

use super::quiet::Reader;
use super::*;

/// Longer than any test.
pub(super) const FOR_EVER: Duration = Duration::from_secs(1000);

/// A text that says less, or may be cut short, never takes effect by waiting. What is there at the
/// start does.
const WAITS_FOR_EVER: WatchTiming =
    WatchTiming { quiet: QuietPeriods { usual: Duration::ZERO, if_less: FOR_EVER }, ..FAST };

fn service(name: &str, address: &str) -> String {
    format!("---\n{}spec:\n  externalIPs:\n  - {address}\n", cluster(name))
}

/// Ten clusters in one file.
pub(super) fn fleet(last: &str) -> String {
    (0..10).map(|n| service(&format!("c{n}"), if n == 9 { last } else { "203.0.113.7" })).collect()
}

/// The addresses of all clusters.
fn addresses(report: &DirectoryContents) -> Vec<String> {
    let of = |manifest: &Manifest| {
        if let Manifest::Service(service) = manifest {
            service.external_ips.clone()
        } else {
            Vec::new()
        }
    };
    report.manifests.iter().flat_map(of).collect()
}

/// Checks that there are ten clusters, the last one with this address.
#[track_caller]
pub(super) fn check(report: &DirectoryContents, last: &str) {
    assert_eq!(
        (report.manifests.len(), addresses(report).last().map(String::as_str)),
        (10, Some(last)),
        "{:?}",
        errors(report)
    );
}

/// A watch on a directory with ten clusters.
async fn ten(dir: &Dir, timing: WatchTiming) -> Watched {
    dir.write("all.yaml", fleet("203.0.113.120"));
    let mut watched = Watched::start(dir.0.path(), timing);
    watched.until(|report| report.manifests.len() == 10).await;
    watched
}

impl Watched {
    fn now(&self) -> DirectoryContents {
        self.reports.borrow().clone().expect("a report")
    }

    async fn until_valid(&mut self) -> DirectoryContents {
        self.until(|report| report.errors.is_empty()).await
    }
}

#[tokio::test]
async fn an_open_file_takes_effect_once_it_is_closed() {
    let dir = Dir::new();
    // There is no quiet period and there are many rescans: only closing the file lets it take
    // effect.
    let mut watched = ten(
        &dir,
        WatchTiming {
            quiet: QuietPeriods::NONE,
            rescan: Duration::from_millis(50),
            ..WAITS_FOR_EVER
        },
    )
    .await;
    let text = fleet("203.0.113.123");
    // Cut somewhere, between two documents, and within the last value.
    for end in [
        text.len() / 2,
        text.find("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: c5")
            .expect("it is there"),
        text.len() - 3,
    ] {
        dir.write("all.yaml", fleet("203.0.113.120"));
        watched
            .until(|report| addresses(report).last().is_some_and(|last| last == "203.0.113.120"))
            .await;
        let mut file = File::create(dir.path("all.yaml")).expect("a file");
        for part in [&text.as_bytes()[..end / 2], &text.as_bytes()[end / 2..end]] {
            file.write_all(part).expect("written");
            check(
                &watched.until_error("all.yaml: is open, and being written: it counts once it is closed: what was").await,
                "203.0.113.120",
            );
            tokio::time::sleep(Duration::from_millis(150)).await;
            check(&watched.now(), "203.0.113.120");
        }
        file.write_all(&text.as_bytes()[end..]).expect("written");
        drop(file);
        check(
            &watched
                .until(|report| {
                    addresses(report).last().is_some_and(|last| last != "203.0.113.120")
                })
                .await,
            "203.0.113.123",
        );
    }
    watched.stop().await;
}

#[tokio::test]
async fn appending_to_a_file_never_makes_the_fleet_smaller() {
    let dir = Dir::new();
    let mut watched = ten(&dir, WAITS_FOR_EVER).await;
    let text = fleet("203.0.113.123");
    let mut written = 0;
    let mut append = |end: usize| {
        let mut file = File::options().append(true).open(dir.path("all.yaml")).expect("a file");
        file.write_all(&text.as_bytes()[written..end]).expect("written");
        written = end;
    };
    dir.write("all.yaml", "");
    watched.until_error("is empty").await;
    for n in 1..10 {
        append(text.find(&format!("  name: c{n}")).expect("it is there"));
        tokio::time::sleep(Duration::from_millis(30)).await;
        check(&watched.now(), "203.0.113.120");
    }
    append(text.len());
    check(&watched.until_valid().await, "203.0.113.123");
    watched.stop().await;
}

#[tokio::test]
async fn a_cluster_cut_out_of_a_file_goes_after_the_quiet_period() {
    let dir = Dir::new();
    dir.write("all.yaml", format!("{}{}", service("a", "192.0.2.1"), service("b", "192.0.2.2")));
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["all.yaml a", "all.yaml b"]).await;
    let mut reader = Reader::waiting_for_ever(dir.0.path());
    dir.write("all.yaml", service("a", "192.0.2.9"));
    reader.read_closed("all.yaml");
    assert_eq!(reader.clusters(), ["all.yaml a", "all.yaml b"]);
    let told = "all.yaml: no longer says Service b: that counts once nobody has changed it for 1000 s, or a file is moved into its place";
    assert!(reader.errors()[0].starts_with(told), "{:?}", reader.errors());
    // Only time passes.
    let report = watched.until_clusters(&["all.yaml a"]).await;
    assert_eq!((errors(&report), addresses(&report)), (vec![], vec!["192.0.2.9".to_owned()]));
    watched.stop().await;
}

#[tokio::test]
async fn a_file_that_is_moved_into_place_takes_effect_at_once() {
    let dir = Dir::new();
    let mut watched = ten(&dir, WAITS_FOR_EVER).await;
    dir.write(".all.yaml.new", cluster("c3").trim_end());
    fs::rename(dir.path(".all.yaml.new"), dir.path("all.yaml")).expect("renamed");
    let report = watched.until_clusters(&["all.yaml c3"]).await;
    assert_eq!(errors(&report), [""; 0]);
    watched.stop().await;
}

#[tokio::test]
async fn an_open_file_that_is_moved_into_place_waits_until_it_is_closed() {
    let dir = Dir::new();
    let mut watched = ten(&dir, WAITS_FOR_EVER).await;
    let text = fleet("203.0.113.123");
    let mut file = File::create(dir.path(".all.yaml.new")).expect("a file");
    file.write_all(&text.as_bytes()[..text.len() / 2]).expect("written");
    fs::rename(dir.path(".all.yaml.new"), dir.path("all.yaml")).expect("renamed");
    check(&watched.until_error("all.yaml: is open, and being written").await, "203.0.113.120");
    file.write_all(&text.as_bytes()[text.len() / 2..]).expect("written");
    drop(file);
    check(&watched.until_valid().await, "203.0.113.123");
    watched.stop().await;
}
