//! The pictures that WebDriver sends: PNG in base64.

use anyhow::{Context, Result, ensure};

/// The signature of PNG files.
const BEGINNING: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Decodes a picture.
pub(super) fn decode(base64: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(base64.len() / 4 * 3);
    // The bits that don't make a byte yet, and their number.
    let (mut bits, mut count) = (0_u16, 0);
    for character in base64.trim_end_matches('=').bytes() {
        bits = bits << 6
            | u16::from(
                value(character)
                    .with_context(|| format!("{:?} in base64", char::from(character)))?,
            );
        count += 6;
        if count >= 8 {
            count -= 8;
            let [_, byte] = (bits >> count).to_be_bytes();
            bytes.push(byte);
            bits &= (1 << count) - 1;
        }
    }
    ensure!(bytes.starts_with(BEGINNING), "the picture is no PNG");
    Ok(bytes)
}

fn value(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pictures_bytes_come_back_and_nothing_else_is_taken() {
        assert_eq!(decode("iVBORw0KGgo=").unwrap(), BEGINNING);
        assert_eq!(decode("iVBORw0KGgr7/w==").unwrap(), [BEGINNING, &[0xfb, 0xff]].concat());
        assert!(decode("aGVsbG8=").is_err());
        assert!(decode("iVBO Rw0K").is_err());
    }
}
