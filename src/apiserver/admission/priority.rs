//! Priority: a pod's `priorityClassName` becomes its `priority`; only one class is the default one.

use std::sync::Arc;

use api::Object;

use super::{Operation, Plugin, Review};

pub(crate) struct Priority;

const GROUP: &str = "scheduling.k8s.io";
/// The system's classes: known even before bootstrap has written them.
const SYSTEM: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

#[async_trait::async_trait]
impl Plugin for Priority {
    async fn admit(&self, review: &mut Review<'_>) -> api::Result<()> {
        if !review.is("", "pods") || review.operation != Operation::Create {
            return Ok(());
        }
        let classes = review.server.cached_list(&review.server.resource(GROUP, "priorityclasses"), None);
        let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
        resolve(pod, &classes).map_err(|reason| review.forbidden(reason))
    }

    async fn validate(&self, review: &Review<'_>) -> api::Result<()> {
        let applies = review.is(GROUP, "priorityclasses")
            && matches!(review.operation, Operation::Create | Operation::Update);
        let Some(class) = review.object.as_deref().filter(|class| applies && class.bool_at("globalDefault"))
        else {
            return Ok(());
        };
        let classes = review.server.cached_list(review.resource, None);
        match classes.iter().find(|other| other.bool_at("globalDefault") && other.name() != class.name()) {
            Some(other) => Err(review.forbidden(format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.name()
            ))),
            None => Ok(()),
        }
    }
}

/// Sets the pod's priority, class name and preemption policy.
fn resolve(pod: &mut Object, classes: &[Arc<Object>]) -> Result<(), String> {
    let name = pod.str_at("spec.priorityClassName").to_owned();
    let class = match name.as_str() {
        "" => default_class(classes),
        name => classes.iter().find(|class| class.name() == name),
    };
    let system = SYSTEM.iter().find(|(system, _)| *system == name).map(|(_, value)| *value);
    let value = match (class, system) {
        (Some(class), _) => class.i64_at("value").unwrap_or_default(),
        (None, Some(value)) => value,
        (None, None) if name.is_empty() => 0,
        (None, None) => return Err(format!("no PriorityClass with name {name} was found")),
    };
    let given = pod.i64_at("spec.priority");
    if let Some(given) = given.filter(|given| *given != value) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        ));
    }
    pod.set("spec.priority", value);
    if let Some(class) = class {
        pod.set("spec.priorityClassName", class.name());
    }
    let policy = class.map(|class| class.str_at("preemptionPolicy")).unwrap_or_default();
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    let given = pod.str_at("spec.preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    pod.set("spec.preemptionPolicy", policy);
    Ok(())
}

/// The default class; the lowest when (by a race) there are several.
fn default_class(classes: &[Arc<Object>]) -> Option<&Arc<Object>> {
    let defaults = classes.iter().filter(|class| class.bool_at("globalDefault"));
    defaults.min_by_key(|class| class.i64_at("value").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(value: Value) -> Object {
        Object(value.as_object().unwrap().clone())
    }

    #[test]
    fn priorities() {
        let class = |name: &str, value: i64, rest: Value| {
            let mut class = json!({"metadata": {"name": name}, "value": value});
            class.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            Arc::new(object(class))
        };
        let some = [class("high", 1000, json!({"preemptionPolicy": "Never"})), class("low", 10, json!({}))];
        let with_default = [class("normal", 5, json!({"globalDefault": true}))];
        let check = |classes: &[Arc<Object>], spec: Value, expect: Result<(i64, &str, &str), &str>| {
            let mut pod = object(json!({"spec": spec}));
            let found = resolve(&mut pod, classes).map(|()| {
                let policy = pod.str_at("spec.preemptionPolicy");
                (pod.i64_at("spec.priority").unwrap(), pod.str_at("spec.priorityClassName"), policy)
            });
            assert_eq!(
                found.as_ref().map(|v| *v).map_err(|e| e.split(';').next().unwrap()),
                expect,
                "{spec}"
            );
        };
        check(&some, json!({}), Ok((0, "", "PreemptLowerPriority")));
        check(&some, json!({"priorityClassName": "high"}), Ok((1000, "high", "Never")));
        check(&some, json!({"priorityClassName": "nope"}), Err("no PriorityClass with name nope was found"));
        check(&with_default, json!({}), Ok((5, "normal", "PreemptLowerPriority")));
        check(
            &[],
            json!({"priorityClassName": "system-node-critical"}),
            Ok((2_000_001_000, "system-node-critical", "PreemptLowerPriority")),
        );
        check(
            &some,
            json!({"priorityClassName": "low", "priority": 10}),
            Ok((10, "low", "PreemptLowerPriority")),
        );
        check(
            &some,
            json!({"priority": 7}),
            Err("the integer value of priority (7) must not be provided in pod spec"),
        );
    }
}
