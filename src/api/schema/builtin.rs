//! Built-in kinds: what Go's typed decoding does to an object, done by table.
//!
//! Keeps true: what the table does not know is left out, a null field is as good as none, quantities and times
//! are written canonically. Defaults that depend on other fields are left to strategies.

use base64::Engine;
use serde_json::Value;

use super::{
    trail::Trail,
    types::{Field, Shape, Type},
};
use crate::{
    Result, Status,
    field::{FieldError, Path},
    object, quantity, time,
};

/// Required fields that are defaulted later, or that upstream accepts without.
const NOT_REQUIRED: &[(&str, &str)] = &[
    ("RoleRef", "apiGroup"),
    ("Event", "involvedObject"),
    ("Event", "metadata"),
    ("ContainerStateTerminated", "exitCode"),
    ("CustomResourceDefinitionNames", "kind"),
    ("PriorityClass", "value"),
];

/// Removes unknown and null fields; reports the unknown ones.
pub(super) fn prune(t: &Type, value: &mut Value, removed: &mut Vec<String>) {
    prune_type(t, value, &Trail::Root(&Path::root()), removed);
}

fn prune_type(t: &Type, value: &mut Value, at: &Trail<'_>, removed: &mut Vec<String>) {
    let Some(map) = value.as_object_mut() else { return };
    map.retain(|name, value| {
        let Some(field) = t.field(name) else {
            removed.push(at.path().child(name).as_str().to_owned());
            return false;
        };
        prune_shape(&field.shape, value, &Trail::Field(at, name), removed);
        !value.is_null()
    });
}

fn prune_shape(shape: &Shape, value: &mut Value, at: &Trail<'_>, removed: &mut Vec<String>) {
    match (shape.resolve(), value) {
        (Shape::List(item), Value::Array(items)) => {
            for (i, value) in items.iter_mut().enumerate() {
                prune_shape(item, value, &Trail::Index(at, i), removed);
            }
        }
        (Shape::Map(inner), Value::Object(map))
            if matches!(**inner, Shape::Ref(_) | Shape::List(_) | Shape::Map(_)) =>
        {
            for (key, value) in map.iter_mut() {
                prune_shape(inner, value, &Trail::Key(at, key), removed);
            }
        }
        (shape @ Shape::Ref(_), value) => {
            if let Some(t) = shape.target() {
                prune_type(t, value, at, removed);
            }
        }
        _ => {}
    }
}

/// Fills in the table's defaults and writes quantities and times canonically.
pub(super) fn default(t: &Type, value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    for field in &t.fields {
        match map.get_mut(field.name) {
            Some(value) => normalize(&field.shape, value),
            None => {
                if let Some(default) = field_default(field) {
                    map.insert(field.name.to_owned(), default);
                }
            }
        }
    }
}

/// An empty string is what Go leaves out again.
fn field_default(field: &Field) -> Option<Value> {
    match field.default {
        "" | "\"\"" => None,
        json => serde_json::from_str(json).ok(),
    }
}

fn normalize(shape: &Shape, value: &mut Value) {
    match (shape.resolve(), value) {
        (Shape::String("quantity"), value) => {
            if let Ok(text) = quantity::canonical(value) {
                *value = text.into();
            }
        }
        (Shape::String("date-time"), Value::String(text)) => {
            if let Some(at) = time::parse(text) {
                *text = time::format(at);
            }
        }
        (Shape::String("micro-time"), Value::String(text)) => {
            if let Some(at) = time::parse(text) {
                *text = time::format_micro(at);
            }
        }
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|v| normalize(item, v)),
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|v| normalize(inner, v)),
        (shape @ Shape::Ref(_), value) => {
            if let Some(t) = shape.target() {
                default(t, value);
            }
        }
        _ => {}
    }
}

/// Values of wrong types, and missing required fields outside `status`.
pub(super) fn validate(t: &Type, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut visit = |problem: Problem<'_>| errors.push(problem.field_error());
    let _ = walk_type(t, value, &Trail::Root(path), &mut |p| {
        visit(p);
        Ok(())
    });
}

/// Fails with the first value of a wrong type, in the words of Go's decoder.
pub(super) fn decode(t: &'static Type, value: &Value) -> Result<()> {
    walk_type(t, value, &Trail::Root(&Path::root()), &mut |problem| match problem.go_error() {
        None => Ok(()),
        Some(text) => {
            let (_, version, kind) = t.kinds.first().copied().unwrap_or(("", "v1", t.short()));
            let text = format!("{kind} in version {version:?} cannot be handled as a {kind}: {text}");
            Err(Status::bad_request(text))
        }
    })
}

/// Something wrong with a field of a type.
struct Problem<'a> {
    owner: &'a Type,
    shape: &'a Shape,
    value: Option<&'a Value>,
    at: Trail<'a>,
}

type Visit<'v> = dyn FnMut(Problem<'_>) -> Result<()> + 'v;

