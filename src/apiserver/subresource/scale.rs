//! `scale`: the replicas of a workload as an autoscaling/v1 Scale.
//!
//! Paths of the replicas fields are the built-in kinds' own, or those a CRD names.

use super::Call;
use crate::{
    body,
    request::RequestInfo,
    respond,
    server::Server,
    verbs::{Change, Context, Plan, Scope, update},
};
use api::{
    Object,
    catalog::GroupKind,
    field::{FieldError, Path},
    status::Status,
};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

/// Where a kind keeps its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    spec: String,
    status: String,
    selector: String,
}

pub(super) async fn run(call: Call) -> api::Result<Response> {
    let server = call.server.clone();
    let paths = paths(&server, &call.info)?;
    let (ctx, body) = call.open()?;
    let name = ctx.info.name.clone();
    let bytes = body::read(body).await?;
    if ctx.info.verb == "get" {
        let object = server.get(&ctx.stored, &ctx.namespace, &name).await?;
        return Ok(respond::value(ctx.accept, StatusCode::OK, &show(&object, &paths)));
    }
    let change = SetScale { ctx: &ctx, scope: ctx.scope(), paths: &paths, bytes };
    let outcome = ctx.scope().target(&name).change(&change).await?;
    Ok(respond::value(ctx.accept, StatusCode::OK, &show(&outcome.object(), &paths)))
}

fn paths(server: &Server, info: &RequestInfo) -> api::Result<Paths> {
    let builtin = Paths {
        spec: "spec.replicas".into(),
        status: "status.replicas".into(),
        selector: "spec.selector".into(),
    };
    let definitions = server.resource("apiextensions.k8s.io", "customresourcedefinitions");
    let Some(definition) = server.cached_get(&definitions, "", &format!("{}.{}", info.resource, info.group))
    else {
        return Ok(builtin);
    };
    let versions = definition.list_at("spec.versions");
    let version = versions.iter().find(|v| v["name"] == info.version.as_str());
    let scale = version.and_then(|v| v.pointer("/subresources/scale")).ok_or_else(Status::not_found_path)?;
    let path = |field: &str| scale[field].as_str().unwrap_or_default().trim_start_matches('.').to_string();
    Ok(Paths {
        spec: path("specReplicasPath"),
        status: path("statusReplicasPath"),
        selector: path("labelSelectorPath"),
    })
}

fn show(object: &Object, paths: &Paths) -> Value {
    let meta = |field: &str| object.get(&format!("metadata.{field}")).cloned().unwrap_or(Value::Null);
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta(field).is_null() {
            metadata[field] = meta(field);
        }
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": object.i64_at(&paths.spec).unwrap_or(0)},
        "status": {"replicas": object.i64_at(&paths.status).unwrap_or(0)},
    });
    let selector = selector_text(object.get(&paths.selector));
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A selector in its text form: a string as it is, a map of labels, or a label selector object.
fn selector_text(selector: Option<&Value>) -> String {
    match selector {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(map))
            if map.contains_key("matchLabels") || map.contains_key("matchExpressions") =>
        {
            let empty = serde_json::Map::new();
            let labels = map.get("matchLabels").and_then(Value::as_object).unwrap_or(&empty);
            let mut parts: Vec<String> = labels.iter().map(equals).collect();
            parts.extend(
                map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().map(expression),
            );
            parts.join(",")
        }
        Some(Value::Object(map)) => map.iter().map(equals).collect::<Vec<_>>().join(","),
        _ => String::new(),
    }
}

fn equals((key, value): (&String, &Value)) -> String {
    format!("{key}={}", value.as_str().unwrap_or_default())
}

fn expression(e: &Value) -> String {
    let key = e["key"].as_str().unwrap_or_default();
    let values: Vec<&str> = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match e["operator"].as_str() {
        Some("In") => format!("{key} in ({})", values.join(",")),
        Some("NotIn") => format!("{key} notin ({})", values.join(",")),
        Some("DoesNotExist") => format!("!{key}"),
        _ => key.to_string(),
    }
}

struct SetScale<'a> {
    ctx: &'a Context,
    scope: Scope<'a>,
    paths: &'a Paths,
    bytes: bytes::Bytes,
}

impl SetScale<'_> {
    fn wanted(&self, current: &Object) -> api::Result<Object> {
        if self.ctx.info.verb != "patch" {
            let wanted = body::decode(self.ctx, &self.bytes)?;
            update::same_name(&wanted, current.name(), &self.ctx.namespace)?;
            return Ok(wanted);
        }
        let (kind, patch) = crate::verbs::patch::read(self.ctx, &self.bytes)?;
        let patched = crate::verbs::patch::apply_plain(kind, &patch, &show(current, self.paths))?;
        body::check(self.ctx, Object::try_from(patched)?, &[])
    }
}

#[async_trait::async_trait]
impl Change for SetScale<'_> {
    async fn plan(&self, current: &Object) -> api::Result<Plan> {
        let wanted = self.wanted(current)?;
        let version = wanted.resource_version();
        if !version.is_empty() && version != current.resource_version() {
            return Err(Status::modified(&self.scope.resource.group_resource(), current.name()));
        }
        let replicas = wanted.i64_at("spec.replicas").unwrap_or(0);
        if replicas < 0 {
            let path = Path::new("spec").child("replicas");
            let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(Status::invalid(
                &GroupKind::new("autoscaling", "Scale"),
                current.name(),
                vec![error],
            ));
        }
        let mut new = current.clone();
        new.set(&self.paths.spec, replicas);
        let scope = Scope { subresource: "", ..self.scope };
        update::replace(&scope, new, current).await
    }
}
