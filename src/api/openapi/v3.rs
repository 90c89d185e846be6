//! OpenAPI v3: an index, and a document for each group and version. kubectl explain, apply and validation
//! read these.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::{
    definitions::{Definitions, Flavor},
    paths::{self, Answer, Body, Operation, Parameter, PathItem},
    v2::patches,
};
use crate::{Catalog, Resource};

/// The index at `/openapi/v3`: a relative URL per group and version, with a hash that changes with the document.
pub fn index(catalog: &Catalog) -> Value {
    let mut all = Map::new();
    for (group, version) in catalog.group_versions() {
        let path = paths::root(group, version);
        let hash = fingerprint(catalog, group, version);
        let url = format!("/openapi/v3{path}?hash={hash:016X}");
        all.insert(path[1..].to_owned(), json!({"serverRelativeURL": url}));
    }
    json!({"paths": all})
}

/// The same for the same catalog of the same release, on every API server.
fn fingerprint(catalog: &Catalog, group: &str, version: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for r in catalog.iter().filter(|r| r.group == group && r.version == version) {
        (&r.plural, &r.kind, &r.list_kind, r.namespaced).hash(&mut hasher);
        r.subresources.iter().for_each(|s| s.name.hash(&mut hasher));
        let schema = r.schema.as_ref().and_then(|s| s.open_api());
        schema.map(Value::to_string).hash(&mut hasher);
    }
    hasher.finish()
}

/// The document at `/openapi/v3/apis/GROUP/VERSION`; `None` when nothing of it is in the catalog.
pub fn document(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let mut definitions = Definitions::new(Flavor::V3);
    let mut all = Map::new();
    for resource in catalog.iter().filter(|r| r.group == group && r.version == version) {
        for item in paths::of(resource) {
            let value = path_item(resource, &item, &mut definitions);
            all.insert(item.path, value);
        }
    }
    (!all.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.35.0"},
            "paths": all,
            "components": {
                "schemas": definitions.all,
                "securitySchemes": {
                    "BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"},
                },
            },
        })
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
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

fn query((name, kind, description): &Parameter) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn content(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn write(resource: &Resource, operation: &Operation, definitions: &mut Definitions) -> Value {
    let custom = resource.custom.then_some(resource);
    let gvk = &operation.gvk;
    let mut out = json!({
        "tags": [paths::tag(resource)],
        "description": operation.description,
        "operationId": operation.id,
        "parameters": operation.parameters.iter().map(query).collect::<Vec<_>>(),
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": gvk.group, "version": gvk.version, "kind": gvk.kind},
    });
    let body = match &operation.body {
        Body::None => None,
        Body::Object(gvk) => {
            definitions.kind(gvk, custom).map(|s| json!({"content": content(&["*/*"], &s), "required": true}))
        }
        Body::DeleteOptions => {
            Some(json!({"content": content(&["*/*"], &definitions.meta("DeleteOptions"))}))
        }
        Body::Patch => {
            Some(json!({"content": content(patches(resource), &definitions.meta("Patch")), "required": true}))
        }
    };
    if let Some(body) = body {
        out["requestBody"] = body;
    }
    let answer = match &operation.answer {
        Answer::Object(gvk) => definitions.kind(gvk, custom).map(|s| content(types(operation), &s)),
        Answer::Status => Some(content(types(operation), &definitions.meta("Status"))),
        Answer::Text => Some(content(&["*/*"], &json!({"type": "string"}))),
    };
    let mut responses = Map::new();
    for (code, description) in operation.codes {
        let mut response = json!({"description": description});
        if let Some(answer) = &answer {
            response["content"] = answer.clone();
        }
        responses.insert((*code).into(), response);
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    out["responses"] = responses.into();
    out
}

fn types(operation: &Operation) -> &'static [&'static str] {
    match operation.action {
        "list" => &["application/json", "application/yaml", "application/json;stream=watch"],
        _ => &["application/json", "application/yaml"],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let catalog = Catalog::builtin();
        let index = index(&catalog);
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
        assert!(index["paths"]["api/v1"].is_object());
        let document = document(&catalog, "apps", "v1").unwrap();
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
        let names: Vec<_> = patch["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
        assert!(names.contains(&&json!("fieldValidation")), "{names:?}");
        let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"], json!([gvk]));
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert!(super::document(&catalog, "apps", "v9").is_none());
    }

    #[test]
    fn every_reference_is_there() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Array(items) => items.iter().for_each(|v| references(v, found)),
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|v| references(v, found));
                }
                _ => {}
            }
        }
        let catalog = Catalog::builtin();
        for (group, version) in catalog.group_versions() {
            let document = document(&catalog, group, version).unwrap();
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            let schemas = document["components"]["schemas"].as_object().unwrap();
            for name in found {
                assert!(
                    schemas.contains_key(name.trim_start_matches("#/components/schemas/")),
                    "{group} {name}"
                );
            }
        }
    }

    #[test]
    fn a_custom_resource_is_described() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "cron": {"type": "string", "description": "When."}, "port": {"x-kubernetes-int-or-string": true}}}}});
        let schema = crate::schema::Schema::from_open_api(&schema, &crate::field::Path::root()).unwrap();
        let pods = Catalog::builtin().find("", "v1", "pods").unwrap().clone();
        let custom = Resource {
            group: "stable.example.com".into(),
            kind: "CronTab".into(),
            plural: "crontabs".into(),
            list_kind: "CronTabList".into(),
            custom: true,
            schema: Some(schema.into()),
            subresources: Vec::new(),
            ..Resource::clone(&pods)
        };
        let catalog = Catalog::builtin().with([std::sync::Arc::new(custom)]);
        let three = document(&catalog, "stable.example.com", "v1").unwrap();
        let name = "com.example.stable.v1.CronTab";
        let described = &three["components"]["schemas"][name];
        assert_eq!(described["properties"]["spec"]["properties"]["cron"]["description"], "When.");
        assert_eq!(described["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
        let patch =
            &three["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]["patch"];
        let types: Vec<_> = patch["requestBody"]["content"].as_object().unwrap().keys().collect();
        assert_eq!(types, ["application/json-patch+json", "application/merge-patch+json"]);
        let two = crate::openapi::v2(&catalog);
        let port = &two["definitions"][name]["properties"]["spec"]["properties"]["port"];
        assert_eq!(*port, json!({"x-kubernetes-int-or-string": true}));
        let without = index(&Catalog::builtin());
        assert!(without["paths"]["apis/stable.example.com/v1"].is_null());
    }
}
