//! Volumes of Secrets, ConfigMaps and tokens: directories whose files change atomically.
//!
//! ```text
//! /etc/atlas/tls.crt -> ..data/tls.crt      ..data -> ..7      ..7/tls.crt
//! ```
//! A new content is written into a directory of its own, then `..data` is replaced by one
//! rename(2): a reader sees the old files or the new ones, and a watcher of the directory sees
//! `..data` move.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::spec;
use crate::run::Client;

/// Files by their path in the volume: content and mode.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// A volume of a container.
#[derive(Debug)]
pub struct Volume {
    /// Its path in the container.
    pub mount_path: PathBuf,
    /// Its path on the host.
    pub directory: PathBuf,
    /// An `emptyDir`, which the container may write to.
    pub writable: bool,
    pod: Value,
    sources: Vec<Source>,
    written: Option<Files>,
    generation: u64,
}

/// A source of a volume's files.
#[derive(Debug)]
struct Source {
    kind: Kind,
    /// As in the Pod's spec: `items`, `optional`, `path`, …
    spec: Value,
    mode: u32,
}

#[derive(Debug)]
enum Kind {
    Secret(String),
    ConfigMap(String),
    /// The token, once it was requested. It is valid for longer than any test.
    Token(Option<String>),
    DownwardApi,
}

impl Volume {
    /// The volumes that a container mounts, with directories beneath `state`, empty as yet.
    pub fn of_pod(pod: &Value, container: &Value, state: &Path) -> Result<Vec<Self>> {
        let mut volumes = Vec::new();
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let name = mount["name"].as_str().context("a volumeMount without a name")?;
            let what = || format!("the volume {name}");
            ensure!(
                mount["subPath"].is_null(),
                "{}: a subPath is never refreshed, and not imitated here",
                what()
            );
            let mount_path = PathBuf::from(mount["mountPath"].as_str().with_context(what)?);
            let is_it = |volume: &&Value| volume["name"] == name;
            let volume = pod["spec"]["volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .find(is_it)
                .with_context(what)?;
            let writable = !volume["emptyDir"].is_null();
            // A writable mount path above the state directory, such as /tmp, needs no volume.
            if writable && state.starts_with(&mount_path) {
                continue;
            }
            let directory = state.join("volumes").join(name);
            // A volume of an earlier Pod of this name would still have its files.
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(what);
                }
                _ => fs::create_dir_all(&directory).with_context(what)?,
            }
            let sources = sources(volume).with_context(what)?;
            volumes.push(Self {
                mount_path,
                directory,
                writable,
                pod: pod.clone(),
                sources,
                written: None,
                generation: 0,
            });
        }
        Ok(volumes)
    }

    /// Reads its sources and, if anything has changed, replaces the files. If a source is missing
    /// that isn't optional, fails and changes nothing.
    pub fn refresh(&mut self, client: &Client) -> Result<()> {
        let mut files = Files::new();
        for source in &mut self.sources {
            source.read(client, &self.pod, &mut files)?;
        }
        if self.written.as_ref() != Some(&files) {
            self.generation += 1;
            swap(&self.directory, &files, self.generation)
                .with_context(|| format!("cannot write {}", self.directory.display()))?;
            self.written = Some(files);
        }
        Ok(())
    }
}

