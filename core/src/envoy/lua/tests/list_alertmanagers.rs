use super::*;

#[test]
fn each_target_is_the_authority_of_the_request() {
    let script = Script::load(&list_alertmanagers("[\"AUTHORITY\", \"AUTHORITY\"]\n"));
    let asked =
        |authority: &str| script.stream().answer(&[(":authority", authority)], "content-type");
    let answer = asked("envoy.monitoring:11903").unwrap();
    assert_eq!(
        answer,
        (
            "200".into(),
            Some("application/json".into()),
            "[\"envoy.monitoring:11903\", \"envoy.monitoring:11903\"]\n".into()
        )
    );
    assert!(asked("[fd00::1]:11903").unwrap().2.contains("[fd00::1]:11903"));
    assert_eq!(asked("a\"b"), None);
    assert_eq!(asked(""), None);
    assert_eq!(asked(DEFAULT_HOST_FOR_HTTP_10).unwrap().0, "400");
}
