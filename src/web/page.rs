//! The page at `/`: the clusters, and what is wrong.

use atlas_core::text;
use atlas_core::validate::Severity;

use crate::web::status::{ClusterStatus, Status};

/// The page, in plain HTML without scripts or content from elsewhere. `path` is the path of
/// `--web-url`, the prefix of every link.
pub fn index(status: &Status, path: &str) -> String {
    let rows: String = status.clusters.iter().map(|cluster| row(cluster, path)).collect();
    let table = if status.clusters.is_empty() {
        "<p>There are no clusters yet. <code>atlas cluster-add</code> writes a manifest.</p>"
            .to_owned()
    } else {
        format!(
            "<table><tr><th>Cluster<th>Envoys<th>Stores<th>Address<th>Web UIs</tr>{rows}</table>"
        )
    };
    let mut problems = String::new();
    for problem in status.problems.iter().chain(&status.errors) {
        problems += &format!("<li>{}", escape(problem));
    }
    for finding in &status.findings {
        if finding.severity == Severity::Rejected {
            let (object, text) = (escape(&finding.object), escape(&finding.message()));
            problems += &format!("<li><b>{object}</b> {text}");
        }
    }
    if !problems.is_empty() {
        problems = format!("<h2>Problem</h2><ul>{problems}</ul>");
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <link rel=\"icon\" href=\"data:,\">\
         <title>Atlas</title><style>{STYLE}</style><h1>Atlas</h1>{table}{problems}\
         <footer>Atlas {} · <a href=\"{path}/api/v1/status\">status as JSON</a></footer></html>\n",
        escape(&status.version)
    )
}

const STYLE: &str = "\
body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd}\
.off{color:#a00}footer{margin-top:2rem;color:#666}";

fn row(cluster: &ClusterStatus, path: &str) -> String {
    let name = escape(&cluster.name);
    let connected = if cluster.connected == 0 {
        "<span class=\"off\">none connected</span>".to_owned()
    } else {
        cluster.connected.to_string()
    };
    let addresses = if cluster.addresses.is_empty() {
        "awaiting its address".into()
    } else {
        escape(&cluster.addresses.join(", "))
    };
    format!(
        "<tr><td>{name}<td>{connected}<td>{}<td>{addresses}<td>\
         <a href=\"{path}/prom/{name}/\">Prometheus</a> \
         <a href=\"{path}/alertmanager/{name}/\">Alertmanager</a></tr>",
        cluster.stores.len()
    )
}

/// Escapes text for HTML. Invisible characters are shown as their numbers.
fn escape(text: &str) -> String {
    text::line(text, text::LONGEST)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_of_people_is_escaped() {
        assert_eq!(super::escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        assert_eq!(super::escape("a\u{202e}\u{200b}"), "a\\u{202e}\\u{200b}");
    }
}
