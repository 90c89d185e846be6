//! Names of objects and namespaces, in bodies and in URLs.

use super::{Api, JSON, MAPS, Row, configmap, json, refused, with_metadata};

#[allow(clippy::too_many_lines, reason = "a table")]
pub async fn bad_names(api: Api) {
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    for name in ["UPPER", "a_b", "-a", "a-", "a..b", "a b", "a\u{e9}", "x\u{1}"] {
        let text =
            format!("ConfigMap {name:?} is invalid: metadata.name: Invalid value: {name:?}: {}", subdomain);
        refused(&api.admin, ("POST", MAPS, JSON, &configmap(name), 422, "Invalid", &text)).await;
    }
    let long = "a".repeat(254);
    let space =
        |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
    let bound = |n| format!("* must be no more than {n} *");
    let rows: &[Row<'_>] = &[
        ("POST", MAPS, JSON, &configmap(&long), 422, "Invalid", &bound(253)),
        ("POST", MAPS, JSON, &configmap("a/b"), 422, "Invalid", "*metadata.name: Invalid value: \"a/b\": *"),
        (
            "POST",
            MAPS,
            JSON,
            &configmap(""),
            422,
            "Invalid",
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            "POST",
            "/api/v1/namespaces",
            JSON,
            &space("Bad.Ns").into_bytes(),
            422,
            "Invalid",
            &format!("Namespace \"Bad.Ns\" is invalid: metadata.name: Invalid value: \"Bad.Ns\": {}", label),
        ),
        (
            "POST",
            "/api/v1/namespaces",
            JSON,
            &space(&"a".repeat(64)).into_bytes(),
            422,
            "Invalid",
            &bound(63),
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"generateName": "A_"})),
            422,
            "Invalid",
            "*metadata.generateName: Invalid value: \"A_\": *",
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"name": "l", "labels": {"a": "-x"}})),
            422,
            "Invalid",
            "ConfigMap \"l\" is invalid: metadata.labels: Invalid value: \"-x\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', *",
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"name": "l", "labels": {"a b": "x"}})),
            422,
            "Invalid",
            "ConfigMap \"l\" is invalid: metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', *",
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"name": "l", "annotations": {"/": "x"}})),
            422,
            "Invalid",
            "ConfigMap \"l\" is invalid: *metadata.annotations: Invalid value: \"/\": *",
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"name": "l", "finalizers": ["a b"]})),
            422,
            "Invalid",
            "ConfigMap \"l\" is invalid: *metadata.finalizers*",
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"name": "l", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod"}]})),
            422,
            "Invalid",
            "*metadata.ownerReferences*",
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"name": "l", "resourceVersion": "1"})),
            400,
            "BadRequest",
            "resourceVersion should not be set on objects to be created",
        ),
        (
            "POST",
            MAPS,
            JSON,
            &with_metadata(json!({"name": "l", "namespace": "other"})),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            "/api/v1/namespaces/none/configmaps",
            JSON,
            &configmap("l"),
            404,
            "NotFound",
            "namespaces \"none\" not found",
        ),
        (
            "POST",
            "/api/v1/namespaces/NONE/configmaps",
            JSON,
            &configmap("l"),
            404,
            "NotFound",
            "namespaces \"NONE\" not found",
        ),
        (
            "PUT",
            &format!("{MAPS}/y"),
            JSON,
            &configmap("x"),
            400,
            "BadRequest",
            "the name of the object (x) does not match the name on the URL (y)",
        ),
        (
            "PUT",
            &format!("{MAPS}/y"),
            JSON,
            &with_metadata(json!({})),
            400,
            "BadRequest",
            "the name of the object (y based on URL) was undeterminable: name must be provided",
        ),
        (
            "PUT",
            &format!("{MAPS}/y"),
            JSON,
            &with_metadata(json!({"name": "y", "namespace": "other"})),
            400,
            "BadRequest",
            "the namespace of the object (other) does not match the namespace on the request (default)",
        ),
        ("PUT", &format!("{MAPS}/y"), JSON, &configmap("y"), 404, "NotFound", "configmaps \"y\" not found"),
        (
            "GET",
            &format!("{MAPS}/a%2Fb"),
            JSON,
            b"",
            400,
            "BadRequest",
            "Name parameter invalid: \"a/b\": may not contain '/'",
        ),
        (
            "DELETE",
            &format!("{MAPS}/%25"),
            JSON,
            b"",
            400,
            "BadRequest",
            "Name parameter invalid: \"%\": may not contain '%'",
        ),
        (
            "GET",
            &format!("{MAPS}/%2e%2e"),
            JSON,
            b"",
            400,
            "BadRequest",
            "Name parameter invalid: \"..\": may not be '..'",
        ),
        ("GET", &format!("{MAPS}/a%00b"), JSON, b"", 404, "NotFound", "configmaps * not found"),
        ("GET", &format!("{MAPS}/%ff"), JSON, b"", 404, "NotFound", "configmaps * not found"),
        (
            "GET",
            "/api/v1/namespaces/a%2Fb/configmaps",
            JSON,
            b"",
            400,
            "BadRequest",
            "Namespace parameter invalid: \"a/b\": may not contain '/'",
        ),
    ];
    for row in rows {
        refused(&api.admin, *row).await;
    }
    api.stop().await;
}
