//! What is refused, and in which words.

use super::*;

#[test]
fn every_mistake_of_a_file_is_told_in_order() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {a: 1, goatlas.io/cluster: on}\nspec:\n  externalIPs: x\n---\nfoo: bar\n";
    let elsewhere = "if this is no Kubernetes object, move it out of this directory";
    let expected = [
        "3: metadata.name: is missing".to_owned(),
        r#"4: metadata.labels.a: must be a string, is the number 1: write "1" in quotes"#.to_owned(),
        r#"4: metadata.labels["goatlas.io/cluster"]: must be a string, is on, which Kubernetes takes for a boolean: write "on" in quotes"#
            .to_owned(),
        r#"6: spec.externalIPs: must be a list, is the string "x": begin each item with '- '"#.to_owned(),
        format!("8: apiVersion: is missing: {elsewhere}"),
        format!("8: kind: is missing: {elsewhere}"),
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn too_many_mistakes_are_counted_instead_of_told() {
    let labels: String = (0..60).map(|i| format!("    k{i}: 1\n")).collect();
    let errors = parse(
        "a.yaml",
        &format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n{labels}"),
    )
    .expect_err("wrong");
    assert_eq!(errors.len(), 51);
    assert_eq!(errors[50].to_string(), "a.yaml: 10 more errors are not shown");
}

#[test]
fn a_name_is_needed_and_is_text() {
    assert_eq!(
        only_error("apiVersion: v1\nkind: Service\n"),
        "1: metadata: is missing, and with it metadata.name"
    );
    assert_eq!(
        only_error("apiVersion: v1\nkind: Service\nmetadata: {}\n"),
        "3: metadata.name: is missing"
    );
    assert_eq!(
        only_error("apiVersion: v1\nkind: Service\nmetadata: {name: ''}\n"),
        "3: metadata.name: is empty: write a name"
    );
    assert_eq!(
        only_error("apiVersion: v1\nkind: Service\nmetadata: tokyo\n"),
        r#"3: metadata: must be a mapping, is the string "tokyo""#
    );
    assert_eq!(
        only_error("apiVersion: v1\nkind: Service\nmetadata:\n  name: 81\n"),
        r#"4: metadata.name: must be a string, is the number 81: write "81" in quotes"#
    );
}

#[test]
fn a_generated_name_is_refused_with_what_to_write() {
    assert_eq!(
        only_error(
            "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {goatlas.io/cluster: \"true\"}\n  generateName: tokyo-\n"
        ),
        "5: metadata.name: is missing: a cluster is called after its Service, so the name cannot be generated: write `name: tokyo` instead of `generateName: tokyo-`"
    );
}

#[test]
fn only_a_cluster_needs_a_name() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {generateName: am-, labels: {kubernetes.io/service-name: am}}\n";
    let other = "apiVersion: v1\nkind: Service\nmetadata:\n  generateName: web-\n";
    let manifests = manifests(&[TOKYO, slice, other, slice].join("---\n"));
    let names: Vec<&str> = manifests.iter().map(|manifest| manifest.meta().name.as_str()).collect();
    let nameless = |prefix: &str, n: u32| format!("{prefix}-(nameless object {n} of a.yaml)");
    assert_eq!(names, ["tokyo", &nameless("am", 1), &nameless("web", 2), &nameless("am", 3)]);
}

#[test]
fn what_only_a_cluster_has_need_not_be_right_elsewhere() {
    let wrong = |labels: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  labels: {{{labels}}}\n  annotations: {{prometheus.io/scrape: true, x: }}\n\
             spec: {{externalIPs: 10.0.0.1, ports: [{{port: 80}}]}}\n"
        )
    };
    for other in ["app: web", "goatlas.io/cluster: \"false\""] {
        let web = only_service(&wrong(other));
        assert_eq!(
            (web.meta.annotations.len(), web.external_ips.len(), web.ports.len()),
            (0, 0, 1)
        );
    }
    // However the label's value is written, a cluster is meant.
    for cluster in
        ["goatlas.io/cluster: \"true\"", "goatlas.io/cluster: true", "goatlas.io/cluster: {}"]
    {
        let errors = errors(&wrong(cluster));
        for key in [r#"annotations["prometheus.io/scrape"]"#, "annotations.x", "spec.externalIPs"] {
            assert!(errors.iter().any(|error| error.contains(key)), "{key}: {errors:?}");
        }
    }
}

