mod kinds;
mod mistakes;

use proptest::prelude::*;

use super::*;
use crate::manifest::{Endpoint, EndpointSlice, Service, ServicePort};

const TOKYO: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: tokyo
  namespace: monitoring
  labels:
    goatlas.io/cluster: \"true\"
    goatlas.io/replicas: \"2\"
  annotations:
    goatlas.io/shards: \"3\"
spec:
  clusterIP: None
  externalIPs:
    - 192.0.2.1
    - fd00::1
  ports:
    - name: grpc
      port: 10901
";

/// A cluster's Service with these lines in place of its spec.
fn service(lines: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: tokyo, labels: {{goatlas.io/cluster: \"true\"}}}}\n{lines}"
    )
}

fn manifests(text: &str) -> Vec<Manifest> {
    parse("a.yaml", text).unwrap_or_else(|errors| panic!("{errors:#?}\nin\n{text}"))
}

fn only_service(text: &str) -> Service {
    match <[Manifest; 1]>::try_from(manifests(text)) {
        Ok([Manifest::Service(service)]) => service,
        other => panic!("{other:#?}"),
    }
}

/// The errors as people see them, without the file's name.
fn errors(text: &str) -> Vec<String> {
    let errors = parse("a.yaml", text).expect_err("the manifest is wrong");
    errors
        .iter()
        .map(|error| error.to_string().strip_prefix("a.yaml:").expect("a place").to_owned())
        .collect()
}

fn only_error(text: &str) -> String {
    match <[String; 1]>::try_from(errors(text)) {
        Ok([error]) => error,
        Err(other) => panic!("{other:#?}"),
    }
}

#[test]
fn a_service_is_read_with_the_line_of_every_key() {
    let service = only_service(TOKYO);
    assert_eq!(service.meta.name, "tokyo");
    assert_eq!(service.meta.namespace.as_deref(), Some("monitoring"));
    assert_eq!(service.meta.labels["goatlas.io/replicas"], "2");
    assert_eq!(service.meta.annotations["goatlas.io/shards"], "3");
    assert_eq!(service.external_ips, ["192.0.2.1", "fd00::1"]);
    assert_eq!(service.ports, [ServicePort { name: "grpc".into(), port: 10901 }]);
    let origin = &service.meta.origin;
    assert_eq!((origin.file.as_deref(), origin.line), (Some("a.yaml"), 1));
    let lines: Vec<(&str, u32)> =
        origin.lines.iter().map(|(key, line)| (key.as_str(), *line)).collect();
    let expected = [
        ("goatlas.io/cluster", 7),
        ("goatlas.io/replicas", 8),
        ("goatlas.io/shards", 10),
        ("metadata.name", 4),
        ("metadata.namespace", 5),
        ("spec.externalIPs", 13),
        ("spec.ports", 16),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn lines_count_on_through_documents_and_any_line_break() {
    let text = format!("# hub\n---\n{TOKYO}---\n# two\n\n{}", TOKYO.replace("tokyo", "osaka"));
    for line_break in ["\n", "\r\n", "\r"] {
        let manifests = manifests(&text.replace('\n', line_break));
        let lines: Vec<u32> =
            manifests.iter().map(|manifest| manifest.meta().origin.line).collect();
        assert_eq!(lines, [3, 24], "{line_break:?}");
        assert_eq!(manifests[1].meta().origin.line_of("goatlas.io/replicas"), 31);
    }
}

#[test]
fn an_external_name_is_read() {
    let service = only_service(&service(
        "spec:\n  type: ExternalName\n  externalName: envoy.tokyo.example\n",
    ));
    assert_eq!(service.external_name.as_deref(), Some("envoy.tokyo.example"));
    assert_eq!(service.meta.origin.line_of("spec.externalName"), 6);
}

#[test]
fn an_empty_text_has_no_manifests() {
    for text in
        ["", "\n", "# nothing yet\n", "---\n", "---\n# nothing\n---\n...\n", "\u{feff}", "null\n"]
    {
        assert_eq!(manifests(text), [], "{text:?}");
    }
}

#[test]
fn other_kinds_are_passed_over_whatever_they_say() {
    let text = "\
apiVersion: v1
kind: ConfigMap
metadata: 3
data: {port: yes}
---
apiVersion: v1
kind: Endpoints
metadata: {name: old}
subsets: []
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {}
---
apiVersion: v1
kind: Secret
stringData:
  goatlas.io/cluster: true
";
    assert_eq!(manifests(text), []);
}

#[test]
fn mappings_and_lists_with_nothing_behind_them_are_empty() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: tokyo\n  namespace:\n  labels:\n  annotations: ~\nspec:\n  externalIPs:\n  ports: null\n";
    let service = only_service(text);
    assert_eq!(
        (service.meta.labels.len(), service.meta.annotations.len(), service.meta.namespace),
        (0, 0, None)
    );
    assert_eq!(only_service(&self::service("spec:\n")).ports, []);
}

#[test]
fn aliases_and_merge_keys_work() {
    let text = "\
apiVersion: v1
kind: Service
metadata:
  name: &name tokyo
  labels: &labels
    goatlas.io/cluster: \"true\"
    city: *name
  annotations:
    <<: *labels
    city: kyoto
spec:
  externalIPs: &ips [192.0.2.1]
  <<: [{externalIPs: [192.0.2.9], ports: [{port: 1}]}, {ports: [{port: 2}]}]
";
    let service = only_service(text);
    assert_eq!(service.meta.labels["city"], "tokyo");
    assert_eq!(service.meta.annotations["city"], "kyoto", "the mapping's own key wins");
    assert_eq!(service.meta.annotations["goatlas.io/cluster"], "true");
    assert_eq!(service.external_ips, ["192.0.2.1"]);
    assert_eq!(service.ports[0].port, 1, "of merged mappings the first wins");
}

#[test]
fn aliases_must_name_what_ends_above_them_in_the_same_document() {
    assert_eq!(
        only_error("a: *x\n"),
        "1: a: is not YAML: while parsing node, found unknown anchor: an alias (*name) must name an anchor (&name) above it; text that begins with * needs quotes"
    );
    let message =
        "an alias (*name) must name an anchor (&name) that ends above it in the same document";
    assert_eq!(only_error("a: &x 1\n---\nb: *x\n"), format!("3: b: {message}"));
    assert_eq!(only_error("a: &x\n  b: *x\n"), format!("2: a.b: {message}"));
}

#[test]
fn merging_something_else_than_a_mapping_is_refused() {
    assert_eq!(
        only_error("a:\n  <<: text\n"),
        r#"2: a["<<"]: must be a mapping to merge, or a list of mappings"#
    );
    assert_eq!(
        only_error("<<: [{}, 1]\n"),
        r#"1: ["<<"]: must be a mapping to merge, or a list of mappings"#
    );
}

#[test]
fn a_value_that_yaml_does_not_take_for_text_needs_quotes() {
    let label = |value: &str| {
        only_error(&format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: tokyo\n  labels:\n    goatlas.io/replicas: {value}\n"
        ))
    };
    let key = r#"6: metadata.labels["goatlas.io/replicas"]: must be a string, "#;
    assert_eq!(label("2"), format!(r#"{key}is the number 2: write "2" in quotes"#));
    assert_eq!(label("1_0.5"), format!(r#"{key}is the number 1_0.5: write "1_0.5" in quotes"#));
    assert_eq!(label("true"), format!(r#"{key}is the boolean true: write "true" in quotes"#));
    assert_eq!(
        label("yes"),
        format!(r#"{key}is yes, which Kubernetes takes for a boolean: write "yes" in quotes"#)
    );
    assert_eq!(label(""), format!(r#"{key}has no value: write one, or """#));
    assert_eq!(
        label("[a]"),
        format!("{key}is a list: write the items into one string, separated by commas")
    );
    assert_eq!(
        label("{a: b}"),
        format!("{key}is a mapping: text that contains ': ' or ends in ':' needs quotes")
    );
}

#[test]
fn quoted_and_tagged_values_are_text() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: '7'\n  labels: {goatlas.io/cluster: !!str true, a: \"2\", b: !!str 3, c: 'yes', d: \"\"}\n  annotations:\n    e: |-\n      4\n";
    let meta = only_service(text).meta;
    assert_eq!(meta.name, "7");
    assert_eq!(meta.labels.values().collect::<Vec<_>>(), ["2", "3", "yes", "", "true"]);
    assert_eq!(meta.annotations["e"], "4");
}

/// Text made of what YAML is made of, so that more than its first token is read.
fn yamlish() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "apiVersion: v1",
        "kind: Service",
        "kind: List",
        "items:",
        "metadata:",
        "name: a",
        "labels:",
        "spec:",
        "ports:",
        "port: 1",
        "a",
        "b: ",
        "- ",
        "? ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "---",
        "...",
        "|",
        ">-",
        "'",
        "\"",
        "\\",
        "#",
        "%YAML 1.2",
        "\t",
        "\n",
        "\n",
        "\n  ",
        "\n    ",
        "\r",
        " ",
        "\u{feff}",
        "\u{85}",
        "\0",
        "é",
        "~",
        "0x1",
        "yes",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![any::<String>(), yamlish(), ".*"]) {
        let _ = parse("a.yaml", &text);
        let _ = remove_document("a.yaml", &text, "a");
    }

    #[test]
    fn no_cut_or_damaged_manifest_makes_it_panic(at in 0..TOKYO.len(), junk in any::<char>()) {
        let _ = parse("a.yaml", &TOKYO[..at]);
        let mut damaged = TOKYO.to_owned();
        damaged.insert(at, junk);
        let _ = parse("a.yaml", &damaged);
    }

    #[test]
    fn every_error_names_the_file_and_a_line_of_it(text in yamlish()) {
        for error in parse("a.yaml", &text).err().into_iter().flatten() {
            let lines = u32::try_from(syntax::line_starts(&text).count()).expect("few");
            prop_assert!(error.line <= lines + 1, "{error} of {lines}");
            prop_assert!(error.to_string().starts_with("a.yaml"));
        }
    }
}
