//! Writes the manifest of a new cluster (`atlas cluster-add`) and removes one from a file's text
//! (`atlas cluster-remove`).
//!
//! The rest of the text stays as it is. A document is removed by whole lines, and the result is
//! read again before it is returned.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::annotations;
use crate::manifest::{Manifest, Meta, Origin};
use crate::text::is_plain_char;

use super::scalar::{ScalarType, resolve};
use super::{ManifestDocument, read, syntax};
use crate::manifest::ManifestError;

/// The content of a new cluster's Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewCluster {
    /// The cluster's name, and so the Service's. Not empty.
    pub name: String,
    /// Its namespace; `None` leaves it out.
    pub namespace: Option<String>,
    /// Prometheus/Thanos replicas there.
    pub replicas: u32,
    /// For `goatlas.io/addresses`, each with an optional port. Without any, the key is left out.
    pub addresses: Vec<String>,
    /// For `spec.externalIPs`. Without any, the field is left out.
    pub external_ips: Vec<String>,
    /// Other annotations. `addresses` replaces `goatlas.io/addresses` among them. A key has at most
    /// 1000 characters, the longest that YAML reads as one (Kubernetes allows 317).
    pub annotations: BTreeMap<String, String>,
}

/// The manifest of a new cluster: a headless Service without a selector, for which Kubernetes does
/// nothing. [`super::parse`] reads the same values from it.
pub fn render_cluster(spec: &NewCluster) -> String {
    let mut annotations = spec.annotations.clone();
    if !spec.addresses.is_empty() {
        annotations.insert(annotations::ADDRESSES.to_owned(), spec.addresses.join(","));
    }
    let mut text =
        format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n", scalar(&spec.name));
    if let Some(namespace) = &spec.namespace {
        line(&mut text, format_args!("  namespace: {}", scalar(namespace)));
    }
    line(&mut text, format_args!("  labels:\n    {}: \"true\"", annotations::CLUSTER));
    line(&mut text, format_args!("    {}: \"{}\"", annotations::REPLICAS, spec.replicas));
    if !annotations.is_empty() {
        line(&mut text, format_args!("  annotations:"));
    }
    for (key, value) in &annotations {
        line(&mut text, format_args!("    {}: {}", scalar(key), quoted(value)));
    }
    line(&mut text, format_args!("spec:\n  clusterIP: None"));
    if !spec.external_ips.is_empty() {
        line(&mut text, format_args!("  externalIPs:"));
    }
    for ip in &spec.external_ips {
        line(&mut text, format_args!("    - {}", scalar(ip)));
    }
    line(
        &mut text,
        format_args!("  ports:\n    - name: grpc\n      port: {}", crate::ports::THANOS),
    );
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// Text as a YAML scalar, quoted where it must be.
fn scalar(text: &str) -> String {
    let word =
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'));
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if word && begins_well && resolve(text) == ScalarType::Text {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Text as a double-quoted YAML scalar (YAML 1.2, 7.3.1).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            _ if is_plain_char(c) => quoted.push(c),
            _ => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Removes the Service called `name` from a file's text. Other documents stay byte for byte.
///
/// A document is everything from its `---` to the next, with comments; comments above the first
/// `---` stay. `None` means that only comments would remain, so the file can be deleted.
///
/// # Errors
/// The text is invalid, it has no such Service, or the Service can't be removed without changing
/// other documents. The message tells what to do by hand.
pub fn remove_document(
    file: &str,
    text: &str,
    name: &str,
) -> Result<Option<String>, Vec<ManifestError>> {
    let documents = read(file, text)?;
    let index = find(file, &documents, name).map_err(|error| vec![error])?;
    if documents.iter().enumerate().all(|(i, document)| i == index || document.empty) {
        return Ok(None);
    }
    let rest = cut(text, &documents, index);
    let line = documents[index].line;
    let expected =
        documents.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, document)| document);
    if !read(file, &rest).is_ok_and(|rest| have_same_manifests(expected, &rest)) {
        let message = format!(
            "Service {name:?} cannot be cut out without changing other documents: remove it by hand"
        );
        return Err(vec![error(file, line, message)]);
    }
    Ok(Some(rest))
}

/// The index of the document that is the Service called `name`.
fn find(file: &str, documents: &[ManifestDocument], name: &str) -> Result<usize, ManifestError> {
    let mut found = documents.iter().enumerate().flat_map(|(index, document)| {
        let services = document.manifests.iter().filter(
            |manifest| matches!(manifest, Manifest::Service(service) if service.meta.name == name),
        );
        services.map(move |manifest| (index, document.list, manifest.meta()))
    });
    let Some((index, list, meta)) = found.next() else {
        return Err(error(file, 0, format!("has no Service called {name:?}")));
    };
    if let Some((_, _, other)) = found.next() {
        let (first, second) = (meta.origin.line, other.origin.line);
        let message = format!(
            "Service {name:?} is in two namespaces, on lines {first} and {second}: remove the right one by hand"
        );
        return Err(error(file, second, message));
    }
    if list {
        let message = format!(
            "Service {name:?} is an item of a List, which Atlas does not edit: remove the item by hand, \
             or make each item a document of its own, with `---` between them"
        );
        return Err(error(file, meta.origin.line, message));
    }
    Ok(index)
}

fn cut(text: &str, documents: &[ManifestDocument], index: usize) -> String {
    let (start, next) = (offset(text, documents, index), documents.get(index + 1));
    let end = next.map_or(text.len(), |_| offset(text, documents, index + 1));
    // The next document may have no `---`: then only the `...` that is removed here separated it.
    let parted = start == 0 || next.is_none_or(|next| next.explicit);
    [&text[..start], if parted { "" } else { "---\n" }, &text[end..]].concat()
}

/// Byte offset of a document. The first one includes the text above it, unless it begins with
/// `---`.
fn offset(text: &str, documents: &[ManifestDocument], index: usize) -> usize {
    let ManifestDocument { line, explicit, .. } = &documents[index];
    if index == 0 && !explicit {
        return 0;
    }
    syntax::line_starts(text).nth((*line as usize).saturating_sub(1)).unwrap_or(text.len())
}

/// Whether both have the same manifests, apart from lines.
fn have_same_manifests<'a>(
    expected: impl Iterator<Item = &'a ManifestDocument>,
    found: &[ManifestDocument],
) -> bool {
    let manifests = |document: &ManifestDocument| {
        document.manifests.iter().map(without_origin).collect::<Vec<_>>()
    };
    let expected: Vec<_> = expected.filter(|document| !document.empty).map(manifests).collect();
    let found: Vec<_> = found.iter().filter(|document| !document.empty).map(manifests).collect();
    expected == found
}

