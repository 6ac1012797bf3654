//! The bill of materials of the program's linked packages, as CycloneDX 1.6 JSON
//! (<https://cyclonedx.org/docs/1.6/json/>).
//!
//! ```text
//! what cargo compiled for the target ─┐
//! cargo metadata: version, licence ───┴▶ components, and who depends on whom
//! ```
//!
//! Packages that only run during the build, such as procedural macros, are not listed. Equal input
//! gives equal bytes: entries are sorted, the time is the commit's, and the serial number is a hash
//! of the content.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use spdx::Expression;

use super::about::About;
use super::layout::{sha256, to_json};
use super::platform::Platform;

/// The subject of the bill.
#[derive(Debug)]
pub struct Of<'a> {
    pub about: &'a About,
    pub platform: &'a Platform,
    /// Digest of the program.
    pub program: String,
    /// Version of Rust, whose standard library cargo doesn't list.
    pub rust: &'a str,
}

impl Of<'_> {
    /// The libraries that the toolchain links and cargo doesn't list. A program doesn't contain the
    /// version of its C library.
    fn toolchain(&self) -> Vec<Value> {
        let part = |name: &str, licence: &str| {
            let reference = format!("pkg:generic/{name}");
            json!({ "type": "library", "bom-ref": reference, "name": name, "purl": reference, "licenses": [{ "expression": licence }] })
        };
        let mut std = part("rust-std", "MIT OR Apache-2.0");
        let reference = format!("pkg:generic/rust-std@{}", self.rust);
        std["version"] = self.rust.into();
        (std["bom-ref"], std["purl"]) = (reference.clone().into(), reference.into());
        let libc = if self.platform.is_musl() {
            part("musl", "MIT")
        } else {
            part("glibc", "LGPL-2.1-or-later")
        };
        vec![std, libc]
    }
}

/// Makes the bill of `packages`, which are cargo's ids.
///
/// # Errors
/// A package has no licence, or no package of the program depends on it.
pub fn sbom(of: &Of<'_>, metadata: &Value, packages: &BTreeSet<String>) -> Result<Vec<u8>> {
    let graph = Graph::of(metadata, packages)?;
    let root = graph.root(&of.about.title)?;
    ensure!(
        graph.reached(root).len() == packages.len(),
        "BUG: packages were built that {} doesn't need",
        of.about.title
    );
    let toolchain = of.toolchain();
    let mut components = vec![];
    for id in packages.iter().filter(|id| *id != root) {
        components.push(component(graph.packages[id.as_str()], "library")?);
    }
    components.extend(toolchain.iter().cloned());
    components.sort_by_cached_key(|component| component["bom-ref"].to_string());
    let mut program = component(graph.packages[root], "application")?;
    program["description"] = of.about.description.clone().into();
    program["hashes"] = json!([{ "alg": "SHA-256", "content": of.program }]);
    let mut bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": of.about.created,
            "component": program,
            "properties": [{ "name": "atlas:target", "value": of.platform.triple }],
        },
        "components": components,
        "dependencies": graph.dependencies(root, &toolchain)?,
    });
    bill["serialNumber"] = serial(&to_json(bill.clone())).into();
    Ok(to_json(bill))
}

