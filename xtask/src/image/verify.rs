//! Reads a layout and verifies all digests, sizes and references, and the contents of each image.

use std::collections::BTreeSet;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::layout::{Layout, MARKER, sha256};
use super::pack::{CONFIG, EMPTY, INDEX, LAYER, MANIFEST, PROGRAM, SBOM};

/// The contents of a layout.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub images: Vec<Image>,
    /// Digest of a bill of materials, and of the image it is of.
    pub bills: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Image {
    /// `linux/amd64`
    pub platform: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Bytes of its layers as they are pulled.
    pub pulled: usize,
    /// Bytes of its layers on disk.
    pub unpacked: usize,
    pub program: Vec<u8>,
}

/// # Errors
/// A blob is missing or doesn't match; the error has its digest.
pub fn verify(layout: &Layout) -> Result<Contents> {
    let marker: Value =
        serde_json::from_slice(layout.files().get(MARKER).context("there is no oci-layout")?)?;
    ensure!(marker["imageLayoutVersion"] == "1.0.0", "oci-layout has another version: {marker}");
    let mut reader = Reader { layout, seen: BTreeSet::new(), contents: Contents::default() };
    let index = layout.files().get("index.json").context("there is no index.json")?;
    reader.index(&serde_json::from_slice(index)?).context("index.json")?;
    let blobs = layout.files().keys().filter(|name| name.starts_with("blobs/"));
    let stray: Vec<&String> = blobs.filter(|name| !reader.seen.contains(*name)).collect();
    ensure!(stray.is_empty(), "blobs that nothing refers to: {stray:?}");
    let contents = reader.contents;
    ensure!(!contents.images.is_empty(), "there is no image");
    for (bill, subject) in &contents.bills {
        ensure!(
            contents.images.iter().any(|image| image.digest == *subject),
            "{bill} is of {subject}, which is no image here"
        );
    }
    Ok(contents)
}

struct Reader<'a> {
    layout: &'a Layout,
    seen: BTreeSet<String>,
    contents: Contents,
}

impl<'a> Reader<'a> {
    /// The bytes of a descriptor's blob, verified against its digest and size.
    fn blob(&mut self, descriptor: &Value, media_type: &str) -> Result<&'a [u8]> {
        let digest = text(&descriptor["digest"]);
        let blob = self.layout.blob(&digest)?;
        ensure!(
            digest == format!("sha256:{}", sha256(blob)),
            "{digest}: the blob has another digest"
        );
        ensure!(
            descriptor["size"] == blob.len(),
            "{digest}: the blob has {} bytes, not {}",
            blob.len(),
            descriptor["size"]
        );
        ensure!(
            descriptor["mediaType"] == media_type,
            "{digest}: is {}, not {media_type}",
            descriptor["mediaType"]
        );
        self.seen.insert(format!("blobs/{}", digest.replace(':', "/")));
        Ok(blob)
    }

    fn json(&mut self, descriptor: &Value, media_type: &str) -> Result<Value> {
        let blob = self.blob(descriptor, media_type)?;
        serde_json::from_slice(blob).with_context(|| format!("{} is no JSON", descriptor["digest"]))
    }

    fn index(&mut self, index: &Value) -> Result<()> {
        ensure!(index["schemaVersion"] == 2 && index["mediaType"] == INDEX, "is no index");
        for entry in list(&index["manifests"])? {
            let context = || format!("{}", entry["digest"]);
            match entry["mediaType"].as_str() {
                Some(INDEX) => {
                    let index = self.json(entry, INDEX)?;
                    self.index(&index).with_context(context)?;
                }
                Some(MANIFEST) if entry["artifactType"] == SBOM => {
                    self.bill(entry).with_context(context)?
                }
                _ => self.image(entry).with_context(context)?,
            }
        }
        Ok(())
    }

    fn bill(&mut self, entry: &Value) -> Result<()> {
        let manifest = self.json(entry, MANIFEST)?;
        ensure!(manifest["artifactType"] == SBOM, "the manifest has another artifactType");
        self.json(&manifest["config"], EMPTY)?;
        let [layer] = list(&manifest["layers"])?.as_slice() else {
            anyhow::bail!("a bill of materials is one blob")
        };
        self.json(layer, SBOM)?;
        // The subject itself is verified as an entry of the index.
        ensure!(manifest["subject"]["mediaType"] == MANIFEST, "the subject is no manifest");
        self.contents.bills.push((text(&layer["digest"]), text(&manifest["subject"]["digest"])));
        Ok(())
    }

    fn image(&mut self, entry: &Value) -> Result<()> {
        let manifest = self.json(entry, MANIFEST)?;
        let config = self.json(&manifest["config"], CONFIG)?;
        for key in ["os", "architecture", "variant"] {
            ensure!(
                entry["platform"][key] == config[key],
                "{key}: the index and the configuration disagree"
            );
        }
        let (layers, files) = (list(&manifest["layers"])?, list(&config["rootfs"]["diff_ids"])?);
        let ([layer], [files]) = (layers.as_slice(), files.as_slice()) else {
            anyhow::bail!("the image has not one layer")
        };
        let packed = self.blob(layer, LAYER)?;
        let mut unpacked = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut unpacked).context("the layer is no gzip")?;
        ensure!(
            text(files) == format!("sha256:{}", sha256(&unpacked)),
            "the layer's files have another digest than the configuration says"
        );
        let program = program(&unpacked)?;
        check_config(&config["config"])?;
        let platform =
            ["os", "architecture", "variant"].iter().filter_map(|key| config[*key].as_str());
        let platform = platform.collect::<Vec<_>>().join("/");
        let digest = text(&entry["digest"]);
        self.contents.images.push(Image {
            platform,
            digest,
            pulled: packed.len(),
            unpacked: unpacked.len(),
            program,
        });
        Ok(())
    }
}

