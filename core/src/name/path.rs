//! Paths of URLs.

/// Reads a path prefix: an absolute path of unreserved characters (RFC 3986 §2.3). Slashes at its
/// end are dropped, so `/` becomes the empty prefix. `None` for anything else, also for a path with
/// the segments `.` or `..` or an empty one.
pub fn parse_path_prefix(text: &str) -> Option<String> {
    let prefix = text.trim_end_matches('/');
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    let segments_are_plain = prefix
        .split('/')
        .skip(1)
        .all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    (text.starts_with('/') && prefix.bytes().all(is_allowed) && segments_are_plain)
        .then(|| prefix.to_owned())
}

/// Whether `path` is `prefix` itself or lies below it. `/debugger` is not within `/debug`.
pub fn is_within_path(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prefix_is_absolute_and_plain() {
        for (text, expected) in [
            ("/", Some("")),
            ("/prometheus", Some("/prometheus")),
            ("/a/b//", Some("/a/b")),
            ("/a.b/~c_-", Some("/a.b/~c_-")),
            ("prometheus", None),
            ("", None),
            ("/a//b", None),
            ("/a/../b", None),
            ("/./a", None),
            ("/a b", None),
            ("/%61", None),
        ] {
            assert_eq!(parse_path_prefix(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_path_is_within_itself_and_what_it_lies_below() {
        for (path, prefix, expected) in [
            ("/debug", "/debug", true),
            ("/debug/pprof", "/debug", true),
            ("/debugger", "/debug", false),
            ("/", "/debug", false),
            ("/a", "", true),
        ] {
            assert_eq!(is_within_path(path, prefix), expected, "{path} within {prefix}");
        }
    }
}
