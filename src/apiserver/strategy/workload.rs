//! The kinds that make pods from a template: defaults by table, a shared check of selector and template.

use super::{
    Strategy,
    defaults::{Row, fill},
    immutable, podcheck, podspec,
};
use api::{
    Object,
    field::{FieldError, Path},
};
use serde_json::{Value, json};

const TEMPLATE: &str = "spec.template.spec";

/// What all workloads have in common: changes of the spec are counted, the status is a subresource's.
macro_rules! spec_and_status {
    () => {
        fn counts_generation(&self) -> bool {
            true
        }

        fn has_status(&self) -> bool {
            true
        }
    };
}

macro_rules! workload {
    ($(#[$doc:meta])* $kind:ident, $defaults:expr, $validate:expr) => {
        $(#[$doc])*
        pub(super) struct $kind;

        impl Strategy for $kind {
            spec_and_status!();

            fn default(&self, object: &mut Object) {
                podspec::default(object, TEMPLATE);
                fill(object, "", $defaults);
                drop_creation_times(object);
            }

            fn validate(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
                let validate: fn(&Object, Option<&Object>) -> Vec<FieldError> = $validate;
                validate(new, old)
            }
        }
    };
}

const DEPLOYMENT: &[Row] = &[
    ("spec.replicas", "1"),
    ("spec.revisionHistoryLimit", "10"),
    ("spec.progressDeadlineSeconds", "600"),
    ("spec.strategy!.type", "\"RollingUpdate\""),
];

/// Deployments roll from one template to the next.
pub(super) struct Deployment;

impl Strategy for Deployment {
    spec_and_status!();

    fn default(&self, object: &mut Object) {
        podspec::default(object, TEMPLATE);
        fill(object, "", DEPLOYMENT);
        if object.str_at("spec.strategy.type") == "RollingUpdate" {
            let parts =
                &[("rollingUpdate!.maxUnavailable", "\"25%\""), ("rollingUpdate!.maxSurge", "\"25%\"")];
            fill(object, "spec.strategy", parts);
        }
        drop_creation_times(object);
    }

    fn validate(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = replicated(new, old);
        let strategy = Path::new("spec").child("strategy");
        if let Some(map) = new.map_at("spec.strategy") {
            podcheck::enumeration(map, "type", &["Recreate", "RollingUpdate"], &strategy, &mut errors);
        }
        let rolling = new.get("spec.strategy.rollingUpdate");
        if new.str_at("spec.strategy.type") == "Recreate" && rolling.is_some_and(|r| !r.is_null()) {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&strategy.child("rollingUpdate"), why));
        }
        let nothing = |field: &str| is_zero(new.get(&format!("spec.strategy.rollingUpdate.{field}")));
        if rolling.is_some() && nothing("maxUnavailable") && nothing("maxSurge") {
            let at = strategy.child("rollingUpdate").child("maxUnavailable");
            errors.push(FieldError::invalid(&at, 0, "may not be 0 when `maxSurge` is 0"));
        }
        errors
    }
}

workload!(
    /// ReplicaSets keep a number of pods alive.
    ReplicaSet,
    &[("spec.replicas", "1")],
    replicated
);

workload!(
    /// DaemonSets run a pod on every node.
    DaemonSet,
    &[
        ("spec.revisionHistoryLimit", "10"),
        ("spec.updateStrategy!.type", "\"RollingUpdate\""),
        ("spec.updateStrategy.rollingUpdate!.maxUnavailable", "1"),
        ("spec.updateStrategy.rollingUpdate!.maxSurge", "0"),
    ],
    replicated
);

workload!(
    /// StatefulSets give each pod an identity.
    StatefulSet,
    &[
        ("spec.replicas", "1"),
        ("spec.revisionHistoryLimit", "10"),
        ("spec.podManagementPolicy", "\"OrderedReady\""),
        ("spec.updateStrategy!.type", "\"RollingUpdate\""),
        ("spec.updateStrategy.rollingUpdate!.partition", "0"),
        ("spec.persistentVolumeClaimRetentionPolicy!.whenDeleted", "\"Retain\""),
        ("spec.persistentVolumeClaimRetentionPolicy!.whenScaled", "\"Retain\""),
        ("spec.volumeClaimTemplates[].spec.volumeMode", "\"Filesystem\""),
        ("spec.volumeClaimTemplates[].status!.phase", "\"Pending\""),
    ],
    replicated
);

/// ReplicationControllers are the elder of ReplicaSets: their selector is a plain map.
pub(super) struct ReplicationController;

impl Strategy for ReplicationController {
    spec_and_status!();

    fn default(&self, object: &mut Object) {
        podspec::default(object, TEMPLATE);
        fill(object, "", &[("spec.replicas", "1")]);
        if object.map_at("spec.selector").is_none_or(serde_json::Map::is_empty)
            && let Some(labels) = object.map_at("spec.template.metadata.labels").cloned()
        {
            object.set("spec.selector", labels);
        }
        drop_creation_times(object);
    }
}

/// Jobs run pods to completion.
pub(super) struct Job;

