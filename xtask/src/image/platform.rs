//! OCI platforms of Rust's target triples: `aarch64-unknown-linux-musl` is `linux/arm64/v8`.
//!
//! Nothing else in Atlas depends on processor architectures.

use anyhow::{Result, ensure};
use object::Architecture;

/// A platform that an image can be built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Rust's name.
    pub triple: String,
    /// Go's name of the architecture (`GOARCH`), which the OCI image specification uses.
    pub architecture: &'static str,
    /// The architecture's variant: `v8` of `arm64`.
    pub variant: Option<&'static str>,
    /// The machine in the program's ELF header.
    pub machine: Architecture,
}

/// First part of the triple, OCI architecture and variant, ELF machine.
const ARCHITECTURES: &[(&str, &str, Option<&str>, Architecture)] = &[
    ("x86_64", "amd64", None, Architecture::X86_64),
    ("aarch64", "arm64", Some("v8"), Architecture::Aarch64),
    ("armv7", "arm", Some("v7"), Architecture::Arm),
    ("i686", "386", None, Architecture::I386),
    ("loongarch64", "loong64", None, Architecture::LoongArch64),
    ("powerpc64le", "ppc64le", None, Architecture::PowerPc64),
    ("riscv64gc", "riscv64", None, Architecture::Riscv64),
    ("s390x", "s390x", None, Architecture::S390x),
];

/// C libraries that can be linked statically: the beginning of a triple's last part.
const LIBCS: &[&str] = &["gnu", "musl"];

impl Platform {
    /// # Errors
    /// The triple isn't `<architecture>-<vendor>-linux-<C library>` with parts that are known here.
    pub fn of(triple: &str) -> Result<Self> {
        let fix = format!(
            "choose <architecture>-unknown-linux-<{}…> with one of the architectures {}",
            LIBCS.join("…|"),
            ARCHITECTURES.iter().map(|row| row.0).collect::<Vec<_>>().join(", ")
        );
        let parts: Vec<&str> = triple.split('-').collect();
        let [cpu, _, "linux", libc] = parts.as_slice() else {
            anyhow::bail!("--target {triple}: is no target of Linux; {fix}");
        };
        ensure!(
            LIBCS.iter().any(|known| libc.starts_with(known)),
            "--target {triple}: cannot link {libc} statically; {fix}"
        );
        let Some(&(_, architecture, variant, machine)) =
            ARCHITECTURES.iter().find(|row| row.0 == *cpu)
        else {
            anyhow::bail!(
                "--target {triple}: {cpu} has no name in OCI images here; {fix}, or add it to xtask/src/image/platform.rs"
            );
        };
        Ok(Self { triple: triple.to_owned(), architecture, variant, machine })
    }

    /// Whether the C library is musl, which Rust includes. Otherwise it is glibc, from the build
    /// machine.
    pub fn is_musl(&self) -> bool {
        self.triple.rsplit('-').next().is_some_and(|libc| libc.starts_with("musl"))
    }

    /// The platform's name: `linux/arm64/v8`.
    pub fn name(&self) -> String {
        ["linux", self.architecture].into_iter().chain(self.variant).collect::<Vec<_>>().join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triple_has_a_name_in_oci_images() {
        for (triple, name) in [
            ("x86_64-unknown-linux-gnu", "linux/amd64"),
            ("x86_64-unknown-linux-musl", "linux/amd64"),
            ("aarch64-unknown-linux-musl", "linux/arm64/v8"),
            ("armv7-unknown-linux-gnueabihf", "linux/arm/v7"),
            ("riscv64gc-unknown-linux-gnu", "linux/riscv64"),
        ] {
            assert_eq!(Platform::of(triple).unwrap().name(), name);
        }
    }

    #[test]
    fn a_target_that_no_image_is_for_is_named_with_what_would_do() {
        for (triple, why) in [
            ("x86_64-apple-darwin", "no target of Linux"),
            ("x86_64-pc-windows-msvc", "no target of Linux"),
            ("wasm32-unknown-linux-gnu", "wasm32"),
            ("x86_64-unknown-linux-uclibc", "uclibc"),
            ("", "no target of Linux"),
        ] {
            let error = Platform::of(triple).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("--target {triple}: "))
                    && error.contains(why)
                    && error.contains("x86_64, aarch64"),
                "{error}"
            );
        }
    }
}
