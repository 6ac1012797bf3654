use std::collections::BTreeSet;

use super::*;
use crate::envoy::web::tests::{CREDENTIALS, entry};

/// The script with the path of `--web-url`, and the headers and cookies that pass.
fn hub(path: &str, pass_headers: &[&str], pass_cookies: &[&str]) -> Script {
    let headers = pass_headers.iter().map(|name| name.parse().unwrap()).collect();
    let cookies = pass_cookies.iter().map(|name| name.parse().unwrap()).collect();
    Script::load(&web_on_hub(&entry(path, &headers, &cookies)))
}

#[test]
fn a_path_without_the_last_slash_gets_a_relative_redirect() {
    for web_path in ["", "/observability"] {
        let hub = hub(web_path, &[], &[]);
        let redirect = |path: &str| {
            hub.stream()
                .local_response(&[(":path", path)], "location")
                .map(|(status, to, _)| (status, to.unwrap()))
        };
        for (path, to) in [
            ("/prom/tokyo", Some("tokyo/")),
            ("/alertmanager/tokyo?x=1&y=/a", Some("tokyo/?x=1&y=/a")),
            ("/prom/tokyo/", None),
            ("/prom/tokyo/x", None),
            // Browsers would take it for another scheme or host.
            ("/prom/javascript:alert(1)", None),
            ("/prom/Tokyo", None),
            ("/prom", None),
            ("/other/tokyo", None),
        ] {
            let expected = to.map(|to| ("308".to_owned(), to.to_owned()));
            assert_eq!(redirect(path), expected, "{path}");
            if !web_path.is_empty() {
                assert_eq!(redirect(&format!("{web_path}{path}")), expected, "{path}");
            }
        }
    }
}

#[test]
fn only_headers_known_to_hold_no_credential_pass() {
    let hub = hub("", &[], &[]);
    for path in ["/prom/tokyo/query", "/alertmanager/tokyo/", "/", "/api/v1/status", "/prom/Tokyo/"]
    {
        let mut sent =
            vec![(":path", path), (":method", "GET"), (":authority", "hub"), (":scheme", "https")];
        sent.extend(CREDENTIALS.iter().map(|name| (*name, "secret")));
        // Twice, because a proxy adds its header beside that of the browser.
        sent.extend(CREDENTIALS.iter().map(|name| (*name, "secret")));
        let harmless = [
            ("accept", "*/*"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("content-length", "3"),
            ("user-agent", "Mozilla"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "x"),
            ("origin", "https://hub"),
            ("if-none-match", "x"),
            ("last-event-id", "7"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "hub"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "1"),
            ("traceparent", "00-1"),
            ("sec-fetch-site", "same-origin"),
        ];
        sent.extend(harmless);
        let passed = hub.stream().request(&sent);
        let names: BTreeSet<&str> = passed.iter().map(|(name, _)| name.as_str()).collect();
        let expected: BTreeSet<&str> = [":path", ":method", ":authority", ":scheme"]
            .into_iter()
            .chain(harmless.map(|(name, _)| name))
            .collect();
        assert_eq!(names, expected, "{path}");
    }
}

#[test]
fn headers_that_a_setting_names_pass() {
    let hub = hub("", &["Authorization", "x-auth-request-*"], &[]);
    let stream = hub.stream();
    let sent = [
        (":path", "/prom/tokyo/"),
        ("authorization", "Basic x"),
        ("x-auth-request-user", "me"),
        ("x-auth-other", "x"),
    ];
    let names: Vec<String> = stream.request(&sent).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [":path", "authorization", "x-auth-request-user"]);
    let back = stream.response(&[
        (":status", "401"),
        ("www-authenticate", "Basic"),
        ("proxy-authenticate", "Basic"),
    ]);
    assert_eq!(
        back.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [":status", "www-authenticate"]
    );
}

