//! What comes in a body: not JSON, not YAML, not that kind, too large, too deep, a patch that does not fit.

use super::{
    Api, JSON, MAPS, MERGE, PATCH, PROTOBUF, Row, STRATEGIC, Value, YAML, configmap, json, nested, parse,
    refused,
};

#[allow(clippy::too_many_lines, reason = "a table")]
pub async fn bad_bodies(api: Api) {
    let map = "the object provided is unrecognized (must be of type ConfigMap): ";
    let json_error = &format!("{map}couldn't get version/kind; json parse error: *");
    let yaml_error = &format!("{map}error converting YAML to JSON: *");
    let cannot = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: ";
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    let too_large = "Request entity is too large: limit is 3145728";
    let bomb: String =
        (1..30).map(|i| format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p}]\n", p = i - 1)).collect();
    let bomb = format!("a0: &a0 [x,x,x,x]\n{bomb}");
    let many = (0..10_001).map(|_| json!({"op": "add", "path": "/data/a", "value": "x"})).collect::<Value>();
    // Each copy puts what is there into itself: one level more every time.
    let deeper =
        (0..200).map(|_| json!({"op": "copy", "from": "/data", "path": "/data/x"})).collect::<Value>();
    let x = format!("{MAPS}/x");
    assert_eq!(api.call("POST", MAPS, JSON, &String::from_utf8(configmap("x")).unwrap()).await.0, 201);
    let rows: &[Row<'_>] = &[
        ("POST", MAPS, JSON, b"{", 400, "BadRequest", &format!("{json_error} ({{)")),
        ("POST", MAPS, JSON, b"", 400, "BadRequest", &format!("{json_error} (<empty>)")),
        ("POST", MAPS, JSON, b"[1]", 400, "BadRequest", &format!("{map}* (5b315d)")),
        ("POST", MAPS, JSON, b"{\"a\":1}}", 400, "BadRequest", json_error),
        ("POST", MAPS, JSON, b"{\"data\":{\"a\":\"\xff\"}}", 400, "BadRequest", json_error),
        ("POST", MAPS, JSON, b"\0", 400, "BadRequest", &format!("{json_error} (00)")),
        ("POST", MAPS, JSON, &nested("{\"a\":", "}", 100_000), 400, "BadRequest", json_error),
        ("POST", MAPS, JSON, &nested("[", "]", 1_000_000), 400, "BadRequest", json_error),
        ("POST", MAPS, JSON, large.as_bytes(), 413, "RequestEntityTooLarge", too_large),
        ("PUT", &x, JSON, large.as_bytes(), 413, "RequestEntityTooLarge", too_large),
        ("PATCH", &x, MERGE, large.as_bytes(), 413, "RequestEntityTooLarge", too_large),
        ("DELETE", &x, JSON, large.as_bytes(), 413, "RequestEntityTooLarge", too_large),
        ("POST", MAPS, YAML, b"a: [", 400, "BadRequest", yaml_error),
        ("POST", MAPS, YAML, b"a: b: c", 400, "BadRequest", yaml_error),
        ("POST", MAPS, YAML, b"\xff\xfe", 400, "BadRequest", yaml_error),
        ("POST", MAPS, YAML, &nested("[", "]", 50_000), 400, "BadRequest", yaml_error),
        ("POST", MAPS, YAML, bomb.as_bytes(), 400, "BadRequest", yaml_error),
        ("POST", MAPS, PROTOBUF, b"k8s\0\xff\xff\xff", 400, "BadRequest", &format!("{map}*")),
        ("POST", MAPS, PROTOBUF, b"{}", 400, "BadRequest", &format!("{map}*")),
        (
            "POST",
            MAPS,
            "text/html",
            b"{}",
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            "PUT",
            &x,
            MERGE,
            b"{}",
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - *",
        ),
        (
            "PATCH",
            &x,
            JSON,
            b"{}",
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json*",
        ),
        (
            "POST",
            MAPS,
            JSON,
            br#"{"kind":"Pod","apiVersion":"v1"}"#,
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a ConfigMap: *",
        ),
        (
            "POST",
            MAPS,
            JSON,
            br#"{"kind":"ConfigMap","apiVersion":"v2"}"#,
            400,
            "BadRequest",
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            "POST",
            MAPS,
            JSON,
            br#"{"data":{"a":1}}"#,
            400,
            "BadRequest",
            &format!(
                "{cannot}json: cannot unmarshal number into Go struct field ConfigMap.data.a of type string"
            ),
        ),
        (
            "POST",
            MAPS,
            JSON,
            br#"{"metadata":7}"#,
            400,
            "BadRequest",
            &format!(
                "{cannot}json: cannot unmarshal number into Go struct field ConfigMap.metadata of type v1.ObjectMeta"
            ),
        ),
        ("PATCH", &x, PATCH, b"{}", 400, "BadRequest", "error decoding patch: *"),
        (
            "PATCH",
            &x,
            PATCH,
            b"[{\"op\":\"jump\",\"path\":\"/a\"}]",
            400,
            "BadRequest",
            "error decoding patch: *",
        ),
        (
            "PATCH",
            &x,
            PATCH,
            b"[{\"op\":\"remove\",\"path\":\"/data/none\"}]",
            422,
            "Invalid",
            "the server rejected our request due to an error in our request*",
        ),
        (
            "PATCH",
            &x,
            PATCH,
            b"[{\"op\":\"test\",\"path\":\"/data/a\",\"value\":\"2\"}]",
            422,
            "Invalid",
            "the server rejected our request due to an error in our request*",
        ),
        (
            "PATCH",
            &x,
            PATCH,
            &many.to_string().into_bytes(),
            413,
            "RequestEntityTooLarge",
            "Request entity is too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            "PATCH",
            &x,
            PATCH,
            &deeper.to_string().into_bytes(),
            400,
            "BadRequest",
            "the patched object nests deeper than 127 levels",
        ),
        ("PATCH", &x, MERGE, b"{\"data\":", 400, "BadRequest", "error decoding patch: *"),
        ("PATCH", &x, MERGE, &nested("{\"a\":", "}", 100_000), 400, "BadRequest", "error decoding patch: *"),
        (
            "PATCH",
            &x,
            MERGE,
            br#"{"data":{"a":1}}"#,
            422,
            "Invalid",
            " \"\" is invalid: patch: Invalid value: \"*\": *cannot unmarshal number into Go struct field ConfigMap.data.a of type string",
        ),
        (
            "PATCH",
            &x,
            STRATEGIC,
            br#"{"data":[1]}"#,
            422,
            "Invalid",
            " \"\" is invalid: patch: Invalid value: *",
        ),
        (
            "PATCH",
            &x,
            MERGE,
            br#"{"metadata":{"name":"y"}}"#,
            400,
            "BadRequest",
            "the name of the object (y) does not match the name on the URL (x)",
        ),
        ("DELETE", &x, JSON, b"{", 400, "BadRequest", "*"),
        (
            "DELETE",
            &x,
            JSON,
            br#"{"gracePeriodSeconds":"1"}"#,
            400,
            "BadRequest",
            "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
        ),
        (
            "DELETE",
            &x,
            JSON,
            br#"{"propagationPolicy":"Never"}"#,
            422,
            "Invalid",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Never\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
        (
            "DELETE",
            &x,
            JSON,
            br#"{"orphanDependents":true,"propagationPolicy":"Orphan"}"#,
            422,
            "Invalid",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
        ),
        ("DELETE", &x, JSON, br#"{"preconditions":{"uid":"other"}}"#, 409, "Conflict", "*"),
    ];
    for row in rows {
        refused(&api.admin, *row).await;
    }
    // A NUL in a value is a character like any other; nothing above changed the object.
    let nul = br#"{"data":{"b":"x\u0000y"}}"#;
    let (code, text) = api.call("PATCH", &x, MERGE, std::str::from_utf8(nul).unwrap()).await;
    assert_eq!((code, parse(&text)["data"].clone()), (200, json!({"a": "1", "b": "x\0y"})), "{text}");
    api.stop().await;
}
