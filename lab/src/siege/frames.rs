//! HTTP/2 frames as bytes (RFC 9113), for sequences that no library sends.

/// The connection preface with empty SETTINGS (section 3.4).
pub(super) fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings(&[])].concat()
}

/// A frame: length, type, flags, stream, payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// SETTINGS. `values`: pairs of identifier and value.
pub(super) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(identifier, value)| {
            [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat()
        })
        .collect();
    frame(4, 0, 0, &payload)
}

pub(super) fn ping() -> Vec<u8> {
    frame(6, 0, 0, &[0; 8])
}

/// RST_STREAM with CANCEL.
pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &8u32.to_be_bytes())
}

/// HEADERS of a request. `ends`: with END_STREAM, so without a body.
pub(super) fn request(
    stream: u32,
    method: &str,
    authority: &str,
    path: &str,
    ends: bool,
) -> Vec<u8> {
    // HPACK (RFC 7541): `:scheme http` is entry 6 of the static table. The other pseudo-headers
    // have the names of entries 2, 4 and 1, with literal values that are never indexed.
    let mut block = vec![0x86];
    for (name, value) in [(2, method), (4, path), (1, authority)] {
        block.push(0x10 | name);
        block.extend(literal(value));
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0x10);
        block.extend(literal(name));
        block.extend(literal(value));
    }
    frame(1, if ends { 0x5 } else { 0x4 }, stream, &block)
}

/// HEADERS without END_HEADERS.
pub(super) fn endless_headers(stream: u32) -> Vec<u8> {
    let mut block = vec![0x86];
    block.extend([0x10]);
    block.extend(literal("x-siege"));
    block.extend(literal(&"a".repeat(100)));
    frame(1, 0, stream, &block)
}

/// CONTINUATION without END_HEADERS.
pub(super) fn continuation(stream: u32) -> Vec<u8> {
    let mut block = vec![0x10];
    block.extend(literal("x-siege"));
    block.extend(literal(&"a".repeat(100)));
    frame(9, 0, stream, &block)
}

/// An HPACK string of fewer than 127 bytes, without Huffman coding.
fn literal(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap_or(126)];
    bytes.extend(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_begins_with_length_type_flags_and_stream() {
        assert_eq!(ping(), [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(settings(&[(4, 65_535)]), [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 255, 255]);
        assert_eq!(reset(3), [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8]);
    }
}