fn without_origin(manifest: &Manifest) -> Manifest {
    let mut manifest = manifest.clone();
    let meta: &mut Meta = match &mut manifest {
        Manifest::Service(service) => &mut service.meta,
        Manifest::EndpointSlice(slice) => &mut slice.meta,
    };
    meta.origin = Origin::default();
    manifest
}

fn error(file: &str, line: u32, message: String) -> ManifestError {
    ManifestError { file: file.to_owned(), line, key: String::new(), message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse;
    use super::*;
    use crate::manifest::{Service, ServicePort};

    fn cluster(name: &str) -> String {
        render_cluster(&NewCluster { name: name.into(), replicas: 1, ..NewCluster::default() })
    }

    fn remove(text: &str, name: &str) -> Option<String> {
        remove_document("a.yaml", text, name).unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    fn refusal(text: &str, name: &str) -> String {
        let errors = remove_document("a.yaml", text, name).expect_err("cannot be removed");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_new_cluster_is_tidy_yaml() {
        let spec = NewCluster {
            name: "tokyo".into(),
            namespace: Some("monitoring".into()),
            replicas: 2,
            addresses: vec!["tokyo.example:31901".into(), "[2001:db8::1]:11901".into()],
            external_ips: vec!["192.0.2.1".into(), "2001:db8::1".into()],
            annotations: [("goatlas.io/shards".to_owned(), "2".to_owned())].into(),
        };
        let expected = r#"apiVersion: v1
kind: Service
metadata:
  name: tokyo
  namespace: monitoring
  labels:
    goatlas.io/cluster: "true"
    goatlas.io/replicas: "2"
  annotations:
    goatlas.io/addresses: "tokyo.example:31901,[2001:db8::1]:11901"
    goatlas.io/shards: "2"
spec:
  clusterIP: None
  externalIPs:
    - 192.0.2.1
    - "2001:db8::1"
  ports:
    - name: grpc
      port: 10901
"#;
        assert_eq!(render_cluster(&spec), expected);
    }

    #[test]
    fn a_document_is_cut_from_its_dashes_to_the_next() {
        let text = "# ours\n---\n# one\nTOKYO# end\n---\n# two\nOSAKA---\n\nKYOTO# last";
        let fill = |text: &str| {
            ["TOKYO", "OSAKA", "KYOTO"].iter().fold(text.to_owned(), |text, name| {
                text.replace(name, &cluster(&name.to_lowercase()))
            })
        };
        let text = fill(text);
        assert_eq!(
            remove(&text, "tokyo"),
            Some(fill("# ours\n---\n# two\nOSAKA---\n\nKYOTO# last"))
        );
        assert_eq!(
            remove(&text, "osaka"),
            Some(fill("# ours\n---\n# one\nTOKYO# end\n---\n\nKYOTO# last"))
        );
        assert_eq!(
            remove(&text, "kyoto"),
            Some(fill("# ours\n---\n# one\nTOKYO# end\n---\n# two\nOSAKA"))
        );
    }

    #[test]
    fn a_first_document_without_dashes_goes_with_what_stands_above_it() {
        let text = format!("# tokyo\n{}---\n{}", cluster("tokyo"), cluster("osaka"));
        assert_eq!(remove(&text, "tokyo"), Some(format!("---\n{}", cluster("osaka"))));
        let windows = text.replace('\n', "\r\n");
        assert_eq!(
            remove(&windows, "osaka"),
            Some(format!("# tokyo\n{}", cluster("tokyo")).replace('\n', "\r\n"))
        );
    }

    #[test]
    fn documents_parted_by_dots_stay_apart() {
        let text = format!("{}...\n{}...\n{}", cluster("a"), cluster("b"), cluster("c"));
        assert_eq!(remove(&text, "b"), Some(format!("{}...\n---\n{}", cluster("a"), cluster("c"))));
        let text = format!("{}---\n{}...\n{}", cluster("a"), cluster("b"), cluster("c"));
        assert_eq!(remove(&text, "b"), Some(format!("{}---\n{}", cluster("a"), cluster("c"))));
    }

    #[test]
    fn documents_of_other_kinds_stay() {
        let text = format!("apiVersion: v1\nkind: ConfigMap\n---\n{}", cluster("tokyo"));
        assert_eq!(remove(&text, "tokyo").as_deref(), Some("apiVersion: v1\nkind: ConfigMap\n"));
    }

    #[test]
    fn nothing_but_comments_is_nothing() {
        assert_eq!(remove(&cluster("tokyo"), "tokyo"), None);
        assert_eq!(
            remove(&format!("# ours\n---\n{}---\n# more\n...\n", cluster("tokyo")), "tokyo"),
            None
        );
    }

    #[test]
    fn what_cannot_be_cut_out_says_why() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: tokyo}}\n";
        assert_eq!(
            refusal(list, "tokyo"),
            "a.yaml:4: Service \"tokyo\" is an item of a List, which Atlas does not edit: remove the item by hand, or make each item a document of its own, with `---` between them"
        );
        assert_eq!(refusal(&cluster("osaka"), "tokyo"), "a.yaml: has no Service called \"tokyo\"");
        assert_eq!(refusal("a: [", "tokyo").split(": ").nth(2), Some("is not YAML"));
        let two = "apiVersion: v1\nkind: Service\nmetadata: {name: tokyo}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: tokyo, namespace: x}\n";
        assert_eq!(
            refusal(two, "tokyo"),
            "a.yaml:5: Service \"tokyo\" is in two namespaces, on lines 1 and 5: remove the right one by hand"
        );
        let directive = format!("{}...\n%YAML 1.2\n---\n{}", cluster("tokyo"), cluster("osaka"));
        assert_eq!(
            refusal(&directive, "osaka"),
            format!(
                "a.yaml:{}: Service \"osaka\" cannot be cut out without changing other documents: remove it by hand",
                cluster("a").lines().count() + 3
            )
        );
    }

    fn any_cluster() -> impl Strategy<Value = NewCluster> {
        let word = || {
            prop_oneof![
                "[a-z0-9.:-]{1,12}",
                any::<String>(),
                "[a-z]+: [#&*!|>'\"%@`{}\\[\\]-]",
                "true|yes|null|~|1_0|0x1|\\.inf|<<|---"
            ]
        };
        let name = word().prop_filter("a name is not empty", |name| !name.is_empty());
        let annotations = prop::collection::btree_map(word(), word(), 0..4);
        let list = || prop::collection::vec(word(), 0..3);
        (name, prop::option::of(word()), any::<u32>(), list(), list(), annotations).prop_map(
            |(name, namespace, replicas, addresses, external_ips, annotations)| NewCluster {
                name,
                namespace,
                replicas,
                addresses,
                external_ips,
                annotations,
            },
        )
    }

    proptest! {
        #[test]
        fn a_new_cluster_reads_back_as_it_was_meant(spec in any_cluster()) {
            let text = render_cluster(&spec);
            let manifests = parse("a.yaml", &text).map_err(|errors| TestCaseError::fail(format!("{errors:?}\n{text}")))?;
            let [Manifest::Service(service)] = manifests.as_slice() else { panic!("one Service") };
            let Service { meta, external_ips, external_name, cluster_ip: false, load_balancer: false, ports } = service else { panic!("headless") };
            prop_assert_eq!(&meta.name, &spec.name);
            prop_assert_eq!(&meta.namespace, &spec.namespace);
            let labels = [("goatlas.io/cluster".to_owned(), "true".to_owned()), ("goatlas.io/replicas".to_owned(), spec.replicas.to_string())];
            prop_assert_eq!(&meta.labels, &labels.into());
            let mut annotations = spec.annotations.clone();
            if !spec.addresses.is_empty() {
                annotations.insert("goatlas.io/addresses".into(), spec.addresses.join(","));
            }
            prop_assert_eq!(&meta.annotations, &annotations);
            prop_assert_eq!((external_ips, external_name), (&spec.external_ips, &None));
            prop_assert_eq!(ports, &[ServicePort { name: "grpc".into(), port: 10901 }]);
        }

        #[test]
        fn removing_a_cluster_leaves_the_others_byte_for_byte(
            count in 1..5usize, chosen in any::<prop::sample::Index>(), header in "(# [a-z]*\n|\n){0,2}", first_explicit in any::<bool>(),
        ) {
            let (chosen, names) = (chosen.index(count), (0..count).map(|i| format!("c{i}")).collect::<Vec<_>>());
            let documents: Vec<String> = names.iter().map(|name| format!("# {name}\n{}", cluster(name))).collect();
            let text = format!("{header}{}{}", if first_explicit { "---\n" } else { "" }, documents.join("---\n"));
            let rest = remove(&text, &names[chosen]);
            prop_assert_eq!(rest.is_none(), count == 1);
            let rest = rest.unwrap_or_default();
            for (i, document) in documents.iter().enumerate() {
                prop_assert_eq!(rest.contains(document), i != chosen);
            }
        }
    }
}
