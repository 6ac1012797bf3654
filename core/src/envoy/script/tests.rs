//! Each script, by tables of what goes in and what comes out.

mod work;

use std::collections::BTreeSet;

use mlua::{Function, Lua, Table};

use super::*;
use crate::envoy::web::{REQUEST_HEADERS, RESPONSE_HEADERS, WebEntry, WebUi, script_in_cluster};
use crate::model::HostHeader;
use crate::name::HostPort;

/// One script, loaded once, as on one worker thread.
struct Script(Lua);

/// One request on its way through a script.
struct Stream<'s> {
    script: &'s Script,
    metadata: Table,
}

type Headers = Vec<(String, String)>;

impl Script {
    fn load(text: &str) -> Self {
        let lua = Lua::new();
        lua.load(include_str!("../lua/tests/handle.lua")).exec().unwrap();
        lua.load(text).exec().unwrap();
        Self(lua)
    }

    fn stream(&self) -> Stream<'_> {
        Stream { script: self, metadata: self.0.create_table().unwrap() }
    }

    fn entries(&self, entries: &[(&str, &str)]) -> Table {
        let entry = |(name, value): &(&str, &str)| self.0.create_sequence_from([*name, *value]).unwrap();
        self.0.create_sequence_from(entries.iter().map(entry)).unwrap()
    }

    fn function(&self, name: &str) -> Function {
        self.0.globals().get(name).unwrap()
    }

    /// What `envoy_on_route` says.
    fn route(&self, headers: &[(&str, &str)]) -> String {
        let options = self.0.create_table().unwrap();
        let handle: Table = self.function("new_handle").call((self.entries(headers), options)).unwrap();
        self.function("envoy_on_route").call(handle).unwrap()
    }
}

fn read(table: &Table) -> Headers {
    table.sequence_values::<Table>().map(|entry| entry.unwrap()).map(|entry| (entry.get(1).unwrap(), entry.get(2).unwrap())).collect()
}

impl Stream<'_> {
    fn run(&self, function: &str, headers: &[(&str, &str)], set: impl FnOnce(&Table)) -> Table {
        let options = self.script.0.create_table().unwrap();
        options.set("metadata", &self.metadata).unwrap();
        set(&options);
        let handle: Table = self.script.function("new_handle").call((self.script.entries(headers), options)).unwrap();
        self.script.function(function).call::<()>(&handle).unwrap();
        handle
    }

    fn request(&self, headers: &[(&str, &str)]) -> Headers {
        read(&self.run("envoy_on_request", headers, |_| ()).get("list").unwrap())
    }

    fn response(&self, headers: &[(&str, &str)]) -> Headers {
        read(&self.run("envoy_on_response", headers, |_| ()).get("list").unwrap())
    }

    /// What the script answers by itself: the status, and one header.
    fn answer(&self, headers: &[(&str, &str)], header: &str) -> Option<(String, Option<String>, String)> {
        let responded: Option<Table> = self.run("envoy_on_request", headers, |_| ()).get("responded").unwrap();
        let responded = responded?;
        let answer: Table = responded.get("headers").unwrap();
        Some((answer.get(":status").unwrap(), answer.get(header).unwrap(), responded.get("body").unwrap()))
    }
}

fn value(headers: &Headers, name: &str) -> Option<String> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

