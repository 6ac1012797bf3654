use super::*;

/// Headers that carry a credential, or say who somebody is, as proxies in front of web UIs set
/// them.
pub const CREDENTIALS: &[&str] = &[
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

/// 10904 with this path of `--web-url`.
pub fn entry<'a>(
    path: &'a str,
    pass_headers: &'a BTreeSet<HeaderPattern>,
    pass_cookies: &'a BTreeSet<CookieName>,
) -> WebEntry<'a> {
    let bind = std::net::Ipv4Addr::UNSPECIFIED.into();
    WebEntry { bind, trusted_hops: 0, path, pass_headers, pass_cookies }
}

#[test]
fn tokens_are_removed_by_the_route_too_unless_a_setting_names_them() {
    let removed = |pass_headers: &[&str]| {
        let headers = pass_headers.iter().map(|name| name.parse().unwrap()).collect();
        let cookies = BTreeSet::new();
        let entry = entry("", &headers, &cookies);
        (entry.removed_from_requests(), entry.removed_from_responses())
    };
    let (requests, responses) = removed(&[]);
    assert!(requests.is_sorted() && responses.is_sorted());
    assert!(requests.iter().all(|name| CREDENTIALS.contains(&name.as_str())));
    assert!(responses.contains(&"clear-site-data".to_owned()));
    let (fewer, responses) = removed(&["Authorization", "x-amzn-*", "nel"]);
    let named = |name: &String| *name == "authorization" || name.starts_with("x-amzn-");
    assert_eq!(fewer, requests.into_iter().filter(|name| !named(name)).collect::<Vec<_>>());
    assert!(!responses.contains(&"nel".to_owned()));
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

fn ui<'a>(address: &'a HostPort, host: &'a HostHeader) -> WebUi<'a> {
    WebUi { kind: "prometheus", base: "/prom/tokyo", backend_prefix: "", address, host }
}

#[test]
fn a_backend_gets_its_own_name_as_host() {
    let asked = |at: &str, host| ui(&HostPort::parse(at, 80).unwrap(), &host).authority();
    assert_eq!(
        asked("prometheus.monitoring.svc.cluster.local:9090", HostHeader::Own).unwrap(),
        "prometheus.monitoring.svc.cluster.local:9090"
    );
    assert_eq!(asked("prometheus.example.com", HostHeader::Own).unwrap(), "prometheus.example.com");
    assert_eq!(asked("[fd00::1]:9090", HostHeader::Own).unwrap(), "[fd00::1]:9090");
    assert_eq!(asked("[fd00::1]", HostHeader::Own).unwrap(), "[fd00::1]");
    assert_eq!(
        asked("10.0.0.1", HostHeader::Named("metrics.example.com".into())).unwrap(),
        "metrics.example.com"
    );
    assert_eq!(asked("10.0.0.1", HostHeader::Hub), None);
}

#[test]
fn all_names_of_a_backend_may_be_in_its_redirects() {
    let at = HostPort::parse("Prom.monitoring.svc.cluster.local:9090", 80).unwrap();
    let names = ui(&at, &HostHeader::Named("metrics.example.com:8443".into())).names();
    let short =
        ["prom", "prom.monitoring", "prom.monitoring.svc", "prom.monitoring.svc.cluster.local"];
    let mut expected: BTreeSet<String> =
        short.iter().flat_map(|name| [(*name).to_owned(), format!("{name}:9090")]).collect();
    expected.extend(["metrics.example.com", "metrics.example.com:8443"].map(str::to_owned));
    assert_eq!(names, expected);
    // A name outside Kubernetes has no short names.
    let at = HostPort::parse("example.com.internal:9090", 80).unwrap();
    assert_eq!(
        ui(&at, &HostHeader::Own).names(),
        ["example.com.internal", "example.com.internal:9090"].map(str::to_owned).into()
    );
}
