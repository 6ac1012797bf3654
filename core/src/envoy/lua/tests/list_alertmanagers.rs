use super::*;

#[test]
fn each_target_is_the_authority_of_the_request() {
    let script = Script::load(&list_alertmanagers("[\"AUTHORITY\", \"AUTHORITY\"]\n"));
    let list_for = |authority: &str| {
        script.stream().local_response(&[(":authority", authority)], "content-type")
    };
    let response = list_for("envoy.monitoring:11903").unwrap();
    assert_eq!(
        response,
        (
            "200".into(),
            Some("application/json".into()),
            "[\"envoy.monitoring:11903\", \"envoy.monitoring:11903\"]\n".into()
        )
    );
    assert!(list_for("[fd00::1]:11903").unwrap().2.contains("[fd00::1]:11903"));
    assert_eq!(list_for("a\"b"), None);
    assert_eq!(list_for(""), None);
    assert_eq!(list_for(DEFAULT_HOST_FOR_HTTP_10).unwrap().0, "400");
}
