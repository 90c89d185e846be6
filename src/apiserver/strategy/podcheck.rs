//! What is wrong with a pod, wherever it stands, in a Pod or in a workload's template: what a schema cannot say, with
//! the texts of Kubernetes' own validation.

use super::podspec::PROBES;
use api::{
    Object,
    field::{FieldError, Path},
    name,
    quantity::Quantity,
    selector::LabelSelector,
};
use serde_json::{Map, Value};
use std::{collections::HashSet, str::FromStr};

type Json = Map<String, Value>;

/// Everything wrong with a pod spec that a schema cannot say.
pub(super) fn validate(spec: &Json, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = validate_volumes(spec, &path.child("volumes"), &mut errors);
    let mut names = HashSet::new();
    for list in ["initContainers", "containers"] {
        let at = path.child(list);
        let containers = items(spec, list);
        if list == "containers" && containers.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        for (i, container) in containers.iter().enumerate() {
            let at = at.index(i);
            let name = text(container, "name");
            if !name.is_empty() && !names.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
            validate_container(container, &volumes, &at, &mut errors);
        }
    }
    enumeration(spec, "restartPolicy", &["Always", "Never", "OnFailure"], path, &mut errors);
    enumeration(
        spec,
        "dnsPolicy",
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        path,
        &mut errors,
    );
    non_negative(spec, "terminationGracePeriodSeconds", path, &mut errors);
    if spec.get("activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|n| n < 1) {
        let text = "must be between 1 and 2147483647, inclusive";
        let value = spec["activeDeadlineSeconds"].clone();
        errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), value, text));
    }
    names_like(spec, "serviceAccountName", name::dns1123_subdomain, path, &mut errors);
    names_like(spec, "nodeName", name::dns1123_subdomain, path, &mut errors);
    names_like(spec, "hostname", name::dns1123_label, path, &mut errors);
    names_like(spec, "subdomain", name::dns1123_label, path, &mut errors);
    let selector = spec.get("nodeSelector").and_then(Value::as_object);
    errors.extend(super::meta::labels(selector, &path.child("nodeSelector")));
    validate_tolerations(spec, &path.child("tolerations"), &mut errors);
    errors
}

fn validate_volumes(spec: &Json, path: &Path, errors: &mut Vec<FieldError>) -> HashSet<String> {
    let mut names = HashSet::new();
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        let (at, name) = (path.index(i), text(volume, "name"));
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            let texts = name::dns1123_label(name).into_iter();
            errors.extend(texts.map(|t| FieldError::invalid(&at.child("name"), name, t)));
            if !names.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        let sources: Vec<&String> = volume.keys().filter(|key| *key != "name").collect();
        if sources.len() > 1 {
            errors.push(FieldError::forbidden(
                &at.child(sources[1]),
                "may not specify more than 1 volume type",
            ));
        }
        for (kind, field) in [
            ("configMap", "name"),
            ("secret", "secretName"),
            ("hostPath", "path"),
            ("persistentVolumeClaim", "claimName"),
        ] {
            if let Some(source) = volume.get(kind).and_then(Value::as_object)
                && text(source, field).is_empty()
            {
                errors.push(FieldError::required(&at.child(kind).child(field), ""));
            }
        }
    }
    names
}

fn validate_container(
    container: &Json,
    volumes: &HashSet<String>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    names_like(container, "name", name::dns1123_label, path, errors);
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        let text = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, text));
    }
    enumeration(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    enumeration(container, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"], path, errors);
    validate_ports(container, &path.child("ports"), errors);
    validate_env(container, &path.child("env"), errors);
    validate_mounts(container, volumes, &path.child("volumeMounts"), errors);
    for probe in PROBES {
        if let Some(probe_spec) = container.get(probe).and_then(Value::as_object) {
            validate_probe(probe, probe_spec, &path.child(probe), errors);
        }
    }
    if let Some(lifecycle) = container.get("lifecycle").and_then(Value::as_object) {
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get(hook).and_then(Value::as_object) {
                validate_handler(handler, &path.child("lifecycle").child(hook), errors);
            }
        }
    }
    if let Some(resources) = container.get("resources").and_then(Value::as_object) {
        validate_resources(resources, &path.child("resources"), errors);
    }
}