impl Strategy for Job {
    spec_and_status!();

    fn default(&self, object: &mut Object) {
        podspec::default(object, TEMPLATE);
        let given = |o: &Object, field: &str| o.get(field).is_some_and(|v| !v.is_null());
        if !given(object, "spec.completions") && !given(object, "spec.parallelism") {
            fill(object, "", &[("spec.completions", "1")]);
        }
        fill(
            object,
            "",
            &[
                ("spec.parallelism", "1"),
                ("spec.backoffLimit", "6"),
                ("spec.completionMode", "\"NonIndexed\""),
                ("spec.suspend", "false"),
                ("spec.manualSelector", "false"),
                ("spec.podReplacementPolicy", "\"TerminatingOrFailed\""),
            ],
        );
        drop_creation_times(object);
    }

    fn prepare_create(&self, object: &mut Object) {
        if object.bool_at("spec.manualSelector") {
            return;
        }
        // A job's pods are told from others by the job's uid, which nobody else has.
        let (uid, name) = (object.uid().to_owned(), object.name().to_owned());
        let mut labels = object.map_at("spec.template.metadata.labels").cloned().unwrap_or_default();
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            labels.insert(key.into(), value.as_str().into());
        }
        object.set("spec.template.metadata.labels", labels);
        object.set("spec.selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    }

    fn validate(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = podcheck::validate_template(new);
        let policy = new.str_at("spec.template.spec.restartPolicy");
        if !matches!(policy, "OnFailure" | "Never") {
            let at = Path::new("spec").child("template").child("spec").child("restartPolicy");
            let allowed = ["OnFailure", "Never"];
            errors.push(FieldError::not_supported(&at, policy, &allowed));
        }
        errors.extend(immutable(new, old, "spec.selector"));
        errors.extend(immutable(new, old, "spec.completionMode"));
        errors
    }
}

/// CronJobs make jobs by the clock.
pub(super) struct CronJob;

impl Strategy for CronJob {
    spec_and_status!();

    fn default(&self, object: &mut Object) {
        podspec::default(object, "spec.jobTemplate.spec.template.spec");
        fill(
            object,
            "",
            &[
                ("spec.concurrencyPolicy", "\"Allow\""),
                ("spec.suspend", "false"),
                ("spec.successfulJobsHistoryLimit", "3"),
                ("spec.failedJobsHistoryLimit", "1"),
            ],
        );
    }
}

/// The checks of everything with replicas, a selector and a template.
fn replicated(new: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let mut errors = podcheck::validate_template(new);
    let spec = Path::new("spec");
    if let Some(map) = new.map_at("spec") {
        for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
            podcheck::non_negative(map, field, &spec, &mut errors);
        }
    }
    let policy = new.str_at("spec.template.spec.restartPolicy");
    if policy != "Always" && !policy.is_empty() {
        let at = spec.child("template").child("spec").child("restartPolicy");
        errors.push(FieldError::not_supported(&at, policy, &["Always"]));
    }
    errors.extend(immutable(new, old, "spec.selector"));
    errors
}

fn is_zero(value: Option<&Value>) -> bool {
    matches!(value, Some(Value::Number(n)) if n.as_i64() == Some(0))
        || matches!(value, Some(Value::String(s)) if s.trim_end_matches('%').parse() == Ok(0))
}

/// Clients send `creationTimestamp: null` in templates; it means nothing and would make equal templates differ.
fn drop_creation_times(object: &mut Object) {
    super::defaults::visit(object, "spec.template.metadata", &mut |metadata| {
        if metadata.get("creationTimestamp").is_some_and(Value::is_null) {
            metadata.remove("creationTimestamp");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(selector: Value, labels: Value) -> Object {
        let mut object = Object::try_from(json!({"spec": {"selector": selector, "template": {
            "metadata": {"creationTimestamp": null, "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}}))
        .unwrap();
        Deployment.default(&mut object);
        object
    }

    fn texts(object: &Object, old: Option<&Object>) -> Vec<String> {
        Deployment.validate(object, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_deployment_is_filled_in_once() {
        let once = deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        assert_eq!(
            once.get("spec.strategy"),
            Some(&json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}))
        );
        assert_eq!(once.get("spec.template.metadata"), Some(&json!({"labels": {"a": "b"}})));
        let mut twice = once.clone();
        Deployment.default(&mut twice);
        assert_eq!(once, twice);
        assert!(texts(&once, None).is_empty());
    }

    #[test]
    fn the_selector_fits_and_stays() {
        let good = deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "b", "c": "d"}));
        let unfit = deployment(json!({"matchLabels": {"a": "x"}}), json!({"a": "b"}));
        assert_eq!(
            texts(&unfit, None),
            [
                r#"spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`"#
            ]
        );
        let moved = deployment(json!({"matchLabels": {"c": "d"}}), json!({"a": "b", "c": "d"}));
        assert_eq!(
            texts(&moved, Some(&good)),
            [r#"spec.selector: Invalid value: {"matchLabels":{"c":"d"}}: field is immutable"#]
        );
    }
}
