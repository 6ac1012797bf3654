//! Finds the descriptor set that envoy-types ships (`src/generated/types.bin`) and tells the crate
//! where it lies, as `ENVOY_DESCRIPTORS`: [`atlas_core::render`] needs the names of fields, which
//! the generated messages don't carry.
//!
//! Decoded, the whole set takes some 45 MB, which a running Atlas would spend on the bootstrap
//! files that it writes. For those there is `BOOTSTRAP_DESCRIPTORS`: of the set only the types that
//! `src/render/bootstrap.types` names.
//!
//! Cargo tells a build script nothing of where its crate's dependencies are, so this looks where
//! cargo unpacks them, and else asks `cargo metadata`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a build script is an edge"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};
use serde_json::Value;

/// The crate that has the descriptor set, and where in it.
const CRATE: &str = "envoy-types";
const FILE: &str = "src/generated/types.bin";
/// The types that bootstrap files are made of, one on a line.
const TYPES: &str = "src/render/bootstrap.types";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    println!("cargo::rerun-if-changed={TYPES}");
    match descriptors() {
        Ok(file) => {
            println!("cargo::rerun-if-changed={}", file.display());
            println!("cargo::rustc-env=ENVOY_DESCRIPTORS={}", file.display());
            let few = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default())
                .join("bootstrap.bin");
            match pick(&file)
                .and_then(|bytes| std::fs::write(&few, bytes).map_err(|error| error.to_string()))
            {
                Ok(()) => {
                    println!("cargo::rustc-env=BOOTSTRAP_DESCRIPTORS={}", few.display());
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    println!("cargo::error=cannot pick descriptors: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            println!("cargo::error={}", error.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn descriptors() -> Result<PathBuf, String> {
    let file = match registry() {
        Some(file) => file,
        None => manifest(&metadata()?)?.with_file_name("").join(FILE),
    };
    if file.is_file() {
        Ok(file)
    } else {
        Err(format!("{CRATE} has no {FILE} any more ({}): look where it is now", file.display()))
    }
}

/// Where cargo unpacks crates of a registry, for the version in the lock file.
fn registry() -> Option<PathBuf> {
    let lock = std::fs::read_to_string(
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).join("../Cargo.lock"),
    )
    .ok()?;
    let (_, package) = lock.split_once(&format!("name = \"{CRATE}\"\nversion = \""))?;
    let (version, _) = package.split_once('"')?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    let file =
        |registry: std::fs::DirEntry| registry.path().join(format!("{CRATE}-{version}")).join(FILE);
    registries.flatten().map(file).find(|file| file.is_file())
}

/// Asks cargo, which knows vendored sources too. It wants every dependency, those of tests
/// included, so it may go online.
fn metadata() -> Result<Value, String> {
    let variable = |name: &str| {
        std::env::var_os(name).ok_or_else(|| format!("{name} is not set: run this by cargo"))
    };
    let output = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        // Without it cargo wants the crates of every other platform too, which nobody has
        // downloaded.
        .arg("--filter-platform")
        .arg(variable("TARGET")?)
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata printed no JSON: {error}"))
}

/// The path of the crate's `Cargo.toml`.
fn manifest(metadata: &Value) -> Result<PathBuf, String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found: Vec<&Value> = packages.iter().filter(|package| package["name"] == CRATE).collect();
    match found.as_slice() {
        [package] => package["manifest_path"]
            .as_str()
            .map(PathBuf::from)
            .ok_or_else(|| format!("cargo metadata gives {CRATE} no path")),
        _ => Err(format!("there are {} versions of {CRATE}, where one is needed", found.len())),
    }
}

/// The descriptors of the types in [`TYPES`], without the fields whose types are not among them.
fn pick(file: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let mut set = FileDescriptorSet::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    let text = std::fs::read_to_string(TYPES).map_err(|error| format!("{TYPES}: {error}"))?;
    let wanted = |name: &str| text.lines().any(|line| line == name.trim_start_matches('.'));
    for file in &mut set.file {
        let package = file.package().to_owned();
        file.message_type.retain_mut(|message| pick_message(message, &package, &wanted));
        file.enum_type.retain(|one| wanted(&within(&package, one)));
        (file.service, file.extension, file.options, file.source_code_info) =
            (Vec::new(), Vec::new(), None, None);
        (file.public_dependency, file.weak_dependency) = (Vec::new(), Vec::new());
    }
    set.file.retain(|file| !file.message_type.is_empty() || !file.enum_type.is_empty());
    let left: Vec<String> = set.file.iter().map(|file| file.name().to_owned()).collect();
    set.file.iter_mut().for_each(|file| file.dependency.retain(|name| left.contains(name)));
    Ok(set.encode_to_vec())
}

fn within(scope: &str, one: &EnumDescriptorProto) -> String {
    format!("{scope}.{}", one.name())
}

/// Returns whether the message is wanted, or something in it.
fn pick_message(
    message: &mut DescriptorProto,
    scope: &str,
    wanted: &impl Fn(&str) -> bool,
) -> bool {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.retain_mut(|nested| pick_message(nested, &name, wanted));
    message.enum_type.retain(|one| wanted(&within(&name, one)));
    let is_map = message.options.as_ref().is_some_and(|options| options.map_entry());
    let entries: Vec<String> =
        message.nested_type.iter().map(|entry| format!(".{name}.{}", entry.name())).collect();
    let of_wanted =
        |type_name: &str| wanted(type_name) || entries.iter().any(|entry| entry == type_name);
    let is_wanted = wanted(if is_map { scope } else { &name });
    message.field.retain(|field| is_wanted && field.type_name.as_deref().is_none_or(of_wanted));
    message.field.iter_mut().for_each(|field| field.options = None);
    (message.extension, message.extension_range) = (Vec::new(), Vec::new());
    // Those that have lost all their fields go, and the others are counted anew.
    let used: Vec<i32> = (0..)
        .take(message.oneof_decl.len())
        .filter(|n| message.field.iter().any(|field| field.oneof_index == Some(*n)))
        .collect();
    let mut number = 0..;
    message.oneof_decl.retain(|_| number.next().is_some_and(|n| used.contains(&n)));
    for field in &mut message.field {
        let place = field.oneof_index.and_then(|n| used.iter().position(|used| *used == n));
        field.oneof_index = place.and_then(|place| i32::try_from(place).ok());
    }
    if is_map {
        return message.field.len() == 2;
    }
    message.options = None;
    wanted(&name) || !message.nested_type.is_empty() || !message.enum_type.is_empty()
}