fn validate_ports(container: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    let mut names = HashSet::new();
    for (i, port) in items(container, "ports").iter().enumerate() {
        let at = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            names_like(port, "name", name::port_name, &at, errors);
            if !names.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        match port.get("containerPort").and_then(Value::as_i64) {
            None | Some(0) => errors.push(FieldError::required(&at.child("containerPort"), "")),
            Some(number) => port_number(number, &at.child("containerPort"), errors),
        }
        if let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| *n != 0) {
            port_number(number, &at.child("hostPort"), errors);
        }
        enumeration(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
    }
}

fn validate_env(container: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    for (i, variable) in items(container, "env").iter().enumerate() {
        let at = path.index(i);
        match text(variable, "name") {
            "" => errors.push(FieldError::required(&at.child("name"), "")),
            _ => names_like(variable, "name", name::env_var_name, &at, errors),
        }
        if let Some(from) = variable.get("valueFrom").and_then(Value::as_object) {
            let at = at.child("valueFrom");
            if !text(variable, "value").is_empty() {
                let why = "may not be specified when `value` is not empty";
                errors.push(FieldError::invalid(&at, "", why));
            }
            match from.len() {
                0 => errors.push(FieldError::invalid(&at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")),
                1 => {}
                _ => errors.push(FieldError::invalid(&at, "", "may not have more than one field specified at a time")),
            }
        }
    }
}

fn validate_mounts(container: &Json, volumes: &HashSet<String>, path: &Path, errors: &mut Vec<FieldError>) {
    let mut places = HashSet::new();
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        let (at, name, place) = (path.index(i), text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(&at.child("name"), name));
        }
        if place.is_empty() {
            errors.push(FieldError::required(&at.child("mountPath"), ""));
        } else if !places.insert(place.to_owned()) {
            errors.push(FieldError::invalid(&at.child("mountPath"), place, "must be unique"));
        }
        let sub = text(mount, "subPath");
        if sub.starts_with('/') {
            errors.push(FieldError::invalid(&at.child("subPath"), sub, "must be a relative path"));
        } else if sub.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(&at.child("subPath"), sub, "must not contain '..'"));
        }
    }
}

fn validate_probe(kind: &str, probe: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    validate_handler(probe, path, errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        non_negative(probe, field, path, errors);
    }
    let successes = probe.get("successThreshold").and_then(Value::as_i64).unwrap_or(1);
    if kind != "readinessProbe" && successes != 1 {
        errors.push(FieldError::invalid(&path.child("successThreshold"), successes, "must be 1"));
    }
}

fn validate_handler(handler: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = HANDLERS.into_iter().filter(|h| handler.contains_key(*h)).collect();
    match given[..] {
        [] => errors.push(FieldError::required(path, "must specify a handler type")),
        [_] => {}
        [_, second, ..] => {
            let why = "may not specify more than 1 handler type";
            errors.push(FieldError::forbidden(&path.child(second), why));
        }
    }
    if let Some(exec) = handler.get("exec").and_then(Value::as_object)
        && exec.get("command").and_then(Value::as_array).is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::required(&path.child("exec").child("command"), ""));
    }
    for kind in ["httpGet", "tcpSocket"] {
        if let Some(target) = handler.get(kind).and_then(Value::as_object) {
            validate_port_or_name(target.get("port"), &path.child(kind).child("port"), errors);
        }
    }
}

/// A port as a number or as the name of one.
pub(super) fn validate_port_or_name(port: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    match port {
        Some(Value::String(port)) => {
            let texts = name::port_name(port).into_iter();
            errors.extend(texts.map(|text| FieldError::invalid(path, port.as_str(), text)));
        }
        Some(Value::Number(number)) => port_number(number.as_i64().unwrap_or_default(), path, errors),
        _ => port_number(0, path, errors),
    }
}

