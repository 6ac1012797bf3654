//! The URL at which people open the hub's web UIs, and names of headers and cookies.

use std::fmt;
use std::str::FromStr;

use super::{HostPort, NameError, invalid, parse_path_prefix};

/// Longest path of a [`WebUrl`], in characters. Regular expressions of the hub's routes contain it,
/// and Envoy 1.36 refuses expressions whose program size is above 100.
pub const WEB_PATH_MAX: usize = 40;

/// First segments of paths that port 10904 serves itself. The path of a [`WebUrl`] can't begin with
/// one of them.
const OWN_PATHS: &[&str] = &["prom", "alertmanager", "api", ".atlas"];

/// Where people reach the hub's web UIs: `https://HOST[:PORT][/PATH]`. Example:
/// `https://tools.example.com/observability`.
///
/// It has no slash at its end, and no user, query or fragment. Scheme and host are in lower case.
/// The path has unreserved characters only (RFC 3986 §2.3), which no proxy changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl {
    origin: String,
    path: String,
}

impl WebUrl {
    /// Its path: empty, or `/` and no slash at the end.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for WebUrl {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const FORM: &str = "write https://HOST[:PORT][/PATH]";
        let Some((scheme, rest)) = text.split_once("://") else {
            return invalid(format!("is no URL, as it lacks the scheme: {FORM}"));
        };
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "https" && scheme != "http" {
            return invalid(format!(
                "has the scheme {scheme:?}, which is neither https nor http: {FORM}"
            ));
        }
        if let Some(at) = rest.find(['?', '#']) {
            return invalid(format!(
                "has {:?} at its end, before which nothing can be put: leave that out",
                &rest[at..]
            ));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return invalid("has a user before its host: leave that out");
        }
        let authority = authority.to_ascii_lowercase();
        let bare_ipv6 = authority.matches(':').count() > 1 && !authority.starts_with('[');
        if bare_ipv6 || HostPort::parse(&authority, 443).is_err() || authority.trim() != authority {
            return invalid(format!(
                "has the host {authority:?}, which is none: {FORM}, an IPv6 address in brackets"
            ));
        }
        let trimmed = path.trim_end_matches('/');
        let Some(path) =
            (if trimmed.is_empty() { Some(String::new()) } else { parse_path_prefix(trimmed) })
        else {
            return invalid(format!(
                "has the path {path:?}: between single slashes write letters, digits and `-._~` only"
            ));
        };
        if path.len() > WEB_PATH_MAX {
            let length = path.len();
            return invalid(format!(
                "has a path of {length} characters, and Envoy takes {WEB_PATH_MAX} at most: let what is in front have a shorter one"
            ));
        }
        let first = path.split('/').nth(1).unwrap_or_default();
        if OWN_PATHS.contains(&first) {
            return invalid(format!(
                "has a path that begins with /{first}, as Atlas's own do: write where `/` of port 10904 is, without what lies below it"
            ));
        }
        Ok(Self { origin: format!("{scheme}://{authority}"), path })
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// A character of a header's or cookie's name (RFC 9110 §5.6.2, `token`).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b)
}

/// The name of a header in lower case, or a prefix of names with `*` at its end. Example:
/// `x-grafana-*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderPattern(String);

impl HeaderPattern {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this matches a header's name, which is in lower case.
    pub fn names(&self, name: &str) -> bool {
        self.0.strip_suffix('*').map_or(self.0 == name, |beginning| name.starts_with(beginning))
    }
}

impl FromStr for HeaderPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let pattern = text.trim().to_ascii_lowercase();
        let name = pattern.strip_suffix('*').unwrap_or(&pattern);
        if name.len() < 2 || !name.bytes().all(is_token) {
            return invalid(
                "is not a header's name, nor the beginning of names with `*` behind it, such as `x-grafana-*`",
            );
        }
        if name.contains('_') {
            return invalid("has an underscore, and Envoy removes headers whose names have one");
        }
        if name == "cookie" || name == "set-cookie" {
            return invalid(
                "holds every cookie: name the ones that shall pass in --web-pass-cookies",
            );
        }
        if name.starts_with("x-envoy-") || "x-envoy-".starts_with(name) {
            return invalid("is, or begins like, a header by which Envoy is told what to do");
        }
        Ok(Self(pattern))
    }
}