#[test]
fn what_kind_of_address_kubernetes_gave_a_service_is_read() {
    let read = |spec: &str| {
        let service = only_service(&service(&format!("spec: {spec}\n")));
        (service.cluster_ip, service.load_balancer, service.external_name.is_some())
    };
    assert_eq!(read("{clusterIP: 10.43.0.7}"), (true, false, false));
    assert_eq!(read("{clusterIP: 'fd00::7', type: LoadBalancer}"), (true, true, false));
    for none in
        ["{clusterIP: None}", "{clusterIP: ''}", "{clusterIP: }", "{clusterIP: [10.43.0.7]}", "{}"]
    {
        assert_eq!(read(none), (false, false, false), "{none}");
    }
    assert_eq!(read("{type: ExternalName, externalName: a.example}"), (false, false, true));
    assert_eq!(read("{externalName: a.example}"), (false, false, true));
    assert_eq!(
        read("{type: ClusterIP, externalName: a.example}"),
        (false, false, false),
        "Kubernetes makes nothing of it either"
    );
}

#[test]
fn lists_of_addresses_hold_strings() {
    assert_eq!(
        only_error(&service("spec:\n  externalIPs: 192.0.2.1\n")),
        r#"5: spec.externalIPs: must be a list, is the string "192.0.2.1": begin each item with '- '"#
    );
    assert_eq!(
        only_error(&service("spec:\n  externalIPs:\n    - 192.0.2.1\n    - 192\n")),
        r#"7: spec.externalIPs[1]: must be a string, is the number 192: write "192" in quotes"#
    );
    assert_eq!(only_error(&service("spec: []\n")), "4: spec: must be a mapping, is a list");
    assert_eq!(
        only_error(&service("spec: {ports: [80]}\n")),
        "4: spec.ports[0]: must be a mapping, is the number 80"
    );
}

#[test]
fn ports_are_whole_numbers_from_1_to_65535() {
    let port = |value: &str| {
        only_error(&service(&format!("spec:\n  ports:\n    - name: grpc\n      port: {value}\n")))
    };
    assert_eq!(
        port("70000"),
        "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 70000"
    );
    assert_eq!(
        port("0"),
        "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 0"
    );
    assert_eq!(
        port("-1"),
        "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number -1"
    );
    assert_eq!(
        port("010"),
        "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 010"
    );
    assert_eq!(
        port("1.5"),
        "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 1.5"
    );
    assert_eq!(
        port("\"10901\""),
        r#"7: spec.ports[0].port: must be a number, is the string "10901": remove the quotes"#
    );
    assert_eq!(
        port("grpc"),
        r#"7: spec.ports[0].port: must be a port from 1 to 65535, is the string "grpc""#
    );
    assert_eq!(port(""), "7: spec.ports[0].port: is missing: write a number from 1 to 65535");
}

#[test]
fn the_same_object_twice_is_refused_with_both_lines() {
    let message = "Service monitoring/tokyo is already on line 4: remove one of the two";
    assert_eq!(
        only_error(&format!("{TOKYO}---\n{TOKYO}")),
        format!("23: metadata.name: {message}")
    );
    let elsewhere = TOKYO.replace("namespace: monitoring", "namespace: other");
    assert_eq!(manifests(&format!("{TOKYO}---\n{elsewhere}")).len(), 2);
}

#[test]
fn the_same_key_twice_is_refused_with_both_lines() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n    b: x\n    c: y\n    b: z\n";
    assert_eq!(
        only_error(text),
        "8: metadata.labels.b: is already on line 6: remove one of the two"
    );
    assert_eq!(
        only_error("a: [1, {b: 1, b: 2}]\n"),
        "1: a[1].b: is already on line 1: remove one of the two"
    );
}

#[test]
fn a_document_that_is_no_object_is_refused() {
    let elsewhere = "if this is no Kubernetes object, move it out of this directory";
    assert_eq!(
        only_error("hello\n"),
        format!(
            r#"1: must be a Kubernetes object with apiVersion and kind, is the string "hello": {elsewhere}"#
        )
    );
    assert_eq!(
        only_error("- a\n"),
        format!("1: must be a Kubernetes object with apiVersion and kind, is a list: {elsewhere}")
    );
    assert_eq!(only_error("apiVersion: v1\nkind:\n"), format!("2: kind: is missing: {elsewhere}"));
    assert_eq!(
        only_error("apiVersion: v1\nkind: service\n"),
        r#"2: kind: must be written Service, is "service""#
    );
    assert_eq!(
        only_error("apiVersion: 1\nkind: Service\n"),
        r#"1: apiVersion: must be a string, is the number 1: write "1" in quotes"#
    );
}