/// The packages of the program, and their dependencies.
struct Graph<'a> {
    packages: BTreeMap<&'a str, &'a Value>,
    needs: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Graph<'a> {
    fn of(metadata: &'a Value, packages: &BTreeSet<String>) -> Result<Self> {
        let described =
            metadata["packages"].as_array().context("cargo metadata has no packages")?;
        let described =
            described.iter().filter_map(|package| Some((package["id"].as_str()?, package)));
        let described: BTreeMap<_, _> =
            described.filter(|(id, _)| packages.contains(*id)).collect();
        let missing = packages.iter().find(|id| !described.contains_key(id.as_str()));
        ensure!(
            missing.is_none(),
            "cargo metadata doesn't describe {}",
            missing.map_or("", String::as_str)
        );
        let needs = needs(metadata)?.into_iter().filter(|(id, _)| packages.contains(*id));
        let needs = needs.map(|(id, needed)| {
            (id, needed.into_iter().filter(|id| packages.contains(*id)).collect())
        });
        Ok(Self { packages: described, needs: needs.collect() })
    }

    fn root(&self, name: &str) -> Result<&'a str> {
        let root = self
            .packages
            .iter()
            .find(|(_, package)| package["name"] == name && package["source"].is_null());
        root.map(|(id, _)| *id).with_context(|| format!("{name} is not among what was built"))
    }

    fn reached(&self, root: &'a str) -> BTreeSet<&'a str> {
        reached(&self.needs, root)
    }

    /// The `dependencies` of the bill: each component with those it depends on.
    fn dependencies(&self, root: &str, toolchain: &[Value]) -> Result<Vec<Value>> {
        let reference = |id: &str| {
            self.packages
                .get(id)
                .map(|package| purl(package))
                .context("BUG: a package that nobody describes")
        };
        let toolchain =
            || toolchain.iter().filter_map(|part| Some(part["bom-ref"].as_str()?.to_owned()));
        let mut lines: BTreeMap<String, BTreeSet<String>> =
            toolchain().map(|id| (id, BTreeSet::new())).collect();
        for (id, needed) in &self.needs {
            let mut needed =
                needed.iter().map(|id| reference(id)).collect::<Result<BTreeSet<_>>>()?;
            if *id == root {
                needed.extend(toolchain());
            }
            lines.insert(reference(id)?, needed);
        }
        Ok(lines
            .into_iter()
            .map(|(id, needed)| json!({ "ref": id, "dependsOn": needed }))
            .collect())
    }
}

/// Normal dependencies, without those of tests and build scripts.
fn needs(metadata: &Value) -> Result<BTreeMap<&str, BTreeSet<&str>>> {
    let nodes =
        metadata["resolve"]["nodes"].as_array().context("cargo metadata has no resolve.nodes")?;
    let normal = |dep: &Value| {
        dep["dep_kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    let needs = nodes.iter().filter_map(|node| {
        let deps = node["deps"].as_array()?.iter().filter(|dep| normal(dep));
        Some((node["id"].as_str()?, deps.filter_map(|dep| dep["pkg"].as_str()).collect()))
    });
    Ok(needs.collect())
}

fn reached<'a>(needs: &BTreeMap<&'a str, BTreeSet<&'a str>>, root: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut todo) = (BTreeSet::from([root]), vec![root]);
    while let Some(id) = todo.pop() {
        todo.extend(needs.get(id).into_iter().flatten().filter(|id| reached.insert(id)));
    }
    reached
}

fn component(package: &Value, kind: &str) -> Result<Value> {
    let field = |key: &str| {
        package[key].as_str().with_context(|| format!("{} has no {key}", package["id"]))
    };
    let licence = field("license").context(
        "a bill of materials needs its licence; `cargo xtask licences` says who needs the crate",
    )?;
    // `MIT/Apache-2.0` is an older notation of `OR`.
    let licence =
        Expression::canonicalize(licence).ok().flatten().unwrap_or_else(|| licence.to_owned());
    let mut component = json!({
        "type": kind, "bom-ref": purl(package), "name": field("name")?, "version": field("version")?,
        "purl": purl(package), "licenses": [{ "expression": licence }],
    });
    if let Some(url) = package["repository"].as_str() {
        component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
    }
    Ok(component)
}

/// The package URL (<https://github.com/package-url/purl-spec>). A `+` in a version is
/// percent-encoded.
fn purl(package: &Value) -> String {
    let field = |key: &str| package[key].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", field("name"), field("version").replace('+', "%2B"))
}

/// A UUID of version 8 (RFC 9562), whose bits are those of a digest.
fn serial(content: &[u8]) -> String {
    let mut digits: Vec<char> = sha256(content).chars().take(32).collect();
    (digits[12], digits[16]) = ('8', 'a');
    let part = |range: std::ops::Range<usize>| digits[range].iter().collect::<String>();
    format!(
        "urn:uuid:{}-{}-{}-{}-{}",
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32)
    )
}

