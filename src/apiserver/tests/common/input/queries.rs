//! What stands in a query: selectors, numbers, tokens, revisions that are gone or not there yet.

use super::{
    Api, Arc, BASE64_URL_SAFE_NO_PAD, Engine, JSON, Kv, MAPS, Value, configmap, json, like, parse, refused,
};

#[allow(clippy::too_many_lines, reason = "a table")]
pub async fn bad_queries(api: Api) {
    let list = |query: &str| format!("{MAPS}?{query}");
    let options = |text: &str| format!("ListOptions.meta.k8s.io \"\" is invalid: {text}");
    let token = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let outside = token(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"../secrets/kube-system/"}"#);
    let other = token(r#"{"v":"meta.k8s.io/v9","rv":5,"start":"a"}"#);
    let ahead = token(r#"{"v":"meta.k8s.io/v1","rv":999999,"start":"a"}"#);
    let rows: &[(&str, &str, u16, &str, &str)] = &[
        ("GET", "labelSelector=a%3D%3D%3Db", 400, "BadRequest", "unable to parse requirement: *"),
        ("GET", "labelSelector=a%20in%20(b", 400, "BadRequest", "unable to parse requirement: *"),
        (
            "GET",
            "labelSelector=a%3D-b",
            400,
            "BadRequest",
            "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be *",
        ),
        (
            "GET",
            "labelSelector=%2Fa",
            400,
            "BadRequest",
            "unable to parse requirement: *Invalid value: \"/a\": *",
        ),
        (
            "GET",
            "fieldSelector=metadata.name",
            400,
            "BadRequest",
            "invalid selector: 'metadata.name'; can't understand 'metadata.name'",
        ),
        (
            "GET",
            "fieldSelector=spec.x%3Db",
            400,
            "BadRequest",
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "DELETE",
            "fieldSelector=spec.x%3Db",
            400,
            "BadRequest",
            "\"spec.x\" is not a known field selector: *",
        ),
        ("DELETE", "labelSelector=!", 400, "BadRequest", "unable to parse requirement: *"),
        ("GET", "watch=1&labelSelector=!", 400, "BadRequest", "unable to parse requirement: *"),
        ("GET", "limit=x", 400, "BadRequest", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("GET", "timeoutSeconds=x", 400, "BadRequest", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "GET",
            "watch=1&timeoutSeconds=99999999999999999999",
            400,
            "BadRequest",
            "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
        ),
        ("GET", "continue=xx", 400, "BadRequest", "invalid continue token: continue key is not valid: *"),
        ("GET", "continue=%00", 400, "BadRequest", "invalid continue token: continue key is not valid: *"),
        (
            "GET",
            &format!("continue={outside}"),
            400,
            "BadRequest",
            "invalid continue token: continue key is not valid: ../secrets/kube-system/",
        ),
        (
            "GET",
            &format!("continue={other}"),
            400,
            "BadRequest",
            "invalid continue token: continue key is not valid: server does not recognize this encoded version meta.k8s.io/v9",
        ),
        (
            "GET",
            &format!("continue={ahead}"),
            504,
            "Timeout",
            "Timeout: Too large resource version: 999999, current: *",
        ),
        (
            "GET",
            &format!("continue={ahead}&resourceVersion=5"),
            400,
            "BadRequest",
            "specifying resource version is not allowed when using continue",
        ),
        (
            "GET",
            "resourceVersion=x",
            400,
            "BadRequest",
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        ("GET", "resourceVersion=-1", 400, "BadRequest", "invalid resource version: *"),
        ("GET", "watch=1&resourceVersion=x", 400, "BadRequest", "invalid resource version: *"),
        (
            "GET",
            "resourceVersionMatch=Exact",
            422,
            "Invalid",
            &options(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
        ),
        (
            "GET",
            "resourceVersion=1&resourceVersionMatch=Newer",
            422,
            "Invalid",
            &options(
                "resourceVersionMatch: Unsupported value: \"Newer\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
        ),
        (
            "GET",
            "watch=1&sendInitialEvents=true",
            422,
            "Invalid",
            &options(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
        ),
        (
            "GET",
            "resourceVersion=999999",
            504,
            "Timeout",
            "Timeout: Too large resource version: 999999, current: *",
        ),
        (
            "GET",
            "resourceVersion=999999&resourceVersionMatch=Exact",
            504,
            "Timeout",
            "Timeout: Too large resource version: 999999, current: *",
        ),
        (
            "POST",
            "dryRun=Some",
            422,
            "Invalid",
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            "POST",
            "fieldValidation=strict",
            422,
            "Invalid",
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
        (
            "DELETE",
            "gracePeriodSeconds=1s",
            400,
            "BadRequest",
            "strconv.ParseInt: parsing \"1s\": invalid syntax",
        ),
        (
            "DELETE",
            "propagationPolicy=None",
            422,
            "Invalid",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"None\": *",
        ),
    ];
    for (method, query, code, reason, message) in rows {
        let body = if *method == "POST" { configmap("q") } else { Vec::new() };
        refused(&api.admin, (method, &list(query), JSON, &body, *code, reason, message)).await;
    }
    // A client that asks for a state that is not there yet is told to try again, and why.
    let (_, text) = api.call("GET", &list("resourceVersion=999999"), JSON, "").await;
    let details = parse(&text)["details"].clone();
    assert_eq!(
        details["causes"],
        json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}])
    );
    assert_eq!(details["retryAfterSeconds"], 1);
    for (query, code) in
        [("limit=-1", 200), ("fieldSelector=metadata.namespace%3Dkube-system", 200), ("unknown=1", 200)]
    {
        assert_eq!(api.call("GET", &list(query), JSON, "").await.0, code, "{query}");
    }
    api.stop().await;
}

/// Revisions that were compacted: a list says so, a page offers to go on, a watch ends with the error.
pub async fn expired_revisions(kv: Arc<dyn Kv>, flags: &[&str]) {
    let first = Api::start(kv.clone(), flags).await;
    for i in 0..6 {
        let body = String::from_utf8(configmap(&format!("e{i}"))).unwrap();
        assert_eq!(first.call("POST", MAPS, JSON, &body).await.0, 201);
    }
    let page = parse(&first.call("GET", &format!("{MAPS}?limit=4"), JSON, "").await.1);
    let (token, old) = (
        page["metadata"]["continue"].as_str().unwrap(),
        page["metadata"]["resourceVersion"].as_str().unwrap(),
    );
    assert_eq!(first.call("DELETE", &format!("{MAPS}/e5"), JSON, "").await.0, 200);
    let now = parse(&first.call("GET", MAPS, JSON, "").await.1);
    kv.compact(now["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()).await.unwrap();
    let exact = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    let text = "The resourceVersion for the provided list is too old.";
    refused(&first.admin, ("GET", &exact, JSON, b"", 410, "Expired", text)).await;
    let next = format!("{MAPS}?limit=4&continue={token}");
    let text = "The provided continue parameter is too old to display a consistent list result. You can start a new list without *";
    refused(&first.admin, ("GET", &next, JSON, b"", 410, "Expired", text)).await;
    // The rest, as it is now, with the token in the refusal.
    let refusal = parse(&first.call("GET", &next, JSON, "").await.1);
    let token = refusal["metadata"]["continue"].as_str().unwrap();
    let (code, text) = first.call("GET", &format!("{MAPS}?limit=4&continue={token}"), JSON, "").await;
    let names: Vec<Value> =
        parse(&text)["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect();
    assert_eq!((code, names), (200, vec![json!("e4")]), "{text}");
    first.stop().await;
    // A server that started later has nothing older than its first list.
    let second = Api::start(kv, flags).await;
    let (code, text) = second.call("GET", &format!("{MAPS}?watch=1&resourceVersion=1"), JSON, "").await;
    let event = parse(text.trim());
    assert_eq!(
        (code, &event["type"], &event["object"]["code"]),
        (200, &json!("ERROR"), &json!(410)),
        "{text}"
    );
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(like(event["object"]["message"].as_str().unwrap(), "too old resource version: 1 (*)"), "{text}");
    second.stop().await;
}
