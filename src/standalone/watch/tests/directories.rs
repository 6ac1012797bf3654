//! Directories that come late, go, or are replaced.

use super::*;

#[tokio::test]
async fn nothing_is_published_before_the_directory_is_there() {
    let dir = Dir::new();
    let mut watched = Watched::start(&dir.path("clusters"), FAST);
    watched.stays_quiet().await;
    fs::create_dir(dir.path("clusters")).expect("a directory");
    assert_eq!(watched.until(|_| true).await, DirectoryContents::default());
    dir.write("clusters/a.yaml", cluster("a"));
    watched.until_clusters(&["a.yaml a"]).await;
    watched.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_gone_removes_no_cluster() {
    let dir = Dir::new();
    dir.write("clusters/a.yaml", cluster("a"));
    dir.write("clusters/b.yaml", cluster("b"));
    let mut watched = Watched::start(&dir.path("clusters"), FAST);
    watched.until_clusters(&["a.yaml a", "b.yaml b"]).await;
    // Renamed, as if a volume were unmounted: if it were removed file by file, each file's removal
    // would be seen.
    fs::rename(dir.path("clusters"), dir.path("elsewhere")).expect("renamed");
    let report = watched.until_error("cannot be read: No such file or directory (os error 2): what was read before stays in force").await;
    assert_eq!(clusters(&report), ["a.yaml a", "b.yaml b"]);
    fs::create_dir(dir.path("clusters")).expect("a directory");
    let report = watched.until_error("is another directory than before and has no manifests").await;
    assert_eq!(clusters(&report), ["a.yaml a", "b.yaml b"]);
    dir.write("clusters/a.yaml", cluster("a2"));
    let report = watched.until_clusters(&["a.yaml a2"]).await;
    assert_eq!(errors(&report), [""; 0]);
    dir.write("clusters/a.yaml", cluster("a3"));
    watched.until_clusters(&["a.yaml a3"]).await;
    dir.remove("clusters/a.yaml");
    watched.until_clusters(&[]).await;
    watched.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_deleted_and_made_again_at_once_is_followed() {
    let dir = Dir::new();
    dir.write("clusters/a.yaml", cluster("a"));
    dir.write("clusters/b.yaml", cluster("b"));
    let mut watched = Watched::start(&dir.path("clusters"), FAST);
    watched.until_clusters(&["a.yaml a", "b.yaml b"]).await;
    fs::remove_dir_all(dir.path("clusters")).expect("removed");
    dir.write("clusters/a.yaml", cluster("a2"));
    watched.until_clusters(&["a.yaml a2"]).await;
    dir.write("clusters/a.yaml", cluster("a3"));
    watched.until_clusters(&["a.yaml a3"]).await;
    watched.stop().await;
}

#[tokio::test]
async fn a_directory_that_becomes_a_file_removes_no_cluster() {
    let dir = Dir::new();
    dir.write("clusters/a.yaml", cluster("a"));
    let mut watched = Watched::start(&dir.path("clusters"), FAST);
    watched.until_clusters(&["a.yaml a"]).await;
    fs::rename(dir.path("clusters"), dir.path("elsewhere")).expect("renamed");
    dir.write("clusters", "");
    assert_eq!(
        clusters(&watched.until_error("cannot be read: Not a directory").await),
        ["a.yaml a"]
    );
    watched.stop().await;
}

#[tokio::test]
async fn a_link_that_leads_to_another_directory_is_followed() {
    let dir = Dir::new();
    dir.write("one/a.yaml", cluster("a"));
    dir.write("two/b.yaml", cluster("b"));
    symlink("one", dir.path("current")).expect("a link");
    let mut watched = Watched::start(&dir.path("current"), FAST);
    watched.until_clusters(&["a.yaml a"]).await;
    symlink("two", dir.path("next")).expect("a link");
    fs::rename(dir.path("next"), dir.path("current")).expect("renamed");
    watched.until_clusters(&["b.yaml b"]).await;
    dir.write("two/b.yaml", cluster("b2"));
    watched.until_clusters(&["b.yaml b2"]).await;
    watched.stop().await;
}

/// The kubelet's way of updating a mounted ConfigMap: one link is replaced, and all files change at
/// once.
#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let dir = Dir::new();
    dir.write("..1/a.yaml", cluster("a"));
    dir.write("..1/b.yaml", cluster("b"));
    symlink("..1", dir.path("..data")).expect("a link");
    for name in ["a.yaml", "b.yaml"] {
        symlink(format!("..data/{name}"), dir.path(name)).expect("a link");
    }
    let mut watched = Watched::start(dir.0.path(), FAST);
    watched.until_clusters(&["a.yaml a", "b.yaml b"]).await;
    dir.write("..2/a.yaml", cluster("a2"));
    dir.write("..2/b.yaml", cluster("b2"));
    symlink("..2", dir.path("..data_tmp")).expect("a link");
    fs::rename(dir.path("..data_tmp"), dir.path("..data")).expect("renamed");
    fs::remove_dir_all(dir.path("..1")).expect("removed");
    let report = watched.until_clusters(&["a.yaml a2", "b.yaml b2"]).await;
    assert_eq!(errors(&report), [""; 0]);
    watched.stop().await;
}