#[test]
fn nothing_passes_when_the_script_fails() {
    let hub = hub("", &[], &[]);
    let stream = hub.stream();
    let sent = [(":path", "/prom/tokyo/"), ("cookie", "session=secret")];
    let handle =
        stream.run("envoy_on_request", &sent, |options| options.set("broken", true).unwrap());
    let status: String = handle
        .get::<Table>("responded")
        .unwrap()
        .get::<Table>("headers")
        .unwrap()
        .get(":status")
        .unwrap();
    assert_eq!(status, "500");
    assert!(handle.get::<String>("logged").unwrap().ends_with("broken"));
    stream.request(&sent);
    let sent = [
        (":status", "302"),
        ("set-cookie", "session=mine; Path=/"),
        ("location", "/"),
        ("content-type", "text/html"),
    ];
    let handle =
        stream.run("envoy_on_response", &sent, |options| options.set("broken", true).unwrap());
    let passed = read(&handle.get("list").unwrap());
    assert_eq!(
        passed,
        [(":status", "500"), ("content-type", "text/html")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn cookies_of_atlas_of_the_ui_and_of_the_settings_pass() {
    let hub = hub("", &[], &["lang", "__Host-team"]);
    for (path, sent, seen) in [
        ("/prom/tokyo/", &["_oauth2_proxy=secret"][..], None),
        (
            "/prom/tokyo/",
            &["_oauth2_proxy=secret; atlas-replica=\"MTA=\"; lang=en"],
            Some("atlas-replica=\"MTA=\"; lang=en"),
        ),
        (
            "/prom/tokyo/",
            &["a=1", "atlas-replica=x", "lang=en;b=2"],
            Some("atlas-replica=x; lang=en"),
        ),
        ("/prom/tokyo/", &["atlas.sid=7;  atlas.__Host-x=8 ;c=3"], Some("sid=7; __Host-x=8")),
        ("/prom/tokyo/", &["__Host-team=a"], Some("__Host-team=a")),
        // Names must be the same in case and in every character.
        (
            "/prom/tokyo/",
            &["Atlas-Replica=x; LANG=en; xlang=1; lang2=2; atlas=3; atlas.=4; =5; lang; ;;"],
            None,
        ),
        // A quoted value can't contain another cookie.
        ("/prom/tokyo/", &["lang=\"a; _oauth2_proxy=secret; b\""], Some("lang=\"a")),
        ("/prom/tokyo/", &["lang=a,_oauth2_proxy=b"], Some("lang=a,_oauth2_proxy=b")),
        ("/", &["atlas-replica=x; lang=en; atlas.sid=7"], None),
        ("/prom/Tokyo/", &["atlas-replica=x; atlas.sid=7"], None),
    ] {
        let mut headers = vec![(":path", path)];
        headers.extend(sent.iter().map(|cookie| ("cookie", *cookie)));
        let passed = hub.stream().request(&headers);
        assert_eq!(value(&passed, "cookie").as_deref(), seen, "{sent:?}");
        assert!(values(&passed, "cookie").len() <= 1);
    }
    // Headers of the greatest length.
    let long = format!("{}lang=en", "secret=x; ".repeat(6_000));
    let passed = hub.stream().request(&[(":path", "/prom/tokyo/"), ("cookie", &long)]);
    assert_eq!(value(&passed, "cookie").unwrap(), "lang=en");
}

#[test]
fn settings_refuse_the_prefix_of_cookies_of_web_uis() {
    let (headers, cookies) = Default::default();
    let script = web_on_hub(&entry("", &headers, &cookies));
    let prefix = LuaValue::text(crate::name::UI_COOKIE);
    assert!(script.contains(&format!("local ui_cookie = {prefix}\n")));
}

#[test]
fn cookies_of_a_backend_get_its_path_and_a_prefix() {
    let hub = hub("/observability", &[], &["lang", "__Host-team"]);
    let stream = hub.stream();
    stream.request(&[(":path", "/observability/prom/tokyo/login")]);
    for (set, confined) in [
        (
            "sid=1; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax",
            Some("atlas.sid=1; HttpOnly; Secure; SameSite=Lax"),
        ),
        ("_oauth2_proxy=stolen; path=/prom/paris; DOMAIN=hub", Some("atlas._oauth2_proxy=stolen")),
        ("__Host-sid=1; Secure; Path=/", Some("atlas.__Host-sid=1; Secure")),
        ("__Secure-sid=1; Secure", Some("atlas.__Secure-sid=1; Secure")),
        ("atlas-replica=\"MTA=\"; Path=/; HttpOnly", Some("atlas-replica=\"MTA=\"; HttpOnly")),
        (
            "lang=en; Max-Age=60; Expires=Thu, 01 Jan 2037 00:00:00 GMT; Unknown=1",
            Some("lang=en; Max-Age=60; Expires=Thu, 01 Jan 2037 00:00:00 GMT"),
        ),
        ("__Host-team=a; Path=/; Secure", Some("atlas.__Host-team=a; Secure")),
        ("  sid  =  a b ; httponly", Some("atlas.sid=a b; httponly")),
        ("sid=a=b==", Some("atlas.sid=a=b==")),
        ("sid=", Some("atlas.sid=")),
        ("=nameless", None),
        ("nameless", None),
        ("", None),
    ] {
        let back = stream.response(&[
            (":status", "200"),
            ("set-cookie", set),
            ("set-cookie", "other=2; Path=/"),
            ("content-type", "text/html"),
        ]);
        let path = "; Path=/observability/prom/tokyo";
        let expected: Vec<String> = confined
            .into_iter()
            .chain(["atlas.other=2"])
            .map(|cookie| format!("{cookie}{path}"))
            .collect();
        assert_eq!(values(&back, "set-cookie"), expected, "{set}");
    }
    // The backend gets its cookies by its own names.
    let passed = stream.request(&[
        (":path", "/observability/prom/tokyo/"),
        ("cookie", "atlas.sid=1; atlas.__Host-sid=1"),
    ]);
    assert_eq!(value(&passed, "cookie").unwrap(), "sid=1; __Host-sid=1");
    // Responses of other paths set no cookies.
    let other = hub.stream();
    other.request(&[(":path", "/")]);
    assert_eq!(other.response(&[(":status", "200"), ("set-cookie", "sid=1")]).len(), 1);
}

#[test]
fn no_response_header_affects_the_whole_host() {
    let hub = hub("", &[], &[]);
    let stream = hub.stream();
    stream.request(&[(":path", "/prom/tokyo/")]);
    let harmful = [
        "clear-site-data",
        "service-worker-allowed",
        "strict-transport-security",
        "public-key-pins",
        "expect-ct",
        "alt-svc",
        "nel",
        "report-to",
        "reporting-endpoints",
        "set-cookie2",
        "www-authenticate",
        "proxy-authenticate",
        "accept-ch",
        "critical-ch",
        "x-accel-redirect",
        "x-sendfile",
        "x-reproxy-url",
        "set-login",
        "origin-agent-cluster",
        "use-as-dictionary",
        "secure-session-registration",
        "x-envoy-immediate-health-check-fail",
        "x-auth-request-user",
        "what-comes-next-year",
    ];
    let harmless = [
        "content-type",
        "content-encoding",
        "cache-control",
        "etag",
        "vary",
        "date",
        "server",
        "access-control-allow-origin",
        "x-frame-options",
        "content-security-policy",
    ];
    let mut sent = vec![(":status", "200")];
    sent.extend(harmful.iter().chain(&harmful).chain(&harmless).map(|name| (*name, "x")));
    let names: Vec<String> = stream.response(&sent).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&[":status"][..], &harmless].concat());
}

#[test]
fn trailers_do_not_pass() {
    let hub = hub("", &[], &[]);
    let stream = hub.stream();
    for (function, headers) in [
        ("envoy_on_request", [(":path", "/prom/tokyo/")]),
        ("envoy_on_response", [(":status", "200")]),
    ] {
        let trailers = hub.entries(&[
            ("authorization", "secret"),
            ("set-cookie", "sid=1; Path=/"),
            ("authorization", "secret"),
        ]);
        let handle =
            stream.run(function, &headers, |options| options.set("trailers", trailers).unwrap());
        assert_eq!(read(&handle.get("trailer_list").unwrap()), [], "{function}");
    }
}

#[test]
fn urls_in_responses_are_below_the_web_path() {
    let hub = hub("/observability", &[], &[]);
    let stream = hub.stream();
    stream.request(&[(":path", "/prom/tokyo/")]);
    for (location, expected) in [
        ("/prom/tokyo/query?x=1", "/observability/prom/tokyo/query?x=1"),
        ("/observability/prom/tokyo/query", "/observability/prom/tokyo/query"),
        ("/observability", "/observability"),
        ("/observability2/x", "/observability/observability2/x"),
        ("query", "query"),
        ("//elsewhere/x", "//elsewhere/x"),
        ("https://elsewhere/x", "https://elsewhere/x"),
    ] {
        let back = stream.response(&[
            (":status", "302"),
            ("location", location),
            ("refresh", &format!("0; URL='{location}'")),
        ]);
        assert_eq!(value(&back, "location").unwrap(), expected);
        assert_eq!(value(&back, "refresh").unwrap(), format!("0; URL='{expected}'"));
    }
}
