//! Conversion between the versions of the few built-in kinds that are served in two.
//!
//! Keeps true: there and back again loses nothing. Versions that differ in name only are relabelled. What an
//! old version has no field for travels in the annotations that upstream uses (in the newer version's form).

use serde_json::{Map, Value, json};

use crate::{GroupVersionKind, Object, Result, Status};

/// Fields of an Event in core and in events.k8s.io.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Annotation, and the field of a v2 autoscaler that it carries.
const CARRIED: &[(&str, &str)] = &[
    (METRICS, "spec.metrics"),
    (BEHAVIOR, "spec.behavior"),
    (CURRENT_METRICS, "status.currentMetrics"),
    (CONDITIONS, "status.conditions"),
];

/// The object as another version of its kind.
///
/// # Errors
/// 500 when there is no such conversion.
pub fn convert(object: &Object, from: &GroupVersionKind, to: &GroupVersionKind) -> Result<Object> {
    let mut out = object.clone();
    let pair = |g: &GroupVersionKind| (g.group.clone(), g.version.clone());
    let ((from_group, from_version), (to_group, to_version)) = (pair(from), pair(to));
    match (
        from_group.as_str(),
        from_version.as_str(),
        to_group.as_str(),
        to_version.as_str(),
        to.kind.as_str(),
    ) {
        _ if from.kind != to.kind => return Err(no_conversion(from, to)),
        ("", "v1", "events.k8s.io", "v1", "Event") => rename(&mut out, |(core, event)| (*core, *event)),
        ("events.k8s.io", "v1", "", "v1", "Event") => rename(&mut out, |(core, event)| (*event, *core)),
        ("autoscaling", "v2", "autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler_to_v1(&mut out),
        ("autoscaling", "v1", "autoscaling", "v2", "HorizontalPodAutoscaler") => autoscaler_to_v2(&mut out),
        (a, _, b, _, _) if a == b => {}
        _ => return Err(no_conversion(from, to)),
    }
    out.0.insert("apiVersion".into(), to.api_version().into());
    out.0.insert("kind".into(), to.kind.as_str().into());
    Ok(out)
}

fn no_conversion(from: &GroupVersionKind, to: &GroupVersionKind) -> Status {
    Status::internal(format!("there is no conversion from {from} to {to}"))
}

fn rename(
    event: &mut Object,
    direction: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
) {
    for (from, to) in EVENT_FIELDS.iter().map(direction) {
        if let Some(value) = event.0.remove(from) {
            event.0.insert(to.to_owned(), value);
        }
    }
}

fn is_cpu(metric: &Value, place: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"][place]["averageUtilization"].is_i64()
}

/// Takes the first CPU metric out of a list and returns its utilization in percent.
fn take_cpu(list: &mut Vec<Value>, place: &str) -> Option<Value> {
    let at = list.iter().position(|m| is_cpu(m, place))?;
    Some(list.remove(at)["resource"][place]["averageUtilization"].take())
}

fn autoscaler_to_v1(hpa: &mut Object) {
    let cpu = [
        ("spec.metrics", "target", "spec.targetCPUUtilizationPercentage"),
        ("status.currentMetrics", "current", "status.currentCPUUtilizationPercentage"),
    ];
    for (metrics, place, percent) in cpu {
        let list = hpa.get_mut(metrics).and_then(Value::as_array_mut);
        if let Some(value) = list.and_then(|list| take_cpu(list, place)) {
            hpa.set(percent, value);
        }
    }
    for (annotation, field) in CARRIED {
        let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
        if let Some(value) = hpa.remove(field).filter(|v| !empty(v)) {
            hpa.set_annotation(annotation, &value.to_string());
        }
    }
}

fn autoscaler_to_v2(hpa: &mut Object) {
    for (annotation, field) in CARRIED {
        let annotations = hpa.metadata_mut().get_mut("annotations").and_then(Value::as_object_mut);
        let text = annotations.and_then(|a| a.remove(*annotation));
        let value = text.as_ref().and_then(Value::as_str).and_then(|t| serde_json::from_str::<Value>(t).ok());
        if let Some(value) = value {
            hpa.set(field, value);
        }
    }
    if hpa.annotations().is_some_and(Map::is_empty) {
        hpa.metadata_mut().remove("annotations");
    }
    let cpu = |place: &str, percent: Value| {
        let target = match place {
            "target" => json!({"type": "Utilization", "averageUtilization": percent}),
            _ => json!({"averageUtilization": percent}),
        };
        json!({"type": "Resource", "resource": {"name": "cpu", place: target}})
    };
    let fields = [
        ("spec.targetCPUUtilizationPercentage", "spec.metrics", "target"),
        ("status.currentCPUUtilizationPercentage", "status.currentMetrics", "current"),
    ];
    for (percent, metrics, place) in fields {
        if let Some(value) = hpa.remove(percent).filter(Value::is_i64) {
            let mut list = hpa.list_at(metrics).to_vec();
            list.insert(0, cpu(place, value));
            hpa.set(metrics, list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        fn check(from: (&str, &str), to: (&str, &str), object: Value, expect: Value) {
            let object = Object::try_from(object).unwrap();
            let gvk =
                |(api_version, kind): (&str, &str)| GroupVersionKind::from_api_version(api_version, kind);
            let there = convert(&object, &gvk(from), &gvk(to)).unwrap();
            assert_eq!(there.clone().into_value(), expect);
            assert_eq!(convert(&there, &gvk(to), &gvk(from)).unwrap(), object);
        }
        check(
            ("v1", "Event"),
            ("events.k8s.io/v1", "Event"),
            json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"kind": "Pod"}, "message": "m", "count": 2,
                "reason": "r", "source": {"component": "c"}, "reportingComponent": "c"}),
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"kind": "Pod"}, "note": "m",
                "deprecatedCount": 2, "reason": "r", "deprecatedSource": {"component": "c"}, "reportingController": "c"}),
        );
        let metric = |name: &str| {
            json!({"type": "Resource", "resource": {"name": name,
            "target": {"type": "Utilization", "averageUtilization": 80}}})
        };
        let kind = "HorizontalPodAutoscaler";
        check(
            ("autoscaling/v2", kind),
            ("autoscaling/v1", kind),
            json!({"apiVersion": "autoscaling/v2", "kind": kind, "metadata": {}, "spec": {"maxReplicas": 3,
                "metrics": [metric("cpu"), metric("memory")]}}),
            json!({"apiVersion": "autoscaling/v1", "kind": kind,
                "metadata": {"annotations": {METRICS: json!([metric("memory")]).to_string()}},
                "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}}),
        );
        check(
            ("networking.k8s.io/v1", "IPAddress"),
            ("networking.k8s.io/v1beta1", "IPAddress"),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress"}),
            json!({"apiVersion": "networking.k8s.io/v1beta1", "kind": "IPAddress"}),
        );
    }

    #[test]
    fn nothing_else() {
        let gvk = GroupVersionKind::from_api_version;
        let error = convert(&Object::default(), &gvk("v1", "Pod"), &gvk("apps/v1", "Pod")).unwrap_err();
        assert_eq!(error.code(), 500);
    }
}
