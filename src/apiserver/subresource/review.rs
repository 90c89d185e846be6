//! Reviews: questions that are asked by creating an object and answered in its status. Nothing is stored.
//!
//! TokenReview, SubjectAccessReview (for anybody, in a namespace, for oneself), SelfSubjectRulesReview and
//! SelfSubjectReview.

use super::{Call, Row, answers, row};
use crate::{
    authn::UserInfo,
    authz::{Ask, Authorizer, Decision, Rule},
    respond,
    server::Server,
};
use api::{
    Object,
    catalog::GroupKind,
    field::{FieldError, Path},
    status::Status,
};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    row(AUTHENTICATION, "tokenreviews", "", answers!(run)),
    row(AUTHENTICATION, "selfsubjectreviews", "", answers!(run)),
    row(AUTHORIZATION, "subjectaccessreviews", "", answers!(run)),
    row(AUTHORIZATION, "localsubjectaccessreviews", "", answers!(run)),
    row(AUTHORIZATION, "selfsubjectaccessreviews", "", answers!(run)),
    row(AUTHORIZATION, "selfsubjectrulesreviews", "", answers!(run)),
];

async fn run(call: Call) -> api::Result<Response> {
    let (server, user) = (call.server.clone(), call.user.clone());
    let (ctx, mut object) = call.posted().await?;
    let status = match ctx.info.resource.as_str() {
        "tokenreviews" => token(&server, &object).await?,
        "selfsubjectreviews" => json!({"userInfo": user_json(&user)}),
        "selfsubjectrulesreviews" => rules(&server, &user, &object)?,
        kind => access(&server, &user, kind, &ctx.namespace, &object)?,
    };
    object.set("metadata.creationTimestamp", Value::Null);
    object.set("status", status);
    Ok(ctx.warned(respond::value(ctx.accept, StatusCode::CREATED, &object.into_value())))
}

fn user_json(user: &UserInfo) -> Value {
    let mut shown = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        shown["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        shown["extra"] = json!(user.extra);
    }
    shown
}

async fn token(server: &Server, object: &Object) -> api::Result<Value> {
    let token = object.str_at("spec.token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = texts(object.get("spec.audiences"));
    let audiences = if asked.is_empty() { &server.config().audiences } else { &asked };
    let authenticator = server.authenticator().ok_or_else(starting)?;
    Ok(match authenticator.review(token, audiences).await {
        Ok(accepted) => json!({
            "authenticated": true,
            "user": user_json(&accepted.user),
            "audiences": accepted.audiences,
        }),
        Err(reason) => json!({"user": {}, "error": reason}),
    })
}

fn starting() -> Status {
    Status::service_unavailable("the API server is starting, try again")
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn access(
    server: &Server,
    user: &UserInfo,
    kind: &str,
    namespace: &str,
    object: &Object,
) -> api::Result<Value> {
    let authorizer = server.authorizer().ok_or_else(starting)?;
    validate(kind, namespace, object)?;
    let subject = match kind {
        "selfsubjectaccessreviews" => user.clone(),
        _ => subject(object),
    };
    Ok(decide(authorizer, &subject, object))
}

fn validate(kind: &str, namespace: &str, object: &Object) -> api::Result<()> {
    let spec = Path::new("spec");
    let mut errors = Vec::new();
    let resource = object.map_at("spec.resourceAttributes").is_some();
    let other = object.map_at("spec.nonResourceAttributes").is_some();
    if resource == other {
        let path = spec.child("resourceAttributes");
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(match resource {
            true => FieldError::invalid(
                &spec.child("nonResourceAttributes"),
                Value::Null,
                "cannot be specified in combination with resourceAttributes",
            ),
            false => FieldError::required(&path, why),
        });
    }
    let named = !object.str_at("spec.user").is_empty() || !object.list_at("spec.groups").is_empty();
    if kind != "selfsubjectaccessreviews" && !named {
        errors.push(FieldError::required(
            &spec.child("user"),
            "at least one of user or group must be specified",
        ));
    }
    let asked = object.str_at("spec.resourceAttributes.namespace");
    if kind == "localsubjectaccessreviews" && (!resource || asked != namespace) {
        let path = spec.child("resourceAttributes").child("namespace");
        errors.push(FieldError::invalid(&path, asked, "must match metadata.namespace"));
    }
    let name = match kind {
        "selfsubjectaccessreviews" => "SelfSubjectAccessReview",
        "localsubjectaccessreviews" => "LocalSubjectAccessReview",
        _ => "SubjectAccessReview",
    };
    match errors.is_empty() {
        true => Ok(()),
        false => {
            Err(Status::invalid(&GroupKind { group: AUTHORIZATION.into(), kind: name.into() }, "", errors))
        }
    }
}

fn subject(object: &Object) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> = object
        .map_at("spec.extra")
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_lowercase(), texts(Some(values))))
        .collect();
    UserInfo {
        name: object.str_at("spec.user").to_owned(),
        uid: object.str_at("spec.uid").to_owned(),
        groups: texts(object.get("spec.groups")),
        extra,
    }
}