fn sources(volume: &Value) -> Result<Vec<Source>> {
    let mode = |value: &Value| {
        value["defaultMode"].as_u64().and_then(|mode| mode.try_into().ok()).unwrap_or(0o644)
    };
    let one = |kind: &str, spec: &Value, mode: u32| -> Result<Source> {
        let name = |key: &str| {
            spec[key].as_str().map(str::to_owned).with_context(|| format!("{kind} has no {key}"))
        };
        let kind = match kind {
            // A projected Secret says `name` instead.
            "secret" => Kind::Secret(name("secretName").or_else(|_| name("name"))?),
            "configMap" => Kind::ConfigMap(name("name")?),
            "serviceAccountToken" => Kind::Token(None),
            "downwardAPI" => Kind::DownwardApi,
            _ => bail!("this imitation of a kubelet knows no {kind}"),
        };
        Ok(Source { kind, spec: spec.clone(), mode })
    };
    let kind_and_spec = |value: &Value| -> Result<(String, Value)> {
        let mut entries = value.as_object().into_iter().flatten().filter(|(key, _)| *key != "name");
        let (kind, spec) = entries.next().with_context(|| format!("nothing in {value}"))?;
        Ok((kind.clone(), spec.clone()))
    };
    let (kind, spec) = kind_and_spec(volume)?;
    match kind.as_str() {
        "emptyDir" => Ok(Vec::new()),
        "projected" => {
            let projected = spec["sources"].as_array().into_iter().flatten().map(|source| {
                let (kind, inner) = kind_and_spec(source)?;
                one(&kind, &inner, mode(&spec))
            });
            projected.collect()
        }
        _ => Ok(vec![one(&kind, &spec, mode(&spec))?]),
    }
}

impl Source {
    fn read(&mut self, client: &Client, pod: &Value, files: &mut Files) -> Result<()> {
        let namespace =
            pod["metadata"]["namespace"].as_str().context("a Pod without a namespace")?;
        let object = |plural: &str, name: &str| {
            client.find(&format!("/api/v1/namespaces/{namespace}/{plural}/{name}"))
        };
        match &mut self.kind {
            Kind::Secret(name) => {
                let decode = |text: &str| {
                    BASE64_STANDARD.decode(text).context("a Secret that is not base64")
                };
                let found = object("secrets", name)?;
                add(
                    files,
                    &format!("the Secret {namespace}/{name}"),
                    found.as_ref(),
                    &self.spec,
                    self.mode,
                    decode,
                )
            }
            Kind::ConfigMap(name) => {
                let found = object("configmaps", name)?;
                let bytes = |text: &str| Ok(text.as_bytes().to_vec());
                add(
                    files,
                    &format!("the ConfigMap {namespace}/{name}"),
                    found.as_ref(),
                    &self.spec,
                    self.mode,
                    bytes,
                )
            }
            Kind::Token(token) => {
                let text = match token {
                    Some(token) => token.clone(),
                    None => {
                        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                        let (name, uid) =
                            (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
                        let account = text(&pod["spec"]["serviceAccountName"]);
                        token
                            .insert(client.token_of(namespace, &account, Some((&name, &uid)))?)
                            .clone()
                    }
                };
                let path = self.spec["path"].as_str().context("a token without a path")?;
                files.insert(path.to_owned(), (text.into_bytes(), self.mode));
                Ok(())
            }
            Kind::DownwardApi => {
                for item in self.spec["items"].as_array().into_iter().flatten() {
                    let path = item["path"].as_str().context("an item without a path")?;
                    let from = item["fieldRef"]["fieldPath"]
                        .as_str()
                        .context("an item without a fieldRef")?;
                    // Fields of a volume don't include the Pod's status, so the address is
                    // irrelevant.
                    let value = spec::field(pod, IpAddr::from([0, 0, 0, 0]), from)?;
                    files.insert(path.to_owned(), (value.into_bytes(), self.mode));
                }
                Ok(())
            }
        }
    }
}

/// Adds the keys of a Secret or ConfigMap, or those that `items` names.
fn add(
    files: &mut Files,
    what: &str,
    object: Option<&Value>,
    spec: &Value,
    mode: u32,
    decode: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let optional = spec["optional"] == true;
    let Some(object) = object else {
        ensure!(optional, "there is no {}", what.trim_start_matches("the "));
        return Ok(());
    };
    let value = |key: &str| object["data"][key].as_str();
    let Some(items) = spec["items"].as_array() else {
        for (key, text) in object["data"].as_object().into_iter().flatten() {
            files.insert(key.clone(), (decode(text.as_str().unwrap_or_default())?, mode));
        }
        return Ok(());
    };
    for item in items {
        let (Some(key), Some(path)) = (item["key"].as_str(), item["path"].as_str()) else {
            bail!("an item without key or path")
        };
        let mode = item["mode"].as_u64().and_then(|mode| mode.try_into().ok()).unwrap_or(mode);
        match value(key) {
            Some(text) => drop(files.insert(path.to_owned(), (decode(text)?, mode))),
            None => ensure!(optional, "{what} has no key {key}"),
        }
    }
    Ok(())
}

/// Replaces all files of a volume atomically.
fn swap(directory: &Path, files: &Files, generation: u64) -> std::io::Result<()> {
    let new = format!("..{generation}");
    for (path, (content, mode)) in files {
        let file = directory.join(&new).join(path);
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&file, content)?;
        fs::set_permissions(&file, Permissions::from_mode(*mode))?;
    }
    fs::create_dir_all(directory.join(&new))?;
    let (data, next) = (directory.join("..data"), directory.join("..data_tmp"));
    let old = fs::read_link(&data).ok();
    symlink(&new, &next)?;
    fs::rename(&next, &data)?;

