//! Fields that no schema knows, and the bodies of subresources, which are read as strictly as objects.

use super::{Api, Body, DEPLOYMENTS, JSON, MAPS, MERGE, PODS, Row, json, parse, refused, send};

pub async fn unknown_and_duplicate_fields(api: Api) {
    let body =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s"},"dat":{},"data":{"a":"1","a":"2"}}"#;
    let texts = ["unknown field \"dat\"", "duplicate field \"data.a\""];
    let strict = format!(
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {}",
        texts.join(", ")
    );
    let path = format!("{MAPS}?fieldValidation=Strict");
    refused(&api.admin, ("POST", &path, JSON, body.as_bytes(), 400, "BadRequest", &strict)).await;
    for (validation, warnings) in [("Warn", &texts[..]), ("Ignore", &[]), ("", &texts[..])] {
        let path = format!("{MAPS}?dryRun=All&fieldValidation={validation}");
        let request = http::Request::builder().method("POST").uri(path).header("content-type", JSON);
        let answer = send(&api.admin, request.body(Body::from(body.as_bytes().to_vec())).unwrap()).await;
        assert_eq!(answer.status(), 201, "{validation}");
        let got: Vec<String> = (answer.headers().get_all("warning").iter())
            .map(|value| value.to_str().unwrap().replace("\\\"", "\""))
            .collect();
        assert_eq!(got, warnings.iter().map(|text| format!("299 - \"{text}\"")).collect::<Vec<_>>());
        let made = parse(&String::from_utf8_lossy(answer.body()));
        assert_eq!((made.get("dat"), &made["data"]), (None, &json!({"a": "2"})), "{made}");
    }
    api.stop().await;
}

/// Bodies of subresources are read as strictly as objects.
#[allow(clippy::too_many_lines, reason = "a table")]
pub async fn bad_subresources(api: Api) {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    assert_eq!(api.call("POST", DEPLOYMENTS, JSON, &deployment.to_string()).await.0, 201);
    let (scale, binding, eviction) =
        (format!("{DEPLOYMENTS}/web/scale"), format!("{PODS}/p/binding"), format!("{PODS}/p/eviction"));
    let review = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let rows: &[Row<'_>] = &[
        (
            "PATCH",
            &scale,
            MERGE,
            br#"{"spec":{"replicas":"six"}}"#,
            400,
            "BadRequest",
            "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32",
        ),
        (
            "PUT",
            &scale,
            JSON,
            br#"{"metadata":{"name":"web"},"spec":{"replicas":-1}}"#,
            422,
            "Invalid",
            "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "PUT",
            &scale,
            JSON,
            br#"{"metadata":{"name":"other"},"spec":{"replicas":1}}"#,
            400,
            "BadRequest",
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        (
            "PUT",
            &scale,
            JSON,
            b"{",
            400,
            "BadRequest",
            "the object provided is unrecognized (must be of type Scale): *",
        ),
        (
            "POST",
            &binding,
            JSON,
            b"{",
            400,
            "BadRequest",
            "the object provided is unrecognized (must be of type Binding): *",
        ),
        (
            "POST",
            &binding,
            JSON,
            br#"{"target":"w1"}"#,
            400,
            "BadRequest",
            "Binding in version \"v1\" cannot be handled as a Binding: json: cannot unmarshal string into Go struct field Binding.target of type v1.ObjectReference",
        ),
        (
            "POST",
            &binding,
            JSON,
            br#"{"metadata":{"name":"q"},"target":{"name":"w1"}}"#,
            400,
            "BadRequest",
            "name in URL does not match name in Binding object",
        ),
        ("POST", &binding, JSON, br#"{"target":{"name":"w1"}}"#, 404, "NotFound", "pods \"p\" not found"),
        (
            "POST",
            &eviction,
            JSON,
            br#"{"kind":"Pod","apiVersion":"v1"}"#,
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a Eviction: *",
        ),
        (
            "POST",
            &eviction,
            JSON,
            br#"{"deleteOptions":{"gracePeriodSeconds":"x"}}"#,
            400,
            "BadRequest",
            "Eviction in version \"v1\" cannot be handled as a Eviction: json: cannot unmarshal string *",
        ),
        (
            "POST",
            &eviction,
            JSON,
            br#"{"apiVersion":"policy/v1beta1","kind":"Eviction"}"#,
            404,
            "NotFound",
            "pods \"p\" not found",
        ),
        (
            "POST",
            review,
            JSON,
            br#"{"spec":[]}"#,
            400,
            "BadRequest",
            "SubjectAccessReview in version \"v1\" cannot be handled as a SubjectAccessReview: *",
        ),
        (
            "POST",
            token,
            JSON,
            br#"{"spec":{"audiences":"x"}}"#,
            400,
            "BadRequest",
            "TokenRequest in version \"v1\" cannot be handled as a TokenRequest: *",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/finalize",
            JSON,
            br#"{"metadata":{"name":"other"}}"#,
            400,
            "BadRequest",
            "the name of the object (other) does not match the name on the URL (default)",
        ),
    ];
    for row in rows {
        refused(&api.admin, *row).await;
    }
    let now = parse(&api.call("GET", &scale, JSON, "").await.1);
    assert_eq!(now["spec"]["replicas"], 3, "{now}");
    api.stop().await;
}
