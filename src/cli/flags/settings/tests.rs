use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn settings(line: &str) -> Result<Settings, String> {
    let words = ["atlas"].into_iter().chain(line.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    line.settings.settings(ports::XDS, ports::WEB).map_err(|error| format!("{error:#}"))
}

fn stores(line: &str) -> Vec<String> {
    settings(line).unwrap().hub_stores.iter().map(ToString::to_string).collect()
}

#[test]
fn stores_are_at_the_hub_s_address_by_default() {
    assert_eq!(stores("--hub-address hub.example.com"), [""; 0]);
    assert_eq!(
        stores("--hub-address hub.example.com,10.1.0.10:444,10.1.0.10,[fd00::10]"),
        ["10.1.0.10", "fd00::10"]
    );
    assert_eq!(stores("--hub-address 10.1.0.10 --hub-store-address 127.0.0.1"), ["127.0.0.1"]);
}

#[test]
fn the_hub_is_not_at_a_local_address() {
    for flag in ["--hub-address", "--hub-xds-address", "--hub-alerts-address"] {
        for local in ["169.254.169.254", "localhost:1", "64:ff9b::a9fe:a9fe", "127.0.0.1"] {
            let error = settings(&format!("{flag} 10.0.0.1,{local}")).unwrap_err();
            assert!(
                error.starts_with(flag) && error.contains("--allow-local-addresses"),
                "{error}"
            );
            assert!(settings(&format!("{flag} {local} --allow-local-addresses")).is_ok());
        }
    }
    assert!(settings("--hub-store-address 169.254.169.254").is_err());
    assert!(settings("--hub-store-address 224.0.0.1").is_err());
}

#[test]
fn headers_and_cookies_of_web_uis_are_lists() {
    let settings = settings("--web-pass-headers Authorization,x-grafana-* --web-pass-cookies lang --web-url https://t/x/").unwrap();
    assert_eq!(
        settings.web_pass_headers,
        ["authorization", "x-grafana-*"].map(|name| name.parse().unwrap()).into()
    );
    assert_eq!(settings.web_pass_cookies, ["lang".parse().unwrap()].into());
    assert_eq!(
        (settings.web_path(), settings.web_url.as_ref().unwrap().to_string().as_str()),
        ("/x", "https://t/x")
    );
}

#[test]
fn a_wrong_value_is_named_once_with_its_flag() {
    let wrong = [
        ("--hub-address http://h", "--hub-address", "http://h"),
        ("--hub-address h:0", "--hub-address", "h:0"),
        ("--atlas-address 0x7f000001", "--atlas-address", "0x7f000001"),
        ("--alertmanager-selector app", "--alertmanager-selector", "app"),
        ("--trust-domain A", "--trust-domain", "'A'"),
        ("--namespace a.b", "--namespace", "a.b"),
        ("--downstream-namespace Metrics", "--downstream-namespace", "Metrics"),
        ("--alertmanager-namespace -a-", "--alertmanager-namespace", "-a-"),
        ("--bind-address 224.0.0.1", "--bind-address", "224.0.0.1"),
        ("--bind-address ::ffff:0.0.0.0", "--bind-address", "::ffff:0.0.0.0"),
        ("--bind-address eth0", "--bind-address", "eth0"),
        ("--web-url tools.example.com", "--web-url", "tools.example.com"),
        ("--web-url https://tools.example.com?a=b", "--web-url", "https://tools.example.com?a=b"),
        ("--web-pass-headers lang,cookie", "--web-pass-headers", "cookie"),
        ("--web-pass-cookies a*", "--web-pass-cookies", "a*"),
        ("--web-pass-cookies lang,atlas.sid", "--web-pass-cookies", "atlas.sid"),
    ];
    for (line, flag, value) in wrong {
        let line = line.replacen(' ', "=", 1);
        let error = settings(&line).unwrap_err();
        assert!(error.contains(flag) && error.contains(value), "{error}");
        assert_eq!(
            error.matches(&format!("\"{value}\"")).count(),
            usize::from(!error.contains("invalid value")),
            "{error}"
        );
    }
    for wrong in ["0s", "500ms", "1500ms", "61m", "150", "-1s", "99999999999d"] {
        let error = settings(&format!("--max-request-duration={wrong}")).unwrap_err();
        assert!(error.contains("--max-request-duration") && error.contains(wrong), "{error}");
    }
    assert_eq!(settings("--max-request-duration=10m").unwrap().max_request_seconds, 600);
    assert!(settings("--bind-address 0.0.0.0 --namespace metrics-1").is_ok());
}
