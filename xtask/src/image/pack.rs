//! Packs programs as images: each alone in its layer, with a bill of materials that refers to it.
//!
//! ```text
//! index.json ─▶ manifest ─┬▶ configuration   several targets: index.json ─▶ index ─▶ manifests
//!            │            └▶ layer: /atlas
//!            └▶ manifest of the bill ─┬▶ sbom (CycloneDX)
//!                                     └▶ subject: the image's manifest
//! ```

use std::io::Write;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use super::about::About;
use super::layout::{Layout, sha256, tar, to_json};
use super::platform::Platform;

/// Media types of OCI 1.1.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The configuration of an artifact that has none.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const SBOM: &str = "application/vnd.cyclonedx+json";
/// Annotation: the name by which tools ask for an entry of `index.json`, as in
/// `oci:target/image:0.4.0`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The program's name in the image.
pub const PROGRAM: &str = "atlas";
/// An unprivileged user, by number, which `runAsNonRoot` requires.
const USER: &str = "65532:65532";
/// xDS, metrics and health, the page, DNS.
const PORTS: &[&str] = &["6305/tcp", "6309/tcp", "6310/tcp", "5353/tcp", "5353/udp"];

/// The input of one image.
#[derive(Debug, Clone)]
pub struct Part {
    pub platform: Platform,
    pub program: Vec<u8>,
    pub sbom: Vec<u8>,
}

/// The layout of one or more images of the same Atlas, with their bills of materials.
///
/// # Errors
/// A file's name is too long for an archive.
pub fn layout(about: &About, parts: &[Part]) -> Result<Layout> {
    let mut layout = Layout::default();
    let images = images(&mut layout, about, parts)?;
    let bills: Vec<Value> = parts
        .iter()
        .zip(&images)
        .map(|(part, image)| bill(&mut layout, about, part, image))
        .collect();
    let named = named(&mut layout, about, images);
    layout.finish(index([named].into_iter().chain(bills).collect()));
    Ok(layout)
}

/// The layout as one file with the name `image:tag`. Without the bills of materials, since loaders
/// expect one image.
///
/// # Errors
/// As [`layout`].
pub fn archive(about: &About, parts: &[Part], image: &str) -> Result<Vec<u8>> {
    let mut layout = Layout::default();
    let images = images(&mut layout, about, parts)?;
    let older = older_manifest(&layout, about, parts, &images, image)?;
    let named = named(&mut layout, about, images);
    layout.finish(index(vec![named]));
    let files = layout.files().iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice(), 0o644));
    tar(files.chain([("manifest.json", older.as_slice(), 0o644)]))
}

fn index(manifests: Vec<Value>) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// The index entry named after the version: the only image, or an index of all.
fn named(layout: &mut Layout, about: &About, mut images: Vec<Value>) -> Value {
    let mut entry = if images.len() == 1 {
        images.remove(0)
    } else {
        let mut all = index(images);
        all["annotations"] = about.labels();
        layout.add_json(INDEX, all)
    };
    entry["annotations"] = json!({ REF_NAME: about.version });
    entry
}

/// Adds an image for each part; returns their descriptors in the same order.
fn images(layout: &mut Layout, about: &About, parts: &[Part]) -> Result<Vec<Value>> {
    parts.iter().map(|part| image(layout, about, part)).collect()
}

fn image(layout: &mut Layout, about: &About, part: &Part) -> Result<Value> {
    let files = tar([(PROGRAM, part.program.as_slice(), 0o755)])?;
    let config = config(about, &part.platform, &sha256(&files));
    let config = layout.add_json(CONFIG, config);
    let layer = layout.add(LAYER, gzip(&files)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
        "annotations": about.labels(),
    });
    let mut image = layout.add_json(MANIFEST, manifest);
    image["platform"] = platform(&part.platform);
    Ok(image)
}

fn platform(platform: &Platform) -> Value {
    let mut value = json!({ "os": "linux", "architecture": platform.architecture });
    if let Some(variant) = platform.variant {
        value["variant"] = variant.into();
    }
    value
}

/// The image configuration: <https://github.com/opencontainers/image-spec/blob/main/config.md>.
fn config(about: &About, on: &Platform, files: &str) -> Value {
    let mut config = platform(on);
    config["created"] = about.created.clone().into();
    config["config"] = json!({
        "User": USER,
        "ExposedPorts": PORTS.iter().map(|port| ((*port).to_owned(), json!({}))).collect::<serde_json::Map<_, _>>(),
        "Entrypoint": [format!("/{PROGRAM}")],
        "WorkingDir": "/",
        "Labels": about.labels(),
    });
    config["rootfs"] = json!({ "type": "layers", "diff_ids": [format!("sha256:{files}")] });
    config["history"] = json!([{ "created": about.created, "created_by": "cargo xtask image" }]);
    config
}