impl Problem<'_> {
    fn field_error(&self) -> FieldError {
        let path = self.at.path();
        let Some(value) = self.value else { return FieldError::required(&path, "") };
        let expected = match self.shape {
            Shape::String("quantity") => {
                return FieldError::invalid(&path, value.clone(), quantity::ParseError.to_string());
            }
            Shape::String("byte") if value.is_string() => "must be base64",
            Shape::String("date-time" | "micro-time") if value.is_string() => {
                "must be a time as RFC 3339 has it"
            }
            Shape::String("int-or-string") => "must be an integer or a string",
            other => {
                let text = format!("must be of type {}: {:?}", json_type(other), object::type_name(value));
                return FieldError::type_invalid(&path, object::type_name(value), text);
            }
        };
        FieldError::invalid(&path, value.clone(), expected)
    }

    /// `None` for a missing field: Go's decoder does not miss it.
    fn go_error(&self) -> Option<String> {
        let value = self.value?;
        let text = value.as_str().unwrap_or_default();
        Some(match self.shape {
            Shape::String("quantity") => quantity::ParseError.to_string(),
            Shape::String("byte") if value.is_string() => "illegal base64 data at input byte 0".to_owned(),
            Shape::String("date-time") if value.is_string() => not_a_time(text, "2006-01-02T15:04:05Z07:00"),
            Shape::String("micro-time") if value.is_string() => {
                not_a_time(text, "2006-01-02T15:04:05.000000Z07:00")
            }
            shape => {
                let got = match value {
                    Value::Bool(_) => "bool".to_owned(),
                    Value::Number(n) if matches!(shape, Shape::Integer(_)) => format!("number {n}"),
                    other => object::type_name(other).replace("integer", "number"),
                };
                let (owner, names) = (self.owner.short(), self.at.names());
                let expected = go_type(shape);
                format!(
                    "json: cannot unmarshal {got} into Go struct field {owner}.{names} of type {expected}"
                )
            }
        })
    }
}

fn not_a_time(text: &str, layout: &str) -> String {
    format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
}

fn json_type(shape: &Shape) -> &'static str {
    match shape {
        Shape::String(_) => "string",
        Shape::Integer(_) => "integer",
        Shape::Number => "number",
        Shape::Boolean => "boolean",
        Shape::List(_) => "array",
        Shape::Any => "any",
        Shape::Object | Shape::Map(_) | Shape::Ref(_) => "object",
    }
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::String("byte") => "[]uint8".to_owned(),
        Shape::String(_) => "string".to_owned(),
        Shape::Integer("") => "int".to_owned(),
        Shape::Integer(format) => (*format).to_owned(),
        Shape::Number => "float64".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::List(item) => format!("[]{}", go_type(item)),
        Shape::Map(value) => format!("map[string]{}", go_type(value)),
        Shape::Object | Shape::Any => "interface {}".to_owned(),
        Shape::Ref(_) => {
            let name = shape.target().map_or("", |t| t.name);
            let mut parts: Vec<_> = name.rsplitn(3, '.').take(2).collect();
            parts.reverse();
            parts.join(".")
        }
    }
}

fn walk_type(t: &Type, value: &Value, at: &Trail<'_>, visit: &mut Visit<'_>) -> Result<()> {
    let Some(map) = value.as_object() else { return Ok(()) };
    let status = at.is_below("status");
    for field in &t.fields {
        let at = Trail::Field(at, field.name);
        let missing = || Problem { owner: t, shape: &field.shape, value: None, at };
        match map.get(field.name) {
            Some(Value::Null) | None => {
                if !status && is_demanded(t, field) {
                    visit(missing())?;
                }
            }
            Some(value) => walk(t, &field.shape, value, &at, visit)?,
        }
    }
    Ok(())
}

/// Lists, maps and times may be missing even where OpenAPI says required: Go writes null for empty ones.
fn is_demanded(t: &Type, field: &Field) -> bool {
    let plain = match field.shape.resolve() {
        Shape::List(_) | Shape::Map(_) | Shape::Any | Shape::Object => false,
        Shape::String(format) => format.is_empty(),
        _ => true,
    };
    field.required && plain && field.name != "status" && !NOT_REQUIRED.contains(&(t.short(), field.name))
}

fn walk(owner: &Type, shape: &Shape, value: &Value, at: &Trail<'_>, visit: &mut Visit<'_>) -> Result<()> {
    let shape = shape.resolve();
    match (shape, value) {
        (_, Value::Null) => Ok(()),
        (Shape::List(item), Value::Array(items)) => {
            let mut items = items.iter().enumerate();
            items.try_for_each(|(i, v)| walk(owner, item, v, &Trail::Index(at, i), visit))
        }
        (Shape::Map(inner), Value::Object(map)) => {
            map.iter().try_for_each(|(k, v)| walk(owner, inner, v, &Trail::Key(at, k), visit))
        }
        (Shape::Ref(_), Value::Object(_)) => match shape.target() {
            Some(t) => walk_type(t, value, at, visit),
            None => Ok(()),
        },
        _ if fits(shape, value) => Ok(()),
        _ => visit(Problem { owner, shape, value: Some(value), at: *at }),
    }
}