#[cfg(test)]
mod tests {
    use super::super::build::{Place, Toolchain};
    use super::super::pack::tests::about;
    use super::*;

    /// The bill of this workspace with all normal dependencies, procedural macros included.
    fn bill() -> (BTreeSet<(String, String)>, Value, Vec<u8>) {
        let place = Place::here().unwrap();
        let toolchain = Toolchain::of(&place).unwrap();
        let platform = Platform::of(&toolchain.host)
            .unwrap_or_else(|_| Platform::of("x86_64-unknown-linux-gnu").unwrap());
        let metadata = place.metadata(&platform).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let root = packages.iter().find(|package| package["name"] == "atlas").unwrap()["id"]
            .as_str()
            .unwrap();
        let ids: BTreeSet<String> =
            reached(&needs(&metadata).unwrap(), root).into_iter().map(str::to_owned).collect();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let wanted = packages.iter().filter(|package| {
            ids.contains(package["id"].as_str().unwrap()) && package["id"] != root
        });
        let wanted =
            wanted.map(|package| (text(&package["name"]), text(&package["version"]))).collect();
        let of = Of {
            about: &about(),
            platform: &platform,
            program: sha256(b"x"),
            rust: &toolchain.version,
        };
        let bytes = sbom(&of, &metadata, &ids).unwrap();
        assert_eq!(
            bytes,
            sbom(&of, &metadata, &ids).unwrap(),
            "the same again gives the same bytes"
        );
        (wanted, serde_json::from_slice(&bytes).unwrap(), bytes)
    }

    #[test]
    fn every_dependency_is_in_the_bill_once_with_all_that_it_should_say() {
        let (wanted, bill, bytes) = bill();
        assert!(
            wanted.len() > 50
                && wanted.iter().any(|(name, _)| name == "rustls")
                && wanted.iter().all(|(name, _)| name != "proptest")
        );
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let components = bill["components"].as_array().unwrap();
        let crates: Vec<&Value> = components
            .iter()
            .filter(|component| text(&component["purl"]).starts_with("pkg:cargo/"))
            .collect();
        assert_eq!(components.len(), crates.len() + 2, "Rust's library and C's are no crates");
        let found: BTreeSet<_> = crates
            .iter()
            .map(|component| (text(&component["name"]), text(&component["version"])))
            .collect();
        assert_eq!(found, wanted);
        assert_eq!(crates.len(), wanted.len(), "once");
        for component in &crates {
            let (name, version) = (text(&component["name"]), text(&component["version"]));
            assert_eq!(
                component["purl"],
                format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
            );
            let licence = text(&component["licenses"][0]["expression"]);
            assert!(Expression::parse(&licence).is_ok(), "{name}: {licence}");
        }
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            !text.contains("registry+") && !text.contains("path+"),
            "where this machine has its crates from is nobody's business"
        );
    }

    #[test]
    fn the_graph_of_the_bill_is_closed_and_complete() {
        let (_, bill, _) = bill();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let components =
            bill["components"].as_array().unwrap().iter().chain([&bill["metadata"]["component"]]);
        let known: BTreeSet<String> =
            components.map(|component| text(&component["bom-ref"])).collect();
        let lines = bill["dependencies"].as_array().unwrap();
        assert_eq!(lines.iter().map(|line| text(&line["ref"])).collect::<BTreeSet<_>>(), known);
        assert_eq!(lines.len(), known.len());
        assert!(
            lines
                .iter()
                .flat_map(|line| line["dependsOn"].as_array().unwrap())
                .all(|id| known.contains(id.as_str().unwrap()))
        );
    }

    #[test]
    fn the_serial_number_is_a_uuid_of_the_content() {
        let serial = super::serial;
        assert_eq!(serial(b""), "urn:uuid:e3b0c442-98fc-8c14-aafb-f4c8996fb924");
        assert_ne!(serial(b"a"), serial(b"b"));
    }
}
