//! OpenAPI v2 (Swagger), as kubectl before 1.27 and many tools read it.

use serde_json::{Map, Value, json};

use super::{
    definitions::{Definitions, Flavor},
    paths::{self, Answer, Body, Operation, Parameter, PathItem},
};
use crate::{Catalog, Resource};

const PRODUCES: &[&str] = &["application/json", "application/yaml"];
const STREAMS: &[&str] = &["application/json", "application/yaml", "application/json;stream=watch"];

/// What a PATCH may carry. Custom resources have no strategic merge.
pub(super) const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The types of patches that a resource takes.
pub(super) fn patches(resource: &Resource) -> &'static [&'static str] {
    if resource.custom { &PATCHES[..2] } else { PATCHES }
}

/// The document at `/openapi/v2`.
pub fn document(catalog: &Catalog) -> Value {
    let mut definitions = Definitions::new(Flavor::V2);
    let mut all = Map::new();
    for resource in catalog.iter() {
        for item in paths::of(resource) {
            let value = path_item(resource, &item, &mut definitions);
            all.insert(item.path, value);
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.35.0"},
        "paths": all,
        "definitions": definitions.all,
        "security": [{"BearerToken": []}],
        "securityDefinitions": {
            "BearerToken": {"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"},
        },
    })
}

fn path_item(resource: &Resource, item: &PathItem, definitions: &mut Definitions) -> Value {
    let mut out = Map::new();
    for operation in &item.operations {
        out.insert(operation.method.into(), write(resource, operation, definitions));
    }
    let mut parameters: Vec<_> = item.variables().map(variable).collect();
    parameters.push(query(&("pretty", "string", "If 'true', then the output is pretty printed.")));
    out.insert("parameters".into(), parameters.into());
    Value::Object(out)
}

fn variable(name: &str) -> Value {
    let description = match name {
        "namespace" => "object name and auth scope, such as for teams and projects",
        "name" => "name of the object",
        _ => "path to the resource",
    };
    json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true, "description": description})
}

fn query((name, kind, description): &Parameter) -> Value {
    json!({"name": name, "in": "query", "type": kind, "uniqueItems": true, "description": description})
}

fn write(resource: &Resource, operation: &Operation, definitions: &mut Definitions) -> Value {
    let custom = resource.custom.then_some(resource);
    let mut parameters: Vec<_> = operation.parameters.iter().map(query).collect();
    let body = match &operation.body {
        Body::None => None,
        Body::Object(gvk) => definitions.kind(gvk, custom).map(|schema| (schema, true)),
        Body::DeleteOptions => Some((definitions.meta("DeleteOptions"), false)),
        Body::Patch => Some((definitions.meta("Patch"), true)),
    };
    if let Some((schema, required)) = body {
        parameters.insert(0, json!({"name": "body", "in": "body", "required": required, "schema": schema}));
    }
    let schema = match &operation.answer {
        Answer::Object(gvk) => definitions.kind(gvk, custom),
        Answer::Status => Some(definitions.meta("Status")),
        Answer::Text => Some(json!({"type": "string"})),
    };
    let mut responses = Map::new();
    for (code, description) in operation.codes {
        let mut response = json!({"description": description});
        if let Some(schema) = &schema {
            response["schema"] = schema.clone();
        }
        responses.insert((*code).into(), response);
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let (consumes, produces) = match (operation.action, &operation.body) {
        ("connect", _) => (&["*/*"][..], &["*/*"][..]),
        (_, Body::Patch) => (patches(resource), PRODUCES),
        ("list", _) => (&["*/*"][..], STREAMS),
        _ => (&["*/*"][..], PRODUCES),
    };
    let gvk = &operation.gvk;
    json!({
        "operationId": operation.id,
        "description": operation.description,
        "tags": [paths::tag(resource)],
        "schemes": ["https"],
        "consumes": consumes,
        "produces": produces,
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": gvk.group, "version": gvk.version, "kind": gvk.kind},
    })
}
