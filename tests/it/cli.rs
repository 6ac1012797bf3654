//! The command line, as people and scripts use it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use atlas_lab::process::{Proc, wait_until};

use crate::atlas;

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with `clusters` and, once Atlas has run, `state`.
struct Desk {
    dir: tempfile::TempDir,
}

/// How a command ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Fails unless the exit code is the expected one.
    #[track_caller]
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn complaining_of(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in:\n{}", self.err);
        }
        self
    }
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("clusters")).unwrap();
        Self { dir }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(atlas());
        command.args(line.split(' ')).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command
    }

    /// Runs a command, its words separated by blanks.
    fn atlas(&self, line: &str) -> Ended {
        Ended::of(self.command(line).output().unwrap())
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        fs::write(self.path(relative), text).unwrap();
    }

    fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap_or_default()
    }

    fn files(&self, relative: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(relative)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Starts Atlas, and waits until it has issued the credentials of these clusters.
    fn run(&self, clusters: &[&str]) -> Proc {
        let [xds, metrics, web] = free_ports();
        let line = format!(
            "run --from clusters --state state --xds-port {xds} --metrics-port {metrics} --web-port {web} --dns-port 0"
        );
        let process = Proc::spawn("atlas", self.dir.path(), &self.command(&line)).unwrap();
        let issued = || {
            Ok(clusters
                .iter()
                .all(|name| self.has_credential(name) && self.lists(name))
                .then_some(()))
        };
        wait_until("credentials are issued", PATIENCE, issued)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", process.log()));
        process
    }

    /// Whether a running Atlas has the cluster.
    fn lists(&self, name: &str) -> bool {
        self.atlas("status --state state -o json").out.contains(&format!("\"name\": \"{name}\""))
    }

    fn has_credential(&self, name: &str) -> bool {
        let list = fs::read_to_string(self.path(&format!("state/pki/issued/{name}.json")))
            .unwrap_or_default();
        list.contains(&format!("\"cluster\": \"{name}\""))
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

const WRONG: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: osaka
  labels:
    goatlas.io/cluster: \"true\"
    goatlas.io/replicas: two
";

#[test]
fn a_cluster_is_added_listed_translated_and_removed() {
    let desk = Desk::new();
    let added = desk.atlas("cluster-add tokyo --from clusters --address tokyo.example.com --replicas 2 --prometheus-name k8s").with(0);
    assert_eq!(added.out, "clusters/tokyo.yaml\n");
    assert!(added.err.contains("atlas bootstrap tokyo"), "{}", added.err);
    desk.atlas("cluster-add --name paris --from clusters --external-ip 192.0.2.7,2001:db8::7")
        .with(0);

    let listed = desk.atlas("cluster-list --from clusters").with(0);
    assert_eq!(
        listed.out,
        "CLUSTER  STORES  ADDRESSES\n\
         paris    1       192.0.2.7:11901,[2001:db8::7]:11901\n\
         tokyo    2       tokyo.example.com:11901\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&desk.atlas("cluster-list --from clusters -o json").with(0).out)
            .unwrap();
    assert_eq!(json["clusters"][1]["stores"][1]["name"], "tokyo-thanos-sidecar1");
    assert_eq!(json["clusters"][1]["stores"][1]["exact"], true);

    let all = desk
        .atlas("translate -f clusters --hub-address hub.example.com --hub-store-address 192.0.2.1")
        .with(0)
        .out;
    for head in [
        "node hub: CDS",
        "node hub: LDS",
        "node hub: bootstrap",
        "node paris: RDS",
        "node tokyo: SDS",
        "endpoints.yaml",
        "atlas.zone",
    ] {
        assert!(all.contains(&format!("---\n# {head}")), "{head}");
    }
    assert!(all.contains("prometheus-k8s-1.prometheus-operated.monitoring.svc.cluster.local"));
    assert!(
        all.contains("HttpConnectionManager") && !all.contains("base64:"),
        "nested types are decoded"
    );

    let removed = desk.atlas("cluster-remove tokyo --from clusters --state state").with(0);
    assert_eq!(removed.out, "deleted clusters/tokyo.yaml\n");
    removed.complaining_of(&["no credential of tokyo"]);
    assert_eq!(desk.files("clusters"), ["paris.yaml"]);
    assert_eq!(desk.files("state"), [""; 0]);
}

#[test]
fn private_keys_are_redacted_in_a_translation() {
    let desk = Desk::new();
    desk.atlas("cluster-add tokyo --from clusters --address tokyo.example.com").with(0);
    let secrets = desk.atlas("translate -f clusters --what secrets").with(0).out;
    let keys: Vec<&str> =
        secrets.lines().skip_while(|line| !line.contains("private_key:")).take(2).collect();
    assert!(keys.concat().contains("[redacted]"), "{secrets}");
    assert!(secrets.contains("[issued at run time]"), "{secrets}");
}

#[test]
fn a_translation_shows_what_is_asked_for() {
    let desk = Desk::new();
    let heads = |arguments: &str| -> Vec<String> {
        let out = desk.atlas(&format!("translate -f clusters {arguments}")).with(0).out;
        out.split("---\n")
            .filter_map(|document| document.strip_prefix("# ")?.lines().next().map(str::to_owned))
            .collect()
    };
    desk.atlas("cluster-add tokyo --from clusters --address tokyo.example.com").with(0);
    assert_eq!(
        heads("--node tokyo --what routes,clusters"),
        ["node tokyo: CDS", "node tokyo: RDS"]
    );
    assert_eq!(heads("--what zone"), ["atlas.zone: the DNS zone, as a master file"]);
    assert_eq!(heads("--node hub --hub-address h").len(), 5);
    desk.atlas("translate -f clusters --node rome")
        .with(1)
        .complaining_of(&["no node rome", "hub, tokyo"]);
    desk.atlas("translate -f missing.yaml").with(1).complaining_of(&["missing.yaml"]);
    desk.atlas("translate -f clusters --hub-address http://h")
        .with(2)
        .complaining_of(&["--hub-address", "http://h"]);
}

#[test]
fn a_dry_run_can_be_piped_into_a_translation() {
    let desk = Desk::new();
    let dry = desk
        .atlas("cluster-add tokyo --from nowhere --address tokyo.example.com --dry-run")
        .with(0);
    assert!(dry.out.starts_with("apiVersion: v1\nkind: Service\n"), "{}", dry.out);
    assert!(!desk.path("nowhere").exists(), "a dry run writes nothing");
    desk.write("tokyo.yaml", &dry.out);
    let mut command = desk.command("translate -f - --what endpoints");
    command.stdin(fs::File::open(desk.path("tokyo.yaml")).unwrap());
    let endpoints = Ended::of(command.output().unwrap()).with(0).out;
    assert!(endpoints.contains("tokyo-thanos-sidecar0.sidecars.thanos.atlas:10901"), "{endpoints}");
}

#[test]
fn what_would_be_rejected_is_not_written() {
    let desk = Desk::new();
    let local = "cluster-add tokyo --from clusters --address 127.0.0.1:1";
    desk.atlas(local).with(1).complaining_of(&[
        "goatlas.io/addresses",
        "127.0.0.1:1",
        "--allow-local-addresses",
    ]);
    let annotation = "cluster-add tokyo --from clusters --annotation goatlas.io/connect=reverse";
    desk.atlas(annotation).with(1).complaining_of(&["goatlas.io/connect", "write `direct`"]);
    assert_eq!(desk.files("clusters"), [""; 0]);
    desk.atlas(&format!("{local} --allow-local-addresses")).with(0);
    assert!(desk.read("clusters/tokyo.yaml").contains("127.0.0.1:1"));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let desk = Desk::new();
    let wrong = [
        ("cluster-add --from clusters", "NAME"),
        ("cluster-add Tokyo --from clusters", "lower-case letters"),
        ("cluster-add tokyo --from clusters --chart x", "--chart"),
        ("cluster-add tokyo --name paris --from clusters", "two names"),
        ("cluster-add tokyo --from clusters --address http://x", "http://x"),
        ("cluster-add tokyo --from clusters --external-ip 10.0.0.300", "10.0.0.300"),
        ("cluster-add tokyo --from clusters --replicas 0", "1..=100"),
        ("cluster-add tokyo --from clusters --annotation key", "KEY=VALUE"),
        (
            "cluster-add tokyo --from clusters --prometheus-name a --annotation goatlas.io/prometheus-name=b",
            "given twice",
        ),
        ("cluster-remove tokyo --from clusters", "--state"),
        ("cluster-remove tokyo --state state", "--from"),
        ("cluster-values tokyo --prometheus --format secret", "--format"),
        ("cluster-values hub --prometheus --state state", "none for the hub"),
        ("bootstrap tokyo", "--out"),
        ("translate", "--file"),
        ("translate -f clusters --what nothing", "nothing"),
        ("completions tcsh", "tcsh"),
        ("cluster-ad", "cluster-add"),
    ];
    for (line, word) in wrong {
        desk.atlas(line).with(2).complaining_of(&[word]);
    }
    assert_eq!(desk.files("clusters"), [""; 0]);
}

#[test]
fn mistakes_are_named_by_file_line_and_key_and_spoil_nothing_else() {
    let desk = Desk::new();
    desk.atlas("cluster-add tokyo --from clusters --address tokyo.example.com").with(0);
    desk.write("clusters/osaka.yaml", WRONG);
    desk.write("clusters/broken.yaml", "kind: Service\n\tmetadata:\n");
    for line in ["cluster-list --from clusters", "translate -f clusters --what endpoints"] {
        let ended = desk.atlas(line).with(3).complaining_of(&[
            "osaka.yaml:7",
            "goatlas.io/replicas",
            "two",
            "broken.yaml:2",
        ]);
        assert!(ended.out.contains("tokyo"), "{}", ended.out);
    }
    // Either of them may hold the cluster that is added, and another may be removed.
    desk.atlas("cluster-add rome --from clusters").with(3).complaining_of(&["broken.yaml:2"]);
    desk.atlas("cluster-add broken --from clusters --overwrite")
        .with(1)
        .complaining_of(&["broken.yaml:2"]);
    desk.atlas("cluster-remove lost --from clusters --state state")
        .with(1)
        .complaining_of(&["broken.yaml:2"]);
    desk.atlas("cluster-remove osaka --from clusters --state state").with(3);
    assert_eq!(desk.files("clusters"), ["broken.yaml", "rome.yaml", "tokyo.yaml"]);
}

#[test]
fn a_cluster_is_replaced_only_when_asked_and_its_neighbours_stay() {
    let desk = Desk::new();
    let paris = "# by hand\napiVersion: v1\nkind: Service\nmetadata:\n  name: paris\n  labels: {goatlas.io/cluster: \"true\"}\n";
    desk.write("clusters/both.yaml", &format!("{WRONG}---\n{paris}").replace("two", "\"2\""));
    let add = "cluster-add osaka --from clusters --address osaka.example.com";
    desk.atlas(add).with(1).complaining_of(&["clusters/both.yaml:4", "--overwrite"]);
    assert_eq!(desk.atlas(&format!("{add} --overwrite")).with(0).out, "clusters/both.yaml\n");
    let text = desk.read("clusters/both.yaml");
    assert!(
        text.starts_with(&format!("---\n{paris}---\napiVersion"))
            && text.contains("osaka.example.com"),
        "{text}"
    );

    let remove = "cluster-remove osaka --from clusters --state state";
    assert_eq!(
        desk.atlas(&format!("{remove} --dry-run")).with(0).out,
        "would have removed osaka from clusters/both.yaml\n"
    );
    assert_eq!(desk.read("clusters/both.yaml"), text);
    assert_eq!(desk.atlas(remove).with(0).out, "removed osaka from clusters/both.yaml\n");
    assert_eq!(desk.read("clusters/both.yaml"), format!("---\n{paris}"));
    desk.atlas(remove).with(1).complaining_of(&["no cluster osaka", "paris"]);
}

#[test]
fn every_copy_of_a_removed_cluster_goes() {
    let desk = Desk::new();
    for file in ["a.yaml", "b.yaml"] {
        desk.write(&format!("clusters/{file}"), WRONG);
    }
    desk.atlas("cluster-remove osaka --from clusters --state state").with(0);
    assert_eq!(desk.files("clusters"), [""; 0]);
}

#[test]
fn a_variable_stands_for_a_flag_and_a_flag_wins() {
    let desk = Desk::new();
    let run = |line: &str, variables: &[(&str, &str)]| {
        Ended::of(desk.command(line).envs(variables.iter().copied()).output().unwrap()).with(0).out
    };
    let variables = [
        ("ATLAS_FROM", "clusters"),
        ("ATLAS_ADDRESS", "a.example.com,b.example.com:1"),
        ("ATLAS_NAME", "tokyo"),
    ];
    assert_eq!(run("cluster-add", &variables), "clusters/tokyo.yaml\n");
    assert_eq!(
        run("cluster-add paris --address c.example.com", &variables),
        "clusters/paris.yaml\n"
    );
    let listed = run("cluster-list", &[("ATLAS_FROM", "clusters"), ("ATLAS_OUTPUT", "json")]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["clusters"][0]["addresses"], serde_json::json!(["c.example.com:11901"]));
    assert_eq!(
        listed["clusters"][1]["addresses"],
        serde_json::json!(["a.example.com:11901", "b.example.com:1"])
    );
    run(
        "cluster-remove",
        &[
            ("ATLAS_FROM", "clusters"),
            ("ATLAS_STATE", "state"),
            ("ATLAS_NAME", "tokyo"),
            ("ATLAS_DRY_RUN", "1"),
        ],
    );
    assert_eq!(desk.files("clusters"), ["paris.yaml", "tokyo.yaml"]);
}

#[test]
fn completions_know_every_command() {
    let desk = Desk::new();
    let commands = [
        "run",
        "bootstrap",
        "status",
        "cluster-add",
        "cluster-list",
        "cluster-remove",
        "cluster-values",
        "translate",
        "completions",
    ];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.atlas(&format!("completions {shell}")).with(0).out;
        for command in commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    for command in commands {
        let help = desk.atlas(&format!("{command} --help")).with(0).out;
        assert!(!command.starts_with("cluster") || help.contains("Example:"), "{help}");
    }
}

#[test]
fn a_cluster_removed_while_no_atlas_runs_is_forgotten() {
    let desk = Desk::new();
    for name in ["tokyo", "paris"] {
        desk.atlas(&format!("cluster-add {name} --from clusters --address {name}.example.com"))
            .with(0);
    }
    drop(desk.run(&["tokyo", "paris"]));
    let remove = "cluster-remove tokyo --from clusters --state state";
    let before = desk.read("state/pki/issued/tokyo.json");
    let dry = desk.atlas(&format!("{remove} --dry-run")).with(0).out;
    assert_eq!(
        dry,
        "would have deleted clusters/tokyo.yaml\nwould have forgotten the credential of tokyo\n"
    );
    assert_eq!(desk.read("state/pki/issued/tokyo.json"), before);

    assert_eq!(
        desk.atlas(remove).with(0).out,
        "deleted clusters/tokyo.yaml\nforgot the credential of tokyo\n"
    );
    assert!(!desk.has_credential("tokyo") && desk.has_credential("paris"));
    assert!(!Path::new(&desk.path("state/nodes/tokyo")).exists());
    desk.atlas(remove).with(1).complaining_of(&["no cluster tokyo", "paris"]);

    fs::remove_file(desk.path("clusters/paris.yaml")).unwrap();
    desk.atlas("cluster-remove paris --from clusters --state state")
        .with(0)
        .complaining_of(&["no manifest of paris"]);
    assert!(!desk.has_credential("paris"));
}

#[test]
fn a_cluster_removed_while_an_atlas_runs_is_forgotten_by_it() {
    let desk = Desk::new();
    for name in ["tokyo", "paris"] {
        desk.atlas(&format!("cluster-add {name} --from clusters --address {name}.example.com"))
            .with(0);
    }
    let _atlas = desk.run(&["tokyo", "paris"]);
    let removed = desk.atlas("cluster-remove tokyo --from clusters --state state").with(0).out;
    assert_eq!(removed, "deleted clusters/tokyo.yaml\nforgot the credential of tokyo\n");
    assert!(!desk.has_credential("tokyo") && desk.has_credential("paris"));
    assert!(!desk.lists("tokyo") && desk.lists("paris"));
    assert_eq!(desk.files("clusters"), ["paris.yaml"]);
    // It doesn't come back with the next reconcile, and a new cluster of that name has a new
    // revision.
    desk.atlas("cluster-add tokyo --from clusters --address tokyo.example.com").with(0);
    wait_until("tokyo has a new credential", PATIENCE, || {
        Ok(desk.has_credential("tokyo").then_some(()))
    })
    .unwrap();
    assert!(desk.read("state/pki/issued/tokyo.json").contains("\"revision\": 2"));
}

#[test]
fn without_a_directory_a_command_looks_for_a_kubernetes_cluster() {
    let desk = Desk::new();
    let commands = [
        "cluster-add tokyo",
        "cluster-list",
        "cluster-remove tokyo",
        "cluster-values tokyo",
        "status",
        "bootstrap tokyo --out t",
    ];
    for line in commands {
        let mut command = desk.command(line);
        let ended = Ended::of(command.env("HOME", desk.dir.path()).output().unwrap()).with(1);
        ended.complaining_of(&["--kubeconfig", "--from"]);
        let ended = Ended::of(command.env("KUBECONFIG", "missing").output().unwrap()).with(1);
        ended.complaining_of(&["missing"]);
    }
}

#[test]
fn the_values_of_an_envoy_are_made_of_a_state_directory() {
    let desk = Desk::new();
    desk.atlas("cluster-add tokyo --from clusters --address tokyo.example.com --replicas 2 --annotation goatlas.io/envoy-replicas=3")
        .with(0);
    let hub = desk.atlas("cluster-values hub --state state").with(1);
    hub.complaining_of(&["no files", "hub"]);
    {
        let [xds, metrics, web] = free_ports();
        let ports =
            format!("--xds-port {xds} --metrics-port {metrics} --web-port {web} --dns-port 0");
        let line =
            format!("run --from clusters --state state --hub-address hub.example.com {ports}");
        let process = Proc::spawn("atlas", desk.dir.path(), &desk.command(&line)).unwrap();
        let written = || {
            Ok((desk.path("state/nodes/tokyo/envoy.yaml").exists()
                && desk.path("state/nodes/hub/envoy.yaml").exists())
            .then_some(()))
        };
        wait_until("files are written", PATIENCE, written)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", process.log()));
    }
    let parse = |text: &str| serde_yaml_ng::from_str::<serde_json::Value>(text).unwrap();
    let values = parse(&desk.atlas("cluster-values tokyo --state state").with(0).out);
    assert_eq!((&values["cluster"], &values["replicaCount"]), (&"tokyo".into(), &2.into()));
    let envoy = values["files"]["envoy.yaml"].as_str().unwrap();
    assert!(envoy.contains("/etc/atlas/leaf.yaml") && !envoy.contains("state/nodes"), "{envoy}");
    assert_eq!(
        values["files"]["tls.key"].as_str(),
        Some(desk.read("state/nodes/tokyo/tls.key").as_str())
    );
    let values =
        parse(&desk.atlas("cluster-values --name tokyo --state state --from clusters").with(0).out);
    assert_eq!(values["replicaCount"], 3);
    desk.atlas("cluster-values tokyo --state state --prometheus")
        .with(1)
        .complaining_of(&["--from"]);
    let prometheus = "cluster-values tokyo --state state --from clusters --prometheus --web-url https://hub.example.com";
    assert_eq!(
        parse(&desk.atlas(prometheus).with(0).out)["prometheus"]["prometheusSpec"]["externalUrl"],
        "https://hub.example.com/prom/tokyo"
    );
    assert!(
        desk.atlas("cluster-values atlas --state state --format secret")
            .with(0)
            .out
            .contains("kind: Secret")
    );
}

#[test]
fn variables_of_0_3_count_where_todays_do_not() {
    let desk = Desk::new();
    let run = |line: &str, variables: &[(&str, &str)]| {
        let mut command = desk.command(line);
        Ended::of(
            command.env("KUBECONFIG", "missing").envs(variables.iter().copied()).output().unwrap(),
        )
    };
    run("controller", &[("METRICS_PORT", "x")]).with(2).complaining_of(&["--metrics-port"]);
    run("controller", &[("METRICS_PORT", "x"), ("ATLAS_METRICS_PORT", "7000")])
        .with(1)
        .complaining_of(&["missing"]);
    run("envoy-ads", &[("GRPC_PORT", "x")]).with(2).complaining_of(&["--xds-port"]);
    run("envoy-ads", &[("NAMESPACE", "a.b")]).with(2).complaining_of(&["--namespace"]);
    run("controller", &[("ATLAS_ENVOY_ADDRESS", "http://h")])
        .with(2)
        .complaining_of(&["--hub-address"]);
    run("run", &[("NAMESPACE", "a.b"), ("METRICS_PORT", "x")]).with(1).complaining_of(&["missing"]);
    let ended = run(
        "envoy-ads",
        &[
            ("NODE_ID", "3"),
            ("LOCKNAME", "mine"),
            ("LOGLEVEL", "warning"),
            ("ATLAS_WEB_PORT", "tcp://10.0.0.7:80"),
        ],
    );
    ended.with(1).complaining_of(&["NODE_ID", "LOCKNAME", "missing"]);
}