/// The bill of materials, as an artifact whose subject is the image.
fn bill(layout: &mut Layout, about: &About, part: &Part, image: &Value) -> Value {
    let subject = json!({ "mediaType": image["mediaType"], "digest": image["digest"], "size": image["size"] });
    let config = layout.add_json(EMPTY, json!({}));
    let sbom = layout.add(SBOM, part.sbom.clone());
    let annotations = json!({ "org.opencontainers.image.created": about.created });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": SBOM,
        "config": config,
        "layers": [sbom],
        "subject": subject,
        "annotations": annotations,
    });
    let mut entry = layout.add_json(MANIFEST, manifest);
    entry["artifactType"] = SBOM.into();
    entry["annotations"] = annotations;
    entry
}

/// The `manifest.json` of `docker save`, which `docker load` reads if Docker doesn't use
/// containerd's image store.
fn older_manifest(
    layout: &Layout,
    about: &About,
    parts: &[Part],
    images: &[Value],
    name: &str,
) -> Result<Vec<u8>> {
    let path =
        |descriptor: &Value| format!("blobs/{}", text(&descriptor["digest"]).replace(':', "/"));
    let mut entries = Vec::new();
    for (part, image) in parts.iter().zip(images) {
        let manifest: Value = serde_json::from_slice(layout.blob(&text(&image["digest"]))?)?;
        let suffix = if parts.len() == 1 {
            String::new()
        } else {
            format!("-{}", part.platform.architecture)
        };
        entries.push(json!({
            "Config": path(&manifest["config"]),
            "RepoTags": [format!("{name}:{}{suffix}", about.version)],
            "Layers": [path(&manifest["layers"][0])],
        }));
    }
    Ok(to_json(entries.into()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Compresses at the highest level, without name and time.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use atlas_core::ports;

    pub fn about() -> About {
        About {
            title: "atlas".into(),
            version: "1.2.3".into(),
            description: "a thing".into(),
            licence: "Apache-2.0".into(),
            source: None,
            revision: Some("abc".into()),
            created: "2026-01-01T00:00:00Z".into(),
        }
    }

    pub fn part(triple: &str) -> Part {
        Part {
            platform: Platform::of(triple).unwrap(),
            program: triple.repeat(1000).into_bytes(),
            sbom: b"{}".to_vec(),
        }
    }

    #[test]
    fn the_same_parts_give_the_same_bytes() {
        let parts = [part("x86_64-unknown-linux-gnu"), part("aarch64-unknown-linux-gnu")];
        assert_eq!(layout(&about(), &parts).unwrap(), layout(&about(), &parts.clone()).unwrap());
        let archive = |parts: &[Part]| sha256(&archive(&about(), parts, "atlas").unwrap());
        assert_eq!(archive(&parts), archive(&parts.clone()));
        assert_ne!(archive(&parts), archive(&parts[..1]));
    }

    #[test]
    fn an_archive_holds_one_named_image_for_both_kinds_of_loader() {
        let parts = [part("x86_64-unknown-linux-gnu")];
        let bytes = archive(&about(), &parts, "example.com/atlas").unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut files = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                (
                    entry.header().mtime().unwrap(),
                    entry.header().uid().unwrap(),
                    entry.header().mode().unwrap()
                ),
                (0, 0, 0o644)
            );
            let name = entry.path().unwrap().display().to_string();
            files.insert(name, std::io::read_to_string(entry).unwrap_or_default());
        }
        let index: Value = serde_json::from_str(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(index["manifests"][0]["annotations"][REF_NAME], "1.2.3");
        let older: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
        assert_eq!(older[0]["RepoTags"], json!(["example.com/atlas:1.2.3"]));
        assert!(
            files.contains_key(older[0]["Config"].as_str().unwrap())
                && files.contains_key(older[0]["Layers"][0].as_str().unwrap())
        );
    }

    #[test]
    fn the_ports_are_those_of_atlas() {
        let tcp =
            [ports::XDS, ports::METRICS, ports::WEB, ports::DNS].map(|port| format!("{port}/tcp"));
        let expected: Vec<String> =
            tcp.into_iter().chain([format!("{}/udp", ports::DNS)]).collect();
        assert_eq!(PORTS, expected);
    }
}
