//! Pods: the defaults of their spec, their quality of service, what of them may change, and how they die.

use super::{Strategy, podcheck, podspec};
use api::{
    Object,
    field::{FieldError, Path},
};
use serde_json::Value;

pub(super) struct Pod;

impl Strategy for Pod {
    fn counts_generation(&self) -> bool {
        true
    }

    fn has_status(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        podspec::default(object, "spec");
        super::defaults::fill(object, "", &[("spec.enableServiceLinks", "true")]);
    }

    fn prepare_create(&self, object: &mut Object) {
        object.set("status.phase", "Pending");
        object.set("status.qosClass", qos_class(object));
    }

    fn validate(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let Some(spec) = new.map_at("spec") else {
            return vec![FieldError::required(&Path::new("spec"), "")];
        };
        let mut errors = podcheck::validate(spec, &Path::new("spec"));
        if let Some(old) = old
            && mutable_parts_aside(new) != mutable_parts_aside(old)
        {
            errors.push(FieldError::forbidden(&Path::new("spec"), UPDATE_TEXT));
        }
        errors
    }

    fn graceful_deletion(&self, object: &Object, requested: Option<i64>) -> Option<i64> {
        let grace = requested.or(object.i64_at("spec.terminationGracePeriodSeconds")).unwrap_or(30);
        let phase = object.str_at("status.phase");
        // Nothing runs (yet, or any more): nobody has to be asked.
        let never_ran = object.str_at("spec.nodeName").is_empty();
        let ended = matches!(phase, "Succeeded" | "Failed");
        Some(if never_ran || ended { 0 } else { grace.max(i64::from(grace < 0)) })
    }
}

const UPDATE_TEXT: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The spec without what may change after creation.
fn mutable_parts_aside(pod: &Object) -> Value {
    let mut spec = Object(pod.map_at("spec").cloned().unwrap_or_default());
    // Changed by binding, scheduling gates, debugging and resizing, each with a check of its own.
    for field in
        ["activeDeadlineSeconds", "tolerations", "nodeName", "schedulingGates", "ephemeralContainers"]
    {
        spec.remove(field);
    }
    for list in ["containers[]", "initContainers[]"] {
        super::defaults::visit(&mut spec, list, &mut |container| {
            container.remove("image");
            container.remove("resources");
        });
    }
    spec.into_value()
}

/// The quality of service that a pod's requests and limits ask for: Guaranteed, Burstable or BestEffort.
fn qos_class(pod: &Object) -> &'static str {
    let spec = pod.map_at("spec").cloned().unwrap_or_default();
    let lists = ["containers", "initContainers"];
    let containers: Vec<_> = lists.iter().flat_map(|list| podcheck::items(&spec, list)).collect();
    let amount = |container: &serde_json::Map<String, Value>, kind: &str, name: &str| {
        let value = container.get("resources")?.get(kind)?.get(name)?;
        let text = api::quantity::canonical(value).ok()?;
        (text != "0").then_some(text)
    };
    let any = |c: &&&serde_json::Map<String, Value>| {
        ["requests", "limits"]
            .iter()
            .any(|kind| ["cpu", "memory"].iter().any(|n| amount(c, kind, n).is_some()))
    };
    let full = |c: &&serde_json::Map<String, Value>| {
        ["cpu", "memory"].iter().all(|n| {
            let limit = amount(c, "limits", n);
            limit.is_some() && limit == amount(c, "requests", n)
        })
    };
    if containers.iter().find(any).is_none() {
        "BestEffort"
    } else if containers.iter().all(full) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Object {
        let mut pod = Object::try_from(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        Pod.default(&mut pod);
        pod
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let pod = pod(json!({
            "containers": [{"name": "c", "image": "demo.local/web:1", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}, {"name": "m", "configMap": {"name": "x"}}],
        }));
        let check = |path: &str, expect: Value| assert_eq!(pod.get(path), Some(&expect), "{path}");
        check("spec.restartPolicy", json!("Always"));
        check("spec.enableServiceLinks", json!(true));
        check(
            "spec.volumes",
            json!([
            {"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {"name": "x", "defaultMode": 420}}]),
        );
        check(
            "spec.containers",
            json!([{
            "name": "c", "image": "demo.local/web:1", "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]),
        );
        assert!(Pod.validate(&pod, None).is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |spec: Value, expect: &[&str]| {
            let errors: Vec<_> = Pod.validate(&pod(spec), None).iter().map(ToString::to_string).collect();
            assert_eq!(errors, expect);
        };
        check(json!({"containers": []}), &["spec.containers: Required value"]);
        check(
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
            &[r#"spec.containers[1].name: Duplicate value: "c""#],
        );
        check(
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}),
            &[r#"spec.containers[0].volumeMounts[0].name: Not found: "x""#],
        );
        check(
            json!({"restartPolicy": "Sometimes", "containers": [{"name": "c", "image": "i"}]}),
            &[
                r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure""#,
            ],
        );
    }

    #[test]
    fn only_some_parts_change() {
        let old = pod(json!({"containers": [{"name": "c", "image": "i:1"}]}));
        let image =
            pod(json!({"containers": [{"name": "c", "image": "i:2", "imagePullPolicy": "IfNotPresent"}]}));
        assert!(Pod.validate(&image, Some(&old)).is_empty());
        let renamed = pod(json!({"containers": [{"name": "d", "image": "i:1"}]}));
        assert_eq!(Pod.validate(&renamed, Some(&old)).len(), 1);
    }

    #[test]
    fn quality_of_service() {
        let check = |resources: Value, expect: &str| {
            let pod = pod(json!({"containers": [{"name": "c", "image": "i", "resources": resources}]}));
            assert_eq!(qos_class(&pod), expect);
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
    }
}
