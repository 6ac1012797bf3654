//! What of requests to web UIs and of their answers passes the hub.

use std::collections::BTreeSet;

use super::*;
use crate::envoy::web::{REQUEST_HEADERS, RESPONSE_HEADERS, WebEntry};

/// 10904, with the path of `--web-url` and what passes besides.
fn hub(path: &str, pass_headers: &[&str], pass_cookies: &[&str]) -> Script {
    let headers = pass_headers.iter().map(|name| name.parse().unwrap()).collect();
    let cookies = pass_cookies.iter().map(|name| name.parse().unwrap()).collect();
    let bind = std::net::Ipv4Addr::UNSPECIFIED.into();
    Script::load(
        &WebEntry { bind, trusted_hops: 0, path, pass_headers: &headers, pass_cookies: &cookies }
            .script(),
    )
}

#[test]
fn the_bare_name_is_redirected_relatively_with_its_query() {
    for web_path in ["", "/observability"] {
        let hub = hub(web_path, &[], &[]);
        let redirect = |path: &str| {
            hub.stream()
                .answer(&[(":path", path)], "location")
                .map(|(status, to, _)| (status, to.unwrap()))
        };
        for (path, to) in [
            ("/prom/tokyo", Some("tokyo/")),
            ("/alertmanager/tokyo?x=1&y=/a", Some("tokyo/?x=1&y=/a")),
            ("/prom/tokyo/", None),
            ("/prom/tokyo/x", None),
            // What would be read as another scheme or host.
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

/// Headers that carry or stand for a credential, or say who somebody is, as proxies in front of web UIs set them.
const CREDENTIALS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "x-forwarded-access-token",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-auth-request-access-token",
    "x-auth-request-user",
    "x-auth-request-redirect",
    "x-pomerium-jwt-assertion",
    "x-pomerium-claim-email",
    "cf-access-jwt-assertion",
    "cf-access-token",
    "cf-authorization",
    "x-amzn-oidc-data",
    "x-amzn-oidc-accesstoken",
    "x-amzn-oidc-identity",
    "x-goog-iap-jwt-assertion",
    "x-goog-authenticated-user-email",
    "x-ms-token-aad-access-token",
    "x-ms-token-aad-id-token",
    "x-ms-client-principal",
    "x-vouch-idp-accesstoken",
    "x-vouch-idp-idtoken",
    "x-vouch-user",
    "remote-user",
    "remote-groups",
    "x-authentik-jwt",
    "x-authentik-username",
    "x-forwarded-client-cert",
    "x-forwarded-tls-client-cert",
    "ssl-client-cert",
    "x-ssl-client-cert",
    "x-client-cert",
    "x-id-token",
    "x-access-token",
    "x-api-key",
    "x-csrf-token",
    "x-xsrf-token",
    "x-webauth-user",
    "x-remote-user",
    "x-user",
    "x-scope-orgid",
    "x-amz-security-token",
    "x-envoy-retry-on",
    "x-original-url",
    "sec-session-id",
    "x-grafana-id",
    "x-ds-authorization",
    "what-comes-next-year",
];

#[test]
fn no_credential_passes_but_what_is_known_to_be_none() {
    let hub = hub("", &[], &[]);
    for path in ["/prom/tokyo/query", "/alertmanager/tokyo/", "/", "/api/v1/status", "/prom/Tokyo/"]
    {
        let mut sent =
            vec![(":path", path), (":method", "GET"), (":authority", "hub"), (":scheme", "https")];
        sent.extend(CREDENTIALS.iter().map(|name| (*name, "secret")));
        // Twice, as a proxy adds its own beside the browser's.
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
fn what_a_setting_names_passes() {
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
fn what_a_script_fails_at_doesnt_pass() {
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
fn tokens_are_removed_behind_the_script_too_unless_a_setting_names_them() {
    let removed = |pass_headers: &[&str]| {
        let (headers, cookies) =
            (pass_headers.iter().map(|name| name.parse().unwrap()).collect(), BTreeSet::new());
        let entry = WebEntry {
            bind: [0; 4].into(),
            trusted_hops: 0,
            path: "",
            pass_headers: &headers,
            pass_cookies: &cookies,
        };
        (entry.removed_from_requests(), entry.removed_from_answers())
    };
    let (requests, answers) = removed(&[]);
    assert!(requests.is_sorted() && answers.is_sorted());
    assert!(requests.iter().all(|name| CREDENTIALS.contains(&name.as_str())));
    assert!(answers.contains(&"clear-site-data".to_owned()));
    let (fewer, answers) = removed(&["Authorization", "x-amzn-*", "nel"]);
    let named = |name: &String| *name == "authorization" || name.starts_with("x-amzn-");
    assert_eq!(fewer, requests.into_iter().filter(|name| !named(name)).collect::<Vec<_>>());
    assert!(!answers.contains(&"nel".to_owned()));
}

#[test]
fn of_cookies_atlas_own_the_uis_own_and_the_named_ones_pass() {
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
        // Case counts, and so does every character.
        (
            "/prom/tokyo/",
            &["Atlas-Replica=x; LANG=en; xlang=1; lang2=2; atlas=3; atlas.=4; =5; lang; ;;"],
            None,
        ),
        // A quoted value may hide no second cookie.
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
    // As long as a request's headers may be.
    let long = format!("{}lang=en", "secret=x; ".repeat(6_000));
    let passed = hub.stream().request(&[(":path", "/prom/tokyo/"), ("cookie", &long)]);
    assert_eq!(value(&passed, "cookie").unwrap(), "lang=en");
}

#[test]
fn the_prefix_of_a_uis_cookies_is_refused_in_settings() {
    let prefix = crate::name::UI_COOKIE;
    assert!(
        web_on_hub("", &BTreeSet::new(), &BTreeSet::new(), [])
            .contains(&format!("local ui_cookie = {}\n", string(prefix)))
    );
}

#[test]
fn a_backends_cookies_are_for_its_own_path_and_take_nobodys_name() {
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
    // What it set comes back to it as it called it.
    let passed = stream.request(&[
        (":path", "/observability/prom/tokyo/"),
        ("cookie", "atlas.sid=1; atlas.__Host-sid=1"),
    ]);
    assert_eq!(value(&passed, "cookie").unwrap(), "sid=1; __Host-sid=1");
    // Answers that belong to no web UI set none.
    let other = hub.stream();
    other.request(&[(":path", "/")]);
    assert_eq!(other.response(&[(":status", "200"), ("set-cookie", "sid=1")]).len(), 1);
}

#[test]
fn nothing_in_an_answer_concerns_the_whole_host() {
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
fn trailers_dont_pass() {
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
fn lists_of_headers_are_in_order_and_in_lower_case() {
    for list in [REQUEST_HEADERS, RESPONSE_HEADERS] {
        assert!(list.is_sorted());
        assert!(list.iter().all(|name| {
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'*')
        }));
        assert!(!list.contains(&"cookie") && !list.contains(&"set-cookie"));
    }
}

#[test]
fn the_hub_puts_the_path_of_its_url_before_redirects_once() {
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
    // Also where Envoy redirects before it has looked for a route (%2F in a path).
    let (headers, cookies) = Default::default();
    let entry = |path| WebEntry {
        bind: [0; 4].into(),
        trusted_hops: 0,
        path,
        pass_headers: &headers,
        pass_cookies: &cookies,
    };
    let listener = Script::load(&entry("/observability").script_without_a_route());
    let back = listener.stream().response(&[(":status", "307"), ("location", "/prom/a/b")]);
    assert_eq!(value(&back, "location").unwrap(), "/observability/prom/a/b");
    assert_eq!(entry("").script_without_a_route(), "");
}