fn decide(authorizer: &Authorizer, subject: &UserInfo, object: &Object) -> Value {
    let selector = field_selector(object);
    let (decision, why) = authorizer.decide(subject, &ask(object, &selector));
    let mut status = Map::new();
    status.insert("allowed".into(), json!(decision == Decision::Allow));
    let reason = match decision {
        Decision::Allow => why,
        Decision::Deny(reason) => {
            status.insert("denied".into(), json!(true));
            reason
        }
        Decision::NoOpinion(reason) => reason,
    };
    if !reason.is_empty() {
        status.insert("reason".into(), json!(reason));
    }
    Value::Object(status)
}

fn ask<'a>(object: &'a Object, selector: &'a str) -> Ask<'a> {
    if let Some(attributes) = object.map_at("spec.nonResourceAttributes") {
        let text = |field: &str| attributes.get(field).and_then(Value::as_str).unwrap_or_default();
        return Ask { verb: text("verb"), path: text("path"), ..Ask::default() };
    }
    let text = |field: &str| object.str_at(&format!("spec.resourceAttributes.{field}"));
    Ask {
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        field_selector: selector,
        ..Ask::resource(text("verb"), text("group"), text("resource"))
    }
}

/// The field selector of a review as text: raw, or the requirements that demand one value.
fn field_selector(object: &Object) -> String {
    let base = "spec.resourceAttributes.fieldSelector";
    let raw = object.str_at(&format!("{base}.rawSelector"));
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let term = |requirement: &Value| {
        let values = texts(requirement.get("values"));
        let (key, operator) = (requirement.get("key")?.as_str()?, requirement.get("operator")?.as_str()?);
        (operator == "In" && values.len() == 1).then(|| format!("{key}={}", values[0]))
    };
    let terms: Vec<String> =
        object.list_at(&format!("{base}.requirements")).iter().filter_map(term).collect();
    terms.join(",")
}

fn rules(server: &Server, user: &UserInfo, object: &Object) -> api::Result<Value> {
    let namespace = object.str_at("spec.namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let authorizer = server.authorizer().ok_or_else(starting)?;
    let (rules, errors) = authorizer.rules_of(user, namespace);
    let all: Vec<&Rule> = rules.iter().flat_map(|rules| rules.iter()).collect();
    let resource = all.iter().filter(|rule| rule.non_resource_urls.is_empty());
    let paths = all.iter().filter(|rule| !rule.non_resource_urls.is_empty());
    let mut status = json!({
        "resourceRules": resource.map(|rule| resource_rule(rule)).collect::<Vec<_>>(),
        "nonResourceRules": paths
            .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}))
            .collect::<Vec<_>>(),
        // What the Node authorizer allows is not expressed in rules.
        "incomplete": user.node().is_some() || !errors.is_empty(),
    });
    if !errors.is_empty() {
        status["evaluationError"] = json!(errors.join(", "));
    } else if user.node().is_some() {
        status["evaluationError"] = json!("node authorizer does not support user rule resolution");
    }
    Ok(status)
}

fn resource_rule(rule: &Rule) -> Value {
    let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
    if !rule.resource_names.is_empty() {
        shown["resourceNames"] = json!(rule.resource_names);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: Value) -> Object {
        Object::try_from(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn malformed_reviews() {
        let check = |kind: &str, spec: Value, expect: &str| {
            let found = validate(kind, "a", &object(spec.clone())).err();
            let text = found.as_ref().map(Status::message).unwrap_or_default();
            assert!(text.contains(expect) && text.is_empty() == expect.is_empty(), "{spec}: {text}");
        };
        let pods = json!({"resource": "pods", "verb": "get", "namespace": "a"});
        check("subjectaccessreviews", json!({"user": "x", "resourceAttributes": pods}), "");
        check("selfsubjectaccessreviews", json!({"resourceAttributes": pods}), "");
        check("localsubjectaccessreviews", json!({"user": "x", "resourceAttributes": pods}), "");
        check("subjectaccessreviews", json!({"resourceAttributes": pods}), "at least one of user or group");
        check("subjectaccessreviews", json!({"user": "x"}), "exactly one of nonResourceAttributes");
        check(
            "localsubjectaccessreviews",
            json!({"user": "x", "resourceAttributes": {"namespace": "b"}}),
            "must match metadata.namespace",
        );
    }

    #[test]
    fn selectors_of_reviews() {
        let check = |selector: Value, expect: &str| {
            let review = object(json!({"resourceAttributes": {"fieldSelector": selector}}));
            assert_eq!(field_selector(&review), expect);
        };
        check(json!({"rawSelector": "spec.nodeName=w1"}), "spec.nodeName=w1");
        check(
            json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["w1"]}]}),
            "spec.nodeName=w1",
        );
        check(json!({"requirements": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}), "");
        check(json!(null), "");
    }
}
