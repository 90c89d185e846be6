//! Which fields of which kind a field selector may name, and what their values are.

use crate::{Object, Resource, Result, Status, selector::FieldSelector};

/// One field: its name in selectors, where it is, and what an absent value reads as.
struct Field(&'static str, &'static str, &'static str);

const fn same(path: &'static str) -> Field {
    Field(path, path, "")
}

const PODS: &[Field] = &[
    same("spec.nodeName"),
    same("spec.restartPolicy"),
    same("spec.schedulerName"),
    same("spec.serviceAccountName"),
    Field("spec.hostNetwork", "spec.hostNetwork", "false"),
    same("status.phase"),
    same("status.podIP"),
    same("status.nominatedNodeName"),
];
const EVENTS: &[Field] = &[
    same("involvedObject.kind"),
    same("involvedObject.namespace"),
    same("involvedObject.name"),
    same("involvedObject.uid"),
    same("involvedObject.apiVersion"),
    same("involvedObject.resourceVersion"),
    same("involvedObject.fieldPath"),
    same("reason"),
    same("reportingComponent"),
    Field("source", "source.component", ""),
    same("type"),
];
const EVENTS_V1: &[Field] = &[
    Field("regarding.kind", "regarding.kind", ""),
    Field("regarding.namespace", "regarding.namespace", ""),
    Field("regarding.name", "regarding.name", ""),
    Field("regarding.uid", "regarding.uid", ""),
    Field("regarding.apiVersion", "regarding.apiVersion", ""),
    Field("regarding.resourceVersion", "regarding.resourceVersion", ""),
    Field("regarding.fieldPath", "regarding.fieldPath", ""),
    same("reason"),
    Field("reportingController", "reportingController", ""),
    same("type"),
];

/// Group, plural, fields beyond `metadata.name` and `metadata.namespace`.
const TABLE: &[(&str, &str, &[Field])] = &[
    ("", "pods", PODS),
    ("", "events", EVENTS),
    ("events.k8s.io", "events", EVENTS_V1),
    ("", "nodes", &[Field("spec.unschedulable", "spec.unschedulable", "false")]),
    ("", "namespaces", &[same("status.phase")]),
    ("", "secrets", &[same("type")]),
    ("", "services", &[same("spec.clusterIP"), same("spec.type")]),
    ("", "replicationcontrollers", &[Field("status.replicas", "status.replicas", "0")]),
    ("apps", "replicasets", &[Field("status.replicas", "status.replicas", "0")]),
    ("batch", "jobs", &[Field("status.successful", "status.succeeded", "0")]),
    ("certificates.k8s.io", "certificatesigningrequests", &[same("spec.signerName")]),
    ("certificates.k8s.io", "clustertrustbundles", &[same("spec.signerName")]),
    (
        "certificates.k8s.io",
        "podcertificaterequests",
        &[same("spec.signerName"), same("spec.podName"), same("spec.nodeName")],
    ),
    ("resource.k8s.io", "resourceslices", &[same("spec.nodeName"), same("spec.driver")]),
    ("networking.k8s.io", "ipaddresses", &[same("spec.parentRef")]),
];

fn fields_of(resource: &Resource) -> &'static [Field] {
    if resource.custom {
        return &[];
    }
    let row = TABLE.iter().find(|(group, plural, _)| *group == resource.group && *plural == resource.plural);
    row.map_or(&[], |(_, _, fields)| fields)
}

/// The fields by which this object can be selected, with their values.
pub fn selectable(resource: &Resource, object: &Object) -> Vec<(String, String)> {
    let mut values = vec![("metadata.name".to_owned(), object.name().to_owned())];
    if resource.namespaced {
        values.push(("metadata.namespace".to_owned(), object.namespace().to_owned()));
    }
    for Field(name, path, absent) in fields_of(resource) {
        values.push(((*name).to_owned(), text(object, path).unwrap_or_else(|| (*absent).to_owned())));
    }
    for path in &resource.selectable {
        values.push((path.clone(), text(object, path).unwrap_or_default()));
    }
    values
}

fn text(object: &Object, path: &str) -> Option<String> {
    match object.get(path)? {
        serde_json::Value::Null => None,
        serde_json::Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    }
}

/// Whether an object is selected; only the fields that the selector names are looked at.
pub fn matches(resource: &Resource, object: &Object, selector: &FieldSelector) -> bool {
    selector.terms().iter().all(|term| {
        let value = match term.field.as_str() {
            "metadata.name" => Some(object.name().to_owned()),
            "metadata.namespace" => Some(object.namespace().to_owned()),
            name => match fields_of(resource).iter().find(|Field(n, ..)| *n == name) {
                Some(Field(_, path, absent)) => text(object, path).or_else(|| Some((*absent).to_owned())),
                None => text(object, name),
            },
        };
        (value.unwrap_or_default() == term.value) == term.equal
    })
}

/// Checks that every field a selector names can be selected by.
///
/// # Errors
/// 400 with the text that kube-apiserver gives.
pub fn check(resource: &Resource, selector: &FieldSelector) -> Result<()> {
    for term in selector.terms() {
        let field = term.field.as_str();
        let metadata = field == "metadata.name" || field == "metadata.namespace" && resource.namespaced;
        let known = fields_of(resource).iter().any(|Field(name, ..)| *name == field);
        if !metadata && !known && !resource.selectable.iter().any(|s| s == field) {
            let text = if resource.custom || fields_of(resource).is_empty() {
                let own = r#"only "metadata.name", "metadata.namespace""#;
                format!("{field:?} is not a known field selector: {own}")
            } else {
                format!("field label not supported: {field}")
            };
            return Err(Status::bad_request(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Catalog;

    #[test]
    fn selecting_by_field() {
        fn check_one(group: &str, plural: &str, object: serde_json::Value, selector: &str, expect: bool) {
            let resource = Catalog::builtin().preferred(group, plural).unwrap().clone();
            let object = Object::try_from(object).unwrap();
            let parsed = FieldSelector::parse(selector).unwrap();
            check(&resource, &parsed).unwrap();
            assert_eq!(matches(&resource, &object, &parsed), expect, "{selector}");
            assert_eq!(parsed.matches(&selectable(&resource, &object)), expect, "{selector}");
        }
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "w1"},
            "status": {"phase": "Running"}});
        check_one("", "pods", pod.clone(), "spec.nodeName=w1,status.phase!=Failed", true);
        check_one("", "pods", pod.clone(), "spec.hostNetwork=false", true);
        check_one("", "pods", pod.clone(), "metadata.namespace=x", false);
        check_one("", "pods", pod, "status.podIP=", true);
        check_one("", "nodes", json!({"spec": {"unschedulable": true}}), "spec.unschedulable=true", true);
        check_one("batch", "jobs", json!({}), "status.successful=0", true);
        check_one("", "events", json!({"source": {"component": "kubelet"}}), "source=kubelet", true);
        let pods = Catalog::builtin().preferred("", "pods").unwrap().clone();
        let error = check(&pods, &FieldSelector::parse("spec.x=1").unwrap()).unwrap_err();
        assert!(error.message().ends_with("field label not supported: spec.x"), "{error}");
        let maps = Catalog::builtin().preferred("", "configmaps").unwrap().clone();
        let error = check(&maps, &FieldSelector::parse("data=1").unwrap()).unwrap_err();
        assert!(error.message().contains("\"data\" is not a known field selector: only"), "{error}");
    }
}