/// Whether a scalar is of the right type and form.
fn fits(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        // Free-form objects are raw extensions, which take any JSON.
        (Shape::Any | Shape::Object, _)
        | (Shape::Boolean, Value::Bool(_))
        | (Shape::Number, Value::Number(_)) => true,
        (Shape::Integer("int32"), Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        (Shape::Integer(_), Value::Number(n)) => n.is_i64(),
        (Shape::String("int-or-string"), Value::Number(n)) => {
            n.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
        }
        (Shape::String("quantity"), value) => quantity::canonical(value).is_ok(),
        (Shape::String("byte"), Value::String(s)) => {
            base64::engine::general_purpose::STANDARD.decode(s.replace(['\n', '\r'], "")).is_ok()
        }
        (Shape::String("date-time" | "micro-time"), Value::String(s)) => time::parse(s).is_some(),
        (Shape::String(_), Value::String(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::types::table;

    fn kind(kind: &str) -> &'static Type {
        let group = if kind == "Deployment" { "apps" } else { "" };
        table().kind(group, "v1", kind).unwrap()
    }

    #[test]
    fn unknown_and_null_fields_go() {
        let mut pod = json!({"metadata": {"creationTimestamp": null, "labels": {"x": "y"}}, "spek": 1,
            "spec": {"containers": [{"name": "a", "imagePullPolice": "Always", "resources": {"limits": {"x/y": 1}}}]}});
        let mut removed = Vec::new();
        prune(kind("Pod"), &mut pod, &mut removed);
        assert_eq!(removed, ["spec.containers[0].imagePullPolice", "spek"]);
        let limits = json!({"limits": {"x/y": 1}});
        let expect = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "a", "resources": limits}]}});
        assert_eq!(pod, expect);
    }

    #[test]
    fn defaults_and_canonical_forms() {
        let mut pod = json!({"metadata": {"creationTimestamp": "2026-01-01T01:00:00+01:00"}, "spec": {"containers": [
            {"ports": [{"containerPort": 1}], "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}]}});
        default(kind("Pod"), &mut pod);
        let container = json!({"ports": [{"containerPort": 1, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}});
        let expect = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": [container]}});
        assert_eq!(pod, expect);
    }

    #[test]
    fn decoding_errors_are_those_of_go() {
        fn check(name: &str, value: Value, expect: &str) {
            let status = decode(kind(name), &value).unwrap_err();
            assert_eq!(status.code(), 400);
            assert!(status.message().ends_with(expect), "{status}");
        }
        check(
            "Deployment",
            json!({"spec": {"replicas": "3"}}),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go \
             struct field DeploymentSpec.spec.replicas of type int32",
        );
        check(
            "Deployment",
            json!({"spec": {"template": {"spec": {"containers": [{"env": [{"value": 1}]}]}}}}),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        );
        check(
            "Pod",
            json!({"metadata": {"labels": ["x"]}}),
            "ObjectMeta.metadata.labels of type map[string]string",
        );
        check("Pod", json!({"spec": "x"}), "Pod.spec of type v1.PodSpec");
        check(
            "ConfigMap",
            json!({"data": {"a": true}}),
            "cannot unmarshal bool into Go struct field ConfigMap.data.a of type string",
        );
        check("Secret", json!({"data": {"a": "%"}}), "illegal base64 data at input byte 0");
        let limits = json!({"resources": {"limits": {"cpu": "lots"}}});
        check("Pod", json!({"spec": {"containers": [limits]}}), "[eEinumkKMGTP]*[-+]?[0-9]*)$'");
        decode(kind("Pod"), &json!({"spec": {"containers": null}, "status": {}})).unwrap();
    }

    #[test]
    fn any_json_is_right_where_any_is_meant() {
        let crd = table().kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        let property = json!({"type": "string", "default": "x", "example": 1, "enum": ["a", 1, null],
            "items": [{"type": "string"}], "additionalProperties": true, "maximum": 3});
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"a": property}}});
        let mut value = json!({"spec": {"versions": [{"name": "v1", "schema": schema}]}});
        decode(crd, &value).unwrap();
        let (before, mut removed) = (value.clone(), Vec::new());
        prune(crd, &mut value, &mut removed);
        assert_eq!((value, removed), (before, Vec::new()));
        let revision = table().kind("apps", "v1", "ControllerRevision").unwrap();
        decode(revision, &json!({"data": "anything"})).unwrap();
        let slice = table().kind("discovery.k8s.io", "v1", "EndpointSlice").unwrap();
        decode(slice, &json!({"endpoints": null, "ports": null})).unwrap();
    }

    #[test]
    fn required_fields() {
        fn check(name: &str, value: Value, expect: &[&str]) {
            let mut errors = Vec::new();
            validate(kind(name), &value, &Path::root(), &mut errors);
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expect);
        }
        check("Pod", json!({"spec": {"containers": [{}]}}), &["spec.containers[0].name: Required value"]);
        check("Pod", json!({"status": {"containerStatuses": [{}]}}), &[]);
        let text = "spec.replicas: Invalid value: \"string\": must be of type integer: \"string\"";
        check("Deployment", json!({"spec": {"selector": {}, "template": {}, "replicas": "1"}}), &[text]);
        check("Deployment", json!({}), &[]);
    }
}