fn validate_resources(resources: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    let quantities = |field: &str| resources.get(field).and_then(Value::as_object);
    for field in ["limits", "requests"] {
        for (name, value) in quantities(field).into_iter().flatten() {
            let at = path.child(field).key(name);
            let known = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-")
                || name.contains('/');
            if !known {
                errors.push(FieldError::invalid(
                    &at,
                    name.as_str(),
                    "must be a standard resource for containers",
                ));
            }
            match quantity(value) {
                None => errors.push(FieldError::invalid(&at, value.clone(), QUANTITY_TEXT)),
                Some(q) if q.sign() < 0 => {
                    errors.push(FieldError::invalid(
                        &at,
                        value.clone(),
                        "must be greater than or equal to 0",
                    ));
                }
                Some(_) => {}
            }
        }
    }
    for (name, request) in quantities("requests").into_iter().flatten() {
        let limit = quantities("limits").and_then(|limits| limits.get(name)).and_then(quantity);
        if let (Some(limit), Some(asked)) = (limit, quantity(request))
            && asked.sub(&limit).sign() > 0
        {
            let text = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(&path.child("requests"), request.clone(), text));
        }
    }
}

const QUANTITY_TEXT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::from_str(&api::quantity::canonical(value).ok()?).ok()
}

fn validate_tolerations(spec: &Json, path: &Path, errors: &mut Vec<FieldError>) {
    for (i, toleration) in items(spec, "tolerations").iter().enumerate() {
        let at = path.index(i);
        let (key, operator, effect) =
            (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
        if key.is_empty() && operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&at.child("operator"), operator, why));
        }
        if operator == "Exists" && !text(toleration, "value").is_empty() {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(&at.child("operator"), (*toleration).clone(), why));
        }
        if toleration.contains_key("tolerationSeconds") && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&at.child("effect"), effect, why));
        }
    }
}

/// A workload's selector and template: the selector selects something, and what the template makes.
pub(super) fn validate_template(new: &Object) -> Vec<FieldError> {
    let spec = Path::new("spec");
    let mut errors = Vec::new();
    let labels = new.map_at("spec.template.metadata.labels");
    match new.get("spec.selector") {
        None | Some(Value::Null) => errors.push(FieldError::required(&spec.child("selector"), "")),
        Some(selector) => match LabelSelector::from_value(Some(selector)) {
            Err(status) => {
                errors.push(FieldError::invalid(&spec.child("selector"), selector.clone(), status.message()));
            }
            Ok(parsed) if parsed.is_everything() => {
                let why = "empty selector is invalid for deployment";
                errors.push(FieldError::invalid(&spec.child("selector"), selector.clone(), why));
            }
            Ok(parsed) if !parsed.matches(labels) => {
                let at = spec.child("template").child("metadata").child("labels");
                let value = labels.cloned().unwrap_or_default();
                errors.push(FieldError::invalid(&at, value, "`selector` does not match template `labels`"));
            }
            Ok(_) => {}
        },
    }
    let template = spec.child("template");
    errors.extend(super::meta::labels(labels, &template.child("metadata").child("labels")));
    if let Some(pod) = new.map_at("spec.template.spec") {
        errors.extend(validate(pod, &template.child("spec")));
    }
    errors
}

pub(super) fn items<'a>(map: &'a Json, field: &str) -> Vec<&'a Json> {
    map.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object).collect()
}

pub(super) fn text<'a>(map: &'a Json, field: &str) -> &'a str {
    map.get(field).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn port_number(number: i64, path: &Path, errors: &mut Vec<FieldError>) {
    if !(1..=65535).contains(&number) {
        errors.push(FieldError::invalid(path, number, "must be between 1 and 65535, inclusive"));
    }
}

pub(super) fn non_negative(map: &Json, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(number) = map.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(&path.child(field), number, "must be greater than or equal to 0"));
    }
}

pub(super) fn enumeration(
    map: &Json,
    field: &str,
    allowed: &[&str],
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let value = text(map, field);
    if map.contains_key(field) && !allowed.contains(&value) {
        errors.push(FieldError::not_supported(&path.child(field), value, allowed));
    }
}

fn names_like(
    map: &Json,
    field: &str,
    check: fn(&str) -> Vec<String>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let value = text(map, field);
    if !value.is_empty() {
        errors.extend(check(value).into_iter().map(|t| FieldError::invalid(&path.child(field), value, t)));
    }
}