/// Prefix of the names under which a browser stores web UIs' own cookies.
pub const UI_COOKIE: &str = "atlas.";

/// The name of a cookie, case-sensitive. Example: `lang`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CookieName(String);

impl CookieName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CookieName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.trim();
        if name.is_empty() || !name.bytes().all(|b| is_token(b) || b == b'*') {
            return invalid("is not a cookie's name");
        }
        if name.contains('*') {
            return invalid("has a `*`: write each cookie's whole name");
        }
        if name.starts_with(UI_COOKIE) {
            return invalid(
                "begins with `atlas.`, as the browser's name of a web UI's own cookie does: write the name that the web UI gives it, without `atlas.`",
            );
        }
        Ok(Self(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_url_may_have_a_path_and_loses_the_slash_at_its_end() {
        for (text, whole, path) in [
            ("https://hub.example.com", "https://hub.example.com", ""),
            ("https://hub.example.com/", "https://hub.example.com", ""),
            ("HTTPS://Hub.example.com:8443//", "https://hub.example.com:8443", ""),
            (
                "https://tools.example.com/observability",
                "https://tools.example.com/observability",
                "/observability",
            ),
            ("https://tools.example.com/a/B_c/", "https://tools.example.com/a/B_c", "/a/B_c"),
            ("http://[fd00::1]:10904/x", "http://[fd00::1]:10904/x", "/x"),
            ("http://10.0.0.1/promenade", "http://10.0.0.1/promenade", "/promenade"),
        ] {
            let url: WebUrl = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.path()), (whole, path), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_web_url_is_said() {
        for (text, said) in [
            ("tools.example.com", "lacks the scheme"),
            ("tools.example.com/observability", "lacks the scheme"),
            ("", "lacks the scheme"),
            ("ftp://tools.example.com", "\"ftp\""),
            ("https://", "the host \"\""),
            ("https:///x", "the host \"\""),
            ("https://tools.example.com?a=b", "\"?a=b\""),
            ("https://tools.example.com/x#y", "\"#y\""),
            ("https://me:secret@tools.example.com", "a user"),
            ("https://fd00::1/", "in brackets"),
            ("https://tools.example.com:0", "the host"),
            ("https://tools example.com", "the host"),
            ("https://tools.example.com/a//b", "the path \"/a//b\""),
            ("https://tools.example.com/a/../b", "the path"),
            ("https://tools.example.com/%61", "the path"),
            ("https://tools.example.com/a\"b", "the path"),
            (
                "https://tools.example.com/platform/observability/production/eu-west-1",
                "a path of 44 characters",
            ),
            ("https://tools.example.com/prom/tokyo", "begins with /prom"),
            ("https://tools.example.com/alertmanager", "begins with /alertmanager"),
        ] {
            let error = text.parse::<WebUrl>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn headers_and_cookies_have_names() {
        assert_eq!("Authorization".parse::<HeaderPattern>().unwrap().as_str(), "authorization");
        assert_eq!(" X-Grafana-* ".parse::<HeaderPattern>().unwrap().as_str(), "x-grafana-*");
        for wrong in [
            "",
            "*",
            "x*",
            "a b",
            "a:b",
            ":path",
            "x-*-y",
            "remote_user",
            "Cookie",
            "set-cookie",
            "x-envoy-retry-on",
            "x-*",
            "x-env*",
            "a\"b",
        ] {
            assert!(wrong.parse::<HeaderPattern>().is_err(), "{wrong}");
        }
        assert_eq!(" Lang ".parse::<CookieName>().unwrap().as_str(), "Lang");
        for wrong in ["", "a b", "a=b", "a;b", "sess*", "\"a\"", "atlas.sid"] {
            assert!(wrong.parse::<CookieName>().is_err(), "{wrong}");
        }
    }
}