fn values(headers: &Headers, name: &str) -> Vec<String> {
    headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

/// 10904, with the path of `--web-url` and what passes besides.
fn hub(path: &str, pass_headers: &[&str], pass_cookies: &[&str]) -> Script {
    let headers = pass_headers.iter().map(|name| name.parse().unwrap()).collect();
    let cookies = pass_cookies.iter().map(|name| name.parse().unwrap()).collect();
    let bind = std::net::Ipv4Addr::UNSPECIFIED.into();
    Script::load(&WebEntry { bind, trusted_hops: 0, path, pass_headers: &headers, pass_cookies: &cookies }.script())
}

/// 11901 of tokyo: a Prometheus at `at` with a prefix of its own, asked by `host`.
fn tokyo(prefix: &str, at: &str, host: &HostHeader) -> Script {
    let at = HostPort::parse(at, 9090).unwrap();
    Script::load(&script_in_cluster(&[WebUi { kind: "prometheus", base: "/prom/tokyo", backend_prefix: prefix, at: &at, host }]))
}

#[test]
fn texts_are_what_they_were_in_lua_too() {
    let lua = Lua::new();
    for text in ["", "/prom/tokyo", "a\"b\\c", "new\nline", "\u{0}1", "ü", "]] .. os.exit() .. [["] {
        let back: mlua::String = lua.load(format!("return {}", string(text))).eval().unwrap();
        assert_eq!(back.as_bytes(), text.as_bytes());
    }
    let entries: i32 =
        lua.load(format!("local n = 0 for _ in pairs({}) do n = n + 1 end return n", set(["a", "b\"", "a"]))).eval().unwrap();
    assert_eq!(entries, 2);
}

#[test]
fn a_store_is_its_clusters() {
    let script = Script::load(&cluster_of_store());
    for (authority, cluster) in [
        ("tokyo-thanos-sidecar0", "cluster/tokyo"),
        ("tokyo-thanos-sidecar12.sidecars.thanos.atlas", "cluster/tokyo"),
        ("eu-west-1-thanos-sidecar0.monitoring.svc:10901", "cluster/eu-west-1"),
        ("tokyo", "nowhere"),
        ("tokyo-thanos-sidecar123", "nowhere"),
        ("Tokyo-thanos-sidecar0", "nowhere"),
        ("to.kyo-thanos-sidecar0", "nowhere"),
        ("atlas/web-thanos-sidecar0", "nowhere"),
        ("10.0.0.1:10901", "nowhere"),
        ("", "nowhere"),
    ] {
        assert_eq!(script.route(&[(":authority", authority)]), cluster, "{authority}");
    }
}

#[test]
fn a_web_ui_is_its_clusters_with_and_without_the_path_in_front() {
    let (plain, below) = (Script::load(&cluster_of_web_ui("")), Script::load(&cluster_of_web_ui("/a-b/c")));
    for (path, cluster) in [
        ("/prom/tokyo/", "cluster/tokyo"),
        ("/alertmanager/tokyo/api/v2/status?x=/prom/paris", "cluster/tokyo"),
        ("/prom/tokyo", "cluster/tokyo"),
        ("/prom/Tokyo/", "nowhere"),
        ("/prom/tokyo%22/", "nowhere"),
        ("/prom/atlas/web", "cluster/atlas"),
        ("/prom//tokyo/", "nowhere"),
        ("/prom/", "nowhere"),
        ("/other/tokyo/", "nowhere"),
        ("/", "nowhere"),
    ] {
        assert_eq!(plain.route(&[(":path", path)]), cluster, "{path}");
        assert_eq!(below.route(&[(":path", path)]), cluster, "{path}");
        assert_eq!(below.route(&[(":path", &format!("/a-b/c{path}"))]), cluster, "{path}");
        assert_eq!(plain.route(&[(":path", &format!("/a-b/c{path}"))]), "nowhere", "{path}");
    }
}

#[test]
fn the_targets_are_called_as_the_envoy_was_asked() {
    let script = Script::load(&alert_targets("[\"AUTHORITY\", \"AUTHORITY\"]\n"));
    let asked = |authority: &str| script.stream().answer(&[(":authority", authority)], "content-type");
    let answer = asked("envoy.monitoring:11903").unwrap();
    assert_eq!(
        answer,
        ("200".into(), Some("application/json".into()), "[\"envoy.monitoring:11903\", \"envoy.monitoring:11903\"]\n".into())
    );
    assert!(asked("[fd00::1]:11903").unwrap().2.contains("[fd00::1]:11903"));
    assert_eq!(asked("a\"b"), None);
    assert_eq!(asked(""), None);
    assert_eq!(asked(NO_HOST).unwrap().0, "400");
}

#[test]
fn a_clusters_share_is_counted_by_alertmanager_and_given_back() {
    let script = Script::load(&alert_share());
    let post = |id: &str, path: &str, bytes: &str, now: i64| {
        let stream = script.stream();
        let id = format!("spiffe://atlas/cluster/{id}/1");
        let handle = stream.run("envoy_on_request", &[(":method", "POST"), (":path", path), ("content-length", bytes)], |options| {
            options.set("id", id).unwrap();
            options.set("now", now).unwrap();
        });
        let responded: Option<Table> = handle.get("responded").unwrap();
        (responded.is_none(), stream)
    };
    let first = "/alertmanager/0/api/v2/alerts";
    let under_way: Vec<_> = (0..limits::ALERT_POSTS_OF_A_CLUSTER).map(|_| post("tokyo", first, "10", 0)).collect();
    assert!(under_way.iter().all(|(passes, _)| *passes));
    assert!(!post("tokyo", first, "10", 0).0, "one too many");
    assert!(post("paris", first, "10", 0).0, "another cluster");
    assert!(post("tokyo", "/alertmanager/1/api/v2/alerts", "10", 0).0, "another Alertmanager");
    under_way[3].1.response(&[(":status", "200")]);
    assert!(post("tokyo", first, "10", 0).0, "one has been answered");
    assert!(!post("tokyo", first, "10", 0).0);
    assert!(post("tokyo", first, "10", 60_000).0, "those without an answer are forgotten");
    assert!(post("osaka", first, "999999999", 0).0, "one alone may be as large as it likes here");
    assert!(!post("osaka", first, "1", 0).0, "beside it there is no room");
}

#[test]
fn who_brings_no_cookie_gets_one_of_their_address() {
    let script = Script::load(include_str!("../lua/replica.lua"));
    for (path, cookies, address, asked, set) in [
        ("/prom/tokyo/graph", None, "192.0.2.7:4711", Some("atlas-replica=192-0-2-7"), true),
        ("/prom/tokyo/graph", None, "192.0.2.7:4712", Some("atlas-replica=192-0-2-7"), true),
        ("/prom/tokyo/", Some("lang=en"), "[fd00::7]:1", Some("lang=en; atlas-replica=-fd00-7-"), true),
        ("/prom/tokyo/", Some("a=b; atlas-replica=mine"), "192.0.2.7:1", Some("a=b; atlas-replica=mine"), false),
        ("/prom/tokyo/", Some("my-atlas-replica=x"), "192.0.2.7:1", Some("my-atlas-replica=x; atlas-replica=192-0-2-7"), true),
        ("/thanos.Store/Series", None, "192.0.2.7:1", None, false),
        ("/.atlas/health", None, "192.0.2.7:1", None, false),
        ("/prom/tokyo/", None, "", None, false),
    ] {
        let stream = script.stream();
        let headers: Vec<(&str, &str)> = [(":path", path)].into_iter().chain(cookies.map(|cookies| ("cookie", cookies))).collect();
        let handle = stream.run("envoy_on_request", &headers, |options| options.set("address", address).unwrap());
        assert_eq!(value(&read(&handle.get("list").unwrap()), "cookie").as_deref(), asked, "{path} {cookies:?}");
        let back = value(&stream.response(&[(":status", "200")]), "set-cookie");
        assert_eq!(back.is_some_and(|cookie| cookie.ends_with("; Path=/prom/tokyo; HttpOnly")), set, "{path} {cookies:?}");
    }
}

#[test]
fn the_bare_name_is_redirected_relatively_with_its_query() {
    for web_path in ["", "/observability"] {
        let hub = hub(web_path, &[], &[]);
        let redirect = |path: &str| hub.stream().answer(&[(":path", path)], "location").map(|(status, to, _)| (status, to.unwrap()));
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
    for path in ["/prom/tokyo/query", "/alertmanager/tokyo/", "/", "/api/v1/status", "/prom/Tokyo/"] {
        let mut sent = vec![(":path", path), (":method", "GET"), (":authority", "hub"), (":scheme", "https")];
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
        let expected: BTreeSet<&str> =
            [":path", ":method", ":authority", ":scheme"].into_iter().chain(harmless.map(|(name, _)| name)).collect();
        assert_eq!(names, expected, "{path}");
    }
}

#[test]
fn what_a_setting_names_passes() {
    let hub = hub("", &["Authorization", "x-auth-request-*"], &[]);
    let stream = hub.stream();
    let sent = [(":path", "/prom/tokyo/"), ("authorization", "Basic x"), ("x-auth-request-user", "me"), ("x-auth-other", "x")];
    let names: Vec<String> = stream.request(&sent).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [":path", "authorization", "x-auth-request-user"]);
    let back = stream.response(&[(":status", "401"), ("www-authenticate", "Basic"), ("proxy-authenticate", "Basic")]);
    assert_eq!(back.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [":status", "www-authenticate"]);
}

#[test]
fn what_a_script_fails_at_doesnt_pass() {
    let hub = hub("", &[], &[]);
    let stream = hub.stream();
    let sent = [(":path", "/prom/tokyo/"), ("cookie", "session=secret")];
    let handle = stream.run("envoy_on_request", &sent, |options| options.set("broken", true).unwrap());
    let status: String = handle.get::<Table>("responded").unwrap().get::<Table>("headers").unwrap().get(":status").unwrap();
    assert_eq!(status, "500");
    assert!(handle.get::<String>("logged").unwrap().ends_with("broken"));
    stream.request(&sent);
    let sent = [(":status", "302"), ("set-cookie", "session=mine; Path=/"), ("location", "/"), ("content-type", "text/html")];
    let handle = stream.run("envoy_on_response", &sent, |options| options.set("broken", true).unwrap());
    let passed = read(&handle.get("list").unwrap());
    assert_eq!(passed, [(":status", "500"), ("content-type", "text/html")].map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn tokens_are_removed_behind_the_script_too_unless_a_setting_names_them() {
    let removed = |pass_headers: &[&str]| {
        let (headers, cookies) = (pass_headers.iter().map(|name| name.parse().unwrap()).collect(), BTreeSet::new());
        let entry = WebEntry { bind: [0; 4].into(), trusted_hops: 0, path: "", pass_headers: &headers, pass_cookies: &cookies };
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
        ("/prom/tokyo/", &["_oauth2_proxy=secret; atlas-replica=\"MTA=\"; lang=en"], Some("atlas-replica=\"MTA=\"; lang=en")),
        ("/prom/tokyo/", &["a=1", "atlas-replica=x", "lang=en;b=2"], Some("atlas-replica=x; lang=en")),
        ("/prom/tokyo/", &["atlas.sid=7;  atlas.__Host-x=8 ;c=3"], Some("sid=7; __Host-x=8")),
        ("/prom/tokyo/", &["__Host-team=a"], Some("__Host-team=a")),
        // Case counts, and so does every character.
        ("/prom/tokyo/", &["Atlas-Replica=x; LANG=en; xlang=1; lang2=2; atlas=3; atlas.=4; =5; lang; ;;"], None),
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
fn a_backends_cookies_are_for_its_own_path_and_take_nobodys_name() {
    let hub = hub("/observability", &[], &["lang", "__Host-team"]);
    let stream = hub.stream();
    stream.request(&[(":path", "/observability/prom/tokyo/login")]);
    for (set, confined) in [
        ("sid=1; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax", Some("atlas.sid=1; HttpOnly; Secure; SameSite=Lax")),
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
        let back =
            stream.response(&[(":status", "200"), ("set-cookie", set), ("set-cookie", "other=2; Path=/"), ("content-type", "text/html")]);
        let path = "; Path=/observability/prom/tokyo";
        let expected: Vec<String> = confined.into_iter().chain(["atlas.other=2"]).map(|cookie| format!("{cookie}{path}")).collect();
        assert_eq!(values(&back, "set-cookie"), expected, "{set}");
    }
    // What it set comes back to it as it called it.
    let passed = stream.request(&[(":path", "/observability/prom/tokyo/"), ("cookie", "atlas.sid=1; atlas.__Host-sid=1")]);
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
    for (function, headers) in [("envoy_on_request", [(":path", "/prom/tokyo/")]), ("envoy_on_response", [(":status", "200")])] {
        let trailers = hub.entries(&[("authorization", "secret"), ("set-cookie", "sid=1; Path=/"), ("authorization", "secret")]);
        let handle = stream.run(function, &headers, |options| options.set("trailers", trailers).unwrap());
        assert_eq!(read(&handle.get("trailer_list").unwrap()), [], "{function}");
    }
}

#[test]
fn lists_of_headers_are_in_order_and_in_lower_case() {
    for list in [REQUEST_HEADERS, RESPONSE_HEADERS] {
        assert!(list.is_sorted());
        assert!(list.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'*')));
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
        let back = stream.response(&[(":status", "302"), ("location", location), ("refresh", &format!("0; URL='{location}'"))]);
        assert_eq!(value(&back, "location").unwrap(), expected);
        assert_eq!(value(&back, "refresh").unwrap(), format!("0; URL='{expected}'"));
    }
    // Also where Envoy redirects before it has looked for a route (%2F in a path).
    let (headers, cookies) = Default::default();
    let entry = |path| WebEntry { bind: [0; 4].into(), trusted_hops: 0, path, pass_headers: &headers, pass_cookies: &cookies };
    let listener = Script::load(&entry("/observability").script_without_a_route());
    let back = listener.stream().response(&[(":status", "307"), ("location", "/prom/a/b")]);
    assert_eq!(value(&back, "location").unwrap(), "/observability/prom/a/b");
    assert_eq!(entry("").script_without_a_route(), "");
}

#[test]
fn a_redirect_stays_below_its_ui() {
    const NAME: &str = "prometheus-operated.monitoring.svc.cluster.local";
    let own = "/prom/tokyo/login?to=%2F&a=b#top";
    for (prefix, asked, location, expected) in [
        // Without a path of its own.
        ("", "/", "/query", "/prom/tokyo/query"),
        ("", "/", "/", "/prom/tokyo/"),
        ("", "/", "/prom/tokyo/query", "/prom/tokyo/query"),
        ("", "/", "/prom/tokyo", "/prom/tokyo"),
        ("", "/", "/prom/tokyo2/x", "/prom/tokyo/prom/tokyo2/x"),
        ("", "/", "query?x=1", "query?x=1"),
        ("", "/", "../query", "../query"),
        ("", "/", "?x=1", "?x=1"),
        // The path of --web.external-url, whatever is served: Prometheus 2.42 and 3.15.
        ("", "/", "/prometheus/query", "/prom/tokyo/query"),
        ("", "/", "/prometheus/graph", "/prom/tokyo/graph"),
        ("", "/", "/a/b/classic/graph", "/prom/tokyo/classic/graph"),
        ("", "/graph?g0.expr=up", "/prometheus/query?g0.expr=up&x=/graph", "/prom/tokyo/query?g0.expr=up&x=/graph"),
        ("", "/new/alerts", "/prometheus/alerts?", "/prom/tokyo/alerts?"),
        ("", "/consoles/", "/prometheus/consoles/index.html", "/prom/tokyo/consoles/index.html"),
        ("", "/", "/prometheus/agent", "/prom/tokyo/agent"),
        ("/prometheus", "/", "/other/query", "/prom/tokyo/query"),
        // A path that is there: whoever asks below it is answered below it.
        ("", "/prometheus", "/prometheus/query", "/prom/tokyo/prometheus/query"),
        ("", "/tenant/", "/tenant/graph", "/prom/tokyo/tenant/graph"),
        ("", "/", "/graph/targets/x", "/prom/tokyo/graph/targets/x"),
        ("", "/a", "/other/page", "/prom/tokyo/other/page"),
        // An external URL that is the hub's, behind a path that a proxy takes away.
        ("", "/", "/observability/prom/tokyo/query", "/prom/tokyo/query"),
        ("", "/", "/observability/prom/tokyo?x=1", "/prom/tokyo?x=1"),
        ("", "/x", "/login?to=/prom/tokyo/", "/prom/tokyo/login?to=/prom/tokyo/"),
        // The backend's own prefix.
        ("/prometheus", "/", "/prometheus/query", "/prom/tokyo/query"),
        ("/prometheus", "/", "/prometheus", "/prom/tokyo"),
        ("/prometheus", "/", "/prometheus2/x", "/prom/tokyo/prometheus2/x"),
        ("/prom/tokyo", "/", "/prom/tokyo/query", "/prom/tokyo/query"),
        // Its own host, by every name and scheme.
        ("", "/", "http://prometheus-operated.monitoring.svc.cluster.local:9090/login?to=%2F&a=b#top", own),
        ("", "/", "http://prometheus-operated.monitoring.svc.cluster.local/login?to=%2F&a=b#top", own),
        ("", "/", "HTTPS://Prometheus-Operated.monitoring:9090/login?to=%2F&a=b#top", own),
        ("", "/", "//prometheus-operated/login?to=%2F&a=b#top", own),
        ("/prometheus", "/", "http://prometheus-operated:9090/prometheus/login?to=%2F&a=b#top", own),
        ("", "/", "http://prometheus-operated:9090", "/prom/tokyo/"),
        ("", "/", "http://prometheus-operated:9090?a=b", "/prom/tokyo/?a=b"),
        ("", "/", "http://prometheus-operated:9090/prometheus/query", "/prom/tokyo/query"),
        // What people asked for, where a backend heeds x-forwarded-host.
        ("", "/", "https://hub.example.com/login?to=%2F&a=b#top", own),
        ("", "/", "https://hub.example.com:8443/login?to=%2F&a=b#top", own),
        ("", "/", "http://tools.example.com/observability/prom/tokyo/login?to=%2F&a=b#top", own),
        // Somebody else's.
        ("", "/", "http://prometheus-operated:9091/login", "http://prometheus-operated:9091/login"),
        ("", "/", "https://hub.example.com:3000/login", "https://hub.example.com:3000/login"),
        (
            "",
            "/",
            "https://sso.example.com/login?to=http://prometheus-operated:9090/",
            "https://sso.example.com/login?to=http://prometheus-operated:9090/",
        ),
        ("", "/", "//sso.example.com/", "//sso.example.com/"),
        ("", "/", "http://prometheus-operated@sso.example.com/", "http://prometheus-operated@sso.example.com/"),
        ("", "/", "mailto:prometheus-operated", "mailto:prometheus-operated"),
        ("", "/", "", ""),
    ] {
        let script = tokyo(prefix, &format!("{NAME}:9090"), &HostHeader::Own);
        let stream = script.stream();
        let path = format!("/prom/tokyo{asked}");
        let request =
            stream.request(&[(":path", &path), (":authority", "web"), ("x-forwarded-host", "tools.example.com, hub.example.com:8443")]);
        assert_eq!(value(&request, ":authority").unwrap(), "web", "the route rewrites it");
        let headers =
            [(":status", "302"), ("location", location), ("content-location", location), ("refresh", &format!("0;url={location}"))];
        let back = stream.response(&headers);
        assert_eq!(value(&back, "location").unwrap(), expected, "{prefix} {asked}: {location}");
        assert_eq!(value(&back, "content-location").unwrap(), expected);
        assert_eq!(value(&back, "refresh").unwrap(), format!("0;url={expected}"));
    }
}

#[test]
fn only_a_prometheus_redirects_to_pages_below_its_external_url() {
    let at = HostPort::parse("am:9093", 9093).unwrap();
    let ui = WebUi { kind: "alertmanager", base: "/alertmanager/tokyo", backend_prefix: "", at: &at, host: &HostHeader::Own };
    let stream_of = Script::load(&script_in_cluster(&[ui]));
    let stream = stream_of.stream();
    stream.request(&[(":path", "/alertmanager/tokyo/")]);
    for location in ["/teams/alerts", "/a/status", "/x/config"] {
        let back = stream.response(&[(":status", "302"), ("location", location)]);
        assert_eq!(value(&back, "location").unwrap(), format!("/alertmanager/tokyo{location}"));
    }
}

#[test]
fn a_backend_that_is_asked_as_the_hub_sees_the_last_host_in_front() {
    let script = tokyo("", "10.0.0.1:9090", &HostHeader::Hub);
    for (forwarded, authority) in [
        (Some("hub.example.com:10904"), "hub.example.com:10904"),
        (Some("spoofed.example.com, hub.example.com"), "hub.example.com"),
        (Some("a,hub"), "hub"),
        (Some("a,hub  "), "hub"),
        (Some("a hub"), "hub"),
        (Some("a,"), "web"),
        (Some(""), "web"),
        (None, "web"),
    ] {
        let mut headers = vec![(":path", "/prom/tokyo/"), (":authority", "web")];
        headers.extend(forwarded.map(|value| ("x-forwarded-host", value)));
        assert_eq!(value(&script.stream().request(&headers), ":authority").unwrap(), authority, "{forwarded:?}");
    }
    // A store's request, and another cluster's path, are none of its business.
    for path in ["/thanos.Store/Series", "/prom/paris/"] {
        let stream = script.stream();
        let request = stream.request(&[(":path", path), (":authority", "web"), ("x-forwarded-host", "hub")]);
        assert_eq!(value(&request, ":authority").unwrap(), "web");
        assert_eq!(value(&stream.response(&[(":status", "302"), ("location", "/x")]), "location").unwrap(), "/x");
    }
}
