//! Checks that a program is static, so that it starts in an otherwise empty image, and that it is
//! for the image's processor.

use anyhow::{Context, Result, ensure};
use object::elf::{DT_NEEDED, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Architecture, FileKind, Object};

/// # Errors
/// The program is for another machine, or needs an interpreter or shared libraries.
pub fn check_static(program: &[u8], machine: Architecture) -> Result<()> {
    let file = object::File::parse(program).context("the program is no object file")?;
    ensure!(
        file.architecture() == machine,
        "the program is for {:?}, the image for {machine:?}",
        file.architecture()
    );
    match FileKind::parse(program)? {
        FileKind::Elf64 => check::<FileHeader64<object::Endianness>>(program),
        FileKind::Elf32 => check::<FileHeader32<object::Endianness>>(program),
        kind => anyhow::bail!("the program is {kind:?}, not ELF"),
    }
}

fn check<H: FileHeader<Endian = object::Endianness>>(program: &[u8]) -> Result<()> {
    let header = H::parse(program)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, program)? {
        // The kernel would start the interpreter, which a scratch image doesn't have.
        if let Some(interpreter) = segment.interpreter(endian, program)? {
            anyhow::bail!(
                "the program asks for the interpreter {}: it is not static",
                String::from_utf8_lossy(interpreter)
            );
        }
        let needed = segment
            .dynamic(endian, program)?
            .unwrap_or_default()
            .iter()
            .filter(|entry| entry.tag(endian) == DT_NEEDED);
        let count = needed.count();
        ensure!(count == 0, "the program asks for {count} shared libraries: it is not static");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_linked_dynamically_is_refused() {
        // This test's program is dynamic on every platform whose C library is shared by default.
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let machine = object::File::parse(program.as_slice()).unwrap().architecture();
        let error = check_static(&program, machine);
        if cfg!(target_feature = "crt-static") {
            error.unwrap();
        } else {
            assert!(error.unwrap_err().to_string().ends_with("it is not static"));
        }
        let other =
            if machine == Architecture::S390x { Architecture::X86_64 } else { Architecture::S390x };
        assert!(check_static(&program, other).unwrap_err().to_string().contains("the image for"));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(check_static(b"#!/bin/sh\n", Architecture::X86_64).is_err());
        assert!(check_static(&[], Architecture::X86_64).is_err());
    }
}