fn check_config(config: &Value) -> Result<()> {
    ensure!(
        config["Entrypoint"] == serde_json::json!([format!("/{PROGRAM}")]),
        "the image starts {}",
        config["Entrypoint"]
    );
    let user = text(&config["User"]);
    let number = user.split(':').next().and_then(|user| user.parse::<u32>().ok());
    ensure!(
        number.is_some_and(|number| number != 0),
        "the user {user:?} is no number other than root's"
    );
    ensure!(config["Env"].is_null(), "the image sets an environment: {}", config["Env"]);
    Ok(())
}

/// The one file of a layer.
fn program(files: &[u8]) -> Result<Vec<u8>> {
    let mut program = None;
    for entry in tar::Archive::new(files).entries()? {
        let mut entry = entry.context("the layer is no archive")?;
        let (path, header) = (entry.path()?.display().to_string(), entry.header());
        let plain = (header.mode()?, header.uid()?, header.gid()?, header.mtime()?);
        ensure!(path == PROGRAM && program.is_none(), "the layer has more than /{PROGRAM}: {path}");
        ensure!(plain == (0o755, 0, 0, 0), "{path}: has mode, user, group and time {plain:?}");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        program = Some(bytes);
    }
    program.with_context(|| format!("the layer has no /{PROGRAM}"))
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().context("a list is missing")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::pack;
    use super::super::pack::tests::{about, part};
    use super::*;

    const X86: &str = "x86_64-unknown-linux-gnu";
    const ARM: &str = "aarch64-unknown-linux-musl";

    #[test]
    fn one_image_and_its_bill_are_found_as_they_were_packed() {
        let part = part(X86);
        let contents =
            verify(&pack::layout(&about(), std::slice::from_ref(&part)).unwrap()).unwrap();
        let [image] = contents.images.as_slice() else { panic!("{contents:?}") };
        assert_eq!((image.platform.as_str(), &image.program), ("linux/amd64", &part.program));
        assert!(image.pulled < image.unpacked && image.unpacked > part.program.len());
        assert_eq!(
            contents.bills,
            [(format!("sha256:{}", sha256(&part.sbom)), image.digest.clone())]
        );
    }

    #[test]
    fn several_images_have_one_index_and_a_bill_each() {
        let layout = pack::layout(&about(), &[part(X86), part(ARM)]).unwrap();
        let contents = verify(&layout).unwrap();
        assert_eq!(
            contents.images.iter().map(|image| image.platform.as_str()).collect::<Vec<_>>(),
            ["linux/amd64", "linux/arm64/v8"]
        );
        assert_eq!(contents.bills.len(), 2);
        let index: Value = serde_json::from_slice(&layout.files()["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["mediaType"], INDEX);
        assert_eq!(index["manifests"][0]["annotations"][pack::REF_NAME], "1.2.3");
    }

    #[test]
    fn a_layout_that_was_tampered_with_is_refused() {
        let good = pack::layout(&about(), &[part(X86)]).unwrap();
        for name in good.files().keys() {
            let mut changed = good.clone();
            changed.files_mut().get_mut(name).unwrap().push(b'x');
            assert!(verify(&changed).is_err(), "{name} has a byte more");
            let mut missing = good.clone();
            missing.files_mut().remove(name);
            assert!(verify(&missing).is_err(), "{name} is missing");
        }
        let mut more = good;
        more.add("text/plain", b"stray".to_vec());
        assert!(verify(&more).unwrap_err().to_string().contains("nothing refers to"));
    }
}