#[test]
fn tabs_are_named() {
    let message = "is indented with a tab: YAML wants spaces there";
    assert_eq!(only_error("a:\n\tb: c\n"), format!("2: a: {message}"));
    assert_eq!(only_error("a: b\n\tc: d\n"), format!("2: a: {message}"));
    assert_eq!(only_error("a:\n  b: c\n \td: e\n"), format!("3: a.b: {message}"));
}

#[test]
fn syntax_errors_have_line_key_and_a_hint() {
    let cases = [
        (
            "a:\n  b: c: d\n",
            "2: a: is not YAML: mapping values are not allowed in this context: check the indentation of this line and the one above; text that contains ': ' needs quotes",
        ),
        (
            "a: [1,\nb: c\n",
            "2: a[1]: is not YAML: invalid indentation in flow construct: is a bracket or quote above this line not closed?",
        ),
        ("a: [\n1]\n", "2: a[0]: is not YAML: invalid indentation: indent this line further"),
        (
            "a:\tb\n",
            "1: is not YAML: ':' must be followed by a valid YAML whitespace: write a space there, not a tab",
        ),
        (
            "a: 'x\nb: c\n",
            "1: a: is not YAML: invalid indentation in quoted scalar: is a quote not closed?",
        ),
        (
            "a: @b\n",
            "1: a: is not YAML: unexpected character: `@': text that begins with this character needs quotes",
        ),
        (
            "a: 1\n   b: 2\n",
            "2: is not YAML: mapping values are not allowed in this context: check the indentation of this line and the one above; text that contains ': ' needs quotes",
        ),
        (
            "{{ if x }}\na: b\n",
            "1: a key must be text, is a list or a mapping: if this file is a template ({{ … }}), render it first",
        ),
        (
            "a: b{{ x }}: c\n",
            "1: is not YAML: mapping values are not allowed in this context: if this file is a template, render it first",
        ),
        (": b\n", "1: a key is missing before ':'"),
    ];
    for (text, expected) in cases {
        assert_eq!(only_error(text), expected, "{text:?}");
    }
}

#[test]
fn binary_is_refused_before_yaml_could_stop_at_it() {
    assert_eq!(
        only_error("a: b\n\0kind"),
        "2: contains the control character U+0000: is this a text file?"
    );
    assert_eq!(
        only_error("\u{7f}ELF"),
        "1: contains the control character U+007F: is this a text file?"
    );
}

#[test]
fn deep_nesting_is_refused() {
    let too_deep = "nests more than 128 levels deep";
    for text in ["- ".repeat(1 << 20), "? ".repeat(1 << 20)] {
        assert!(only_error(&text).ends_with(too_deep), "{}", &text[..8]);
    }
    for text in ["[".repeat(1 << 20), "{a: ".repeat(1 << 20)] {
        assert!(only_error(&text).ends_with("it nests too deep"), "{}", &text[..8]);
    }
    let chain: String = (1..200).map(|i| format!("  - &a{i} [*a{}]\n", i - 1)).collect();
    assert!(
        only_error(&format!("apiVersion: v1\nkind: X\nx:\n  - &a0 []\n{chain}")).contains(too_deep),
        "through aliases"
    );
}

#[test]
fn nesting_as_deep_as_a_schema_is_read() {
    assert_eq!(
        manifests(&format!("apiVersion: v1\nkind: X\nx: {}{}\n", "[".repeat(127), "]".repeat(127))),
        []
    );
}

#[test]
fn alias_bombs_are_refused() {
    let bomb: String = (1..30)
        .map(|i| format!("l{i}: &l{i} [{}]\n", vec![format!("*l{}", i - 1); 10].join(", ")))
        .collect();
    assert!(only_error(&format!("l0: &l0 [lol]\n{bomb}")).contains("repeat more than 1 MiB"));
    let long = "x".repeat(1 << 16);
    assert!(
        only_error(&format!("a: &a {long}\nb: [{}]\n", "*a, ".repeat(100)))
            .contains("repeat more than 1 MiB")
    );
}

#[test]
fn an_error_of_the_whole_file_has_no_line() {
    let error = ManifestError {
        file: "a.yaml".into(),
        line: 0,
        key: String::new(),
        message: "is unreadable".into(),
    };
    assert_eq!(error.to_string(), "a.yaml: is unreadable");
}