    let tops: Vec<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let gone =
            name.to_str().is_some_and(|name| !name.starts_with("..") && !tops.contains(&name));
        if gone {
            fs::remove_file(directory.join(name))?;
        }
    }
    for top in tops {
        match symlink(Path::new("..data").join(top), directory.join(top)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    old.map_or(Ok(()), |old| fs::remove_dir_all(directory.join(old)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_change_all_at_once_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs
                .iter()
                .map(|(path, text)| ((*path).to_owned(), (text.as_bytes().to_vec(), 0o440)))
                .collect()
        };
        swap(directory.path(), &files(&[("tls.crt", "one"), ("tls.key", "one"), ("old", "")]), 1)
            .unwrap();
        swap(
            directory.path(),
            &files(&[("tls.crt", "two"), ("tls.key", "two"), ("deep/er", "")]),
            2,
        )
        .unwrap();
        assert_eq!(fs::read_to_string(at("tls.crt")).unwrap(), "two");
        assert_eq!(fs::read_link(at("tls.crt")).unwrap(), Path::new("..data/tls.crt"));
        assert_eq!(fs::metadata(at("tls.key")).unwrap().permissions().mode() & 0o777, 0o440);
        assert!(
            at("deep/er").is_file()
                && fs::symlink_metadata(at("old")).is_err()
                && !at("..1").exists()
        );
    }

    #[test]
    fn a_projected_volume_has_several_sources() {
        let volume = json!({"name": "v", "projected": {"defaultMode": 0o400, "sources": [
            {"secret": {"name": "s"}}, {"serviceAccountToken": {"path": "token"}},
        ]}});
        let sources = sources(&volume).unwrap();
        assert!(matches!(&sources[0].kind, Kind::Secret(name) if name == "s"), "{sources:?}");
        assert!(
            matches!(sources[1].kind, Kind::Token(None)) && sources[1].mode == 0o400,
            "{sources:?}"
        );
        let unknown = json!({"name": "v", "hostPath": {"path": "/"}});
        assert!(super::sources(&unknown).unwrap_err().to_string().contains("hostPath"));
    }

    #[test]
    fn a_missing_key_is_named_unless_it_is_optional() {
        let object = json!({"data": {"a": "1"}});
        let add = |spec: Value, object: Option<&Value>| {
            let mut files = Files::new();
            add(&mut files, "the Secret m/s", object, &spec, 0o644, |text| {
                Ok(text.as_bytes().to_vec())
            })
            .map(|()| files.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(
            add(json!({"items": [{"key": "a", "path": "b"}]}), Some(&object)).unwrap(),
            ["b"]
        );
        assert!(
            add(json!({"items": [{"key": "c", "path": "c"}]}), Some(&object))
                .unwrap_err()
                .to_string()
                .contains("no key c")
        );
        assert_eq!(add(json!({}), None).unwrap_err().to_string(), "there is no Secret m/s");
        assert!(add(json!({"optional": true}), None).unwrap().is_empty());
    }
}
