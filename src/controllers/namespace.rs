//! The namespace controller: empties a namespace that is being deleted, then lets it go.
//!
//! Keeps true: a namespace goes only after a list of every resource that the server has now came back empty; pods
//! go before what they may need to stop in peace. Leaves to others: refusing new objects in a namespace that is
//! going (the API server), stopping pods (kubelets).

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use crate::{
    controller::{Action, Answer, Context, Controller, Key, Plan, Question, Resource, update},
    store::{Change, Stores},
};

const FINALIZER: &str = "kubernetes";
/// How soon to look again at what is left.
const AGAIN: Duration = Duration::from_millis(500);

/// The controller; it keeps nothing.
pub(crate) struct Namespaces;

impl Controller for Namespaces {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.namespaces.keys()
    }

    fn wake(&self, _: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Namespace(d) if d.new.is_some() => vec![d.key()],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(namespace) = context.stores.namespaces.get(key) else { return Plan::none() };
        reconcile(context, &namespace)
    }
}

/// What was found in a namespace.
#[derive(Default)]
struct Content {
    found: Vec<(Resource, Vec<ObjectMeta>)>,
    undiscovered: Vec<String>,
    failures: Vec<String>,
}

/// Decides what a namespace that is going still needs.
pub(crate) fn reconcile(context: &Context<'_>, namespace: &Namespace) -> Plan {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return Plan::none();
    }
    if phase(namespace) != "Terminating" {
        let mut going = namespace.clone();
        going.status.get_or_insert_default().phase = Some("Terminating".into());
        return Plan::of(vec![update(&going, "status")]);
    }
    match look(context, namespace.metadata.name.as_deref().unwrap_or_default()) {
        Err(questions) => Plan::ask(questions),
        Ok(content) if content.is_empty() => finalize(namespace),
        Ok(content) => empty(context, namespace, &content),
    }
}

fn phase(namespace: &Namespace) -> &str {
    namespace.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

impl Content {
    fn is_empty(&self) -> bool {
        self.found.is_empty() && self.undiscovered.is_empty() && self.failures.is_empty()
    }
}

/// Lists everything, or says what has to be asked for that.
fn look(context: &Context<'_>, name: &str) -> Result<Content, Vec<Question>> {
    let (resources, undiscovered) = match context.answers.get(&Question::Discover) {
        None => return Err(vec![Question::Discover]),
        Some(Answer::Resources(resources, failed)) => (resources.clone(), failed.clone()),
        Some(other) => (Vec::new(), vec![format!("{other:?}")]),
    };
    let namespaced: Vec<Resource> = resources.into_iter().filter(|r| r.namespaced).collect();
    let question = |r: &Resource| Question::List { resource: r.clone(), namespace: name.into() };
    let open: Vec<Question> =
        namespaced.iter().map(question).filter(|q| !context.answers.contains_key(q)).collect();
    if !open.is_empty() {
        return Err(open);
    }
    let mut content = Content { undiscovered, ..Content::default() };
    for resource in namespaced {
        match context.answers.get(&question(&resource)) {
            Some(Answer::Metas(list)) if list.is_empty() => {}
            Some(Answer::Metas(list)) => content.found.push((resource, list.clone())),
            Some(Answer::Absent) => {}
            Some(Answer::Failed(why)) => content.failures.push(format!("{}: {why}", resource.plural)),
            other => content.failures.push(format!("{}: unexpected answer {other:?}", resource.plural)),
        }
    }
    Ok(content)
}

fn finalize(namespace: &Namespace) -> Plan {
    let mut done = namespace.clone();
    if let Some(finalizers) = done.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    Plan::of(vec![update(&done, "finalize")])
}

fn empty(context: &Context<'_>, namespace: &Namespace, content: &Content) -> Plan {
    let mut plan = Plan::none();
    let mut told = namespace.clone();
    let status = told.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    for (kind, failed, reason, message) in conditions_for(content) {
        set(context, conditions, kind, failed, reason, message);
    }
    if told != *namespace {
        plan.act(update(&told, "status"));
    }
    let name = namespace.metadata.name.clone().unwrap_or_default();
    let is_pods = |r: &Resource| r.group.is_empty() && r.plural == "pods";
    let pods_left = content.found.iter().any(|(r, _)| is_pods(r));
    for (resource, list) in &content.found {
        let all_going = list.iter().all(|m| m.deletion_timestamp.is_some());
        if all_going || (pods_left && !is_pods(resource)) {
            continue;
        }
        plan.act(Action::DeleteCollection { resource: resource.clone(), namespace: name.clone() });
    }
    plan.requeue_in(AGAIN);
    plan
}

type Row = (&'static str, bool, &'static str, String);

/// The five conditions, in upstream's words.
fn conditions_for(content: &Content) -> Vec<Row> {
    let pick = |bad: Option<String>, good: &str| (bad.is_some(), bad.unwrap_or_else(|| good.into()));
    let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(", "));
    let (undiscovered, text) = pick(
        joined(&content.undiscovered).map(|f| format!("Discovery failed for some groups: {f}")),
        "All resources successfully discovered",
    );
    let reason = if undiscovered { "DiscoveryFailed" } else { "ResourcesDiscovered" };
    let mut rows = vec![("NamespaceDeletionDiscoveryFailure", undiscovered, reason, text)];
    let parsed = "All legacy kube types successfully parsed".to_owned();
    rows.push(("NamespaceDeletionGroupVersionParsingFailure", false, "ParsedGroupVersions", parsed));
    let (failed, text) = pick(
        joined(&content.failures).map(|f| format!("Failed to delete all resource types: {f}")),
        "All content successfully deleted, may be waiting on finalization",
    );
    let reason = if failed { "ContentDeletionFailed" } else { "ContentDeleted" };
    rows.push(("NamespaceDeletionContentFailure", failed, reason, text));
    let (remain, text) = pick(remaining(content), "All content successfully removed");
    let reason = if remain { "SomeResourcesRemain" } else { "ContentRemoved" };
    rows.push(("NamespaceContentRemaining", remain, reason, text));
    let (held, text) = pick(finalizers(content), "All content-preserving finalizers finished");
    let reason = if held { "SomeFinalizersRemain" } else { "ContentHasNoFinalizers" };
    rows.push(("NamespaceFinalizersRemaining", held, reason, text));
    rows
}

fn remaining(content: &Content) -> Option<String> {
    let one = |(r, list): &(Resource, Vec<ObjectMeta>)| {
        format!("{}.{} has {} resource instances", r.plural, r.group, list.len())
    };
    let mut texts: Vec<String> = content.found.iter().map(one).collect();
    texts.sort();
    (!texts.is_empty()).then(|| format!("Some resources are remaining: {}", texts.join(", ")))
}

fn finalizers(content: &Content) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for finalizer in content.found.iter().flat_map(|(_, l)| l).flat_map(|m| m.finalizers.iter().flatten()) {
        *counts.entry(finalizer).or_default() += 1;
    }
    let texts: Vec<String> = counts.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let text = || format!("Some content in the namespace has finalizers remaining: {}", texts.join(", "));
    (!texts.is_empty()).then(text)
}

fn set(
    context: &Context<'_>,
    list: &mut Vec<NamespaceCondition>,
    kind: &str,
    failed: bool,
    reason: &str,
    message: String,
) {
    let status = if failed { "True" } else { "False" };
    let old = list.iter().position(|c| c.type_ == kind);
    let since = old.filter(|i| list[*i].status == status).and_then(|i| list[i].last_transition_time.clone());
    let condition = NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: since.or(Some(Time(context.now))),
    };
    match old {
        Some(i) => list[i] = condition,
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;

    use super::*;
    use crate::testing::{NOON, at, cluster_meta, context, load};

    fn meta(name: &str, going: bool) -> ObjectMeta {
        let deletion_timestamp = going.then(|| Time(at(NOON)));
        ObjectMeta { name: Some(name.into()), deletion_timestamp, ..Default::default() }
    }

    fn run(going: bool, content: &[(Resource, Vec<ObjectMeta>)]) -> Plan {
        let stores = Stores::default();
        let mut value = json!({"metadata": cluster_meta("gone"), "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Terminating"}});
        if going {
            value["metadata"]["deletionTimestamp"] = json!(NOON);
        }
        let namespace: Namespace = load(&stores, value);
        let resources: Vec<Resource> = content.iter().map(|(r, _)| r.clone()).collect();
        let mut answers = HashMap::from([(Question::Discover, Answer::Resources(resources, vec![]))]);
        for (resource, list) in content {
            let question = Question::List { resource: resource.clone(), namespace: "gone".into() };
            answers.insert(question, Answer::Metas(list.clone()));
        }
        reconcile(&context(&stores, &answers, at(NOON)), &namespace)
    }

    fn collections(plan: &Plan) -> Vec<String> {
        let name = |a: &Action| match a {
            Action::DeleteCollection { resource, .. } => Some(resource.plural.to_string()),
            _ => None,
        };
        plan.actions.iter().filter_map(name).collect()
    }

    #[test]
    fn asks_before_it_acts() {
        let stores = Stores::default();
        let mut value = json!({"metadata": cluster_meta("gone"), "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Terminating"}});
        value["metadata"]["deletionTimestamp"] = json!(NOON);
        let namespace: Namespace = load(&stores, value);
        let mut answers = HashMap::new();
        let plan = reconcile(&context(&stores, &answers, at(NOON)), &namespace);
        assert_eq!(plan.questions, [Question::Discover]);
        answers.insert(Question::Discover, Answer::Resources(vec![Resource::of::<Pod>()], vec![]));
        let plan = reconcile(&context(&stores, &answers, at(NOON)), &namespace);
        assert_eq!(plan.questions.len(), 1);
        answers.insert(Question::Discover, Answer::Resources(vec![], vec!["metrics.k8s.io/v1".into()]));
        let plan = reconcile(&context(&stores, &answers, at(NOON)), &namespace);
        // A group that cannot be asked may hold content: the namespace stays.
        assert!(matches!(&plan.actions[..], [Action::Update { subresource: "status", .. }]));
    }

    #[test]
    fn steps() {
        let (pods, maps) = (Resource::of::<Pod>(), Resource::of::<ConfigMap>());
        let check = |content: &[(Resource, Vec<ObjectMeta>)], expect: &[&str]| {
            assert_eq!(collections(&run(true, content)), expect);
        };
        check(&[(pods.clone(), vec![meta("a", false)]), (maps.clone(), vec![meta("m", false)])], &["pods"]);
        check(&[(pods.clone(), vec![meta("a", true)]), (maps.clone(), vec![meta("m", false)])], &[]);
        check(&[(pods.clone(), vec![]), (maps.clone(), vec![meta("m", false)])], &["configmaps"]);
        let plan = run(true, &[(pods, vec![]), (maps, vec![])]);
        let [Action::Update { subresource: "finalize", object, .. }] = &plan.actions[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(object["spec"]["finalizers"], json!([]));
        assert_eq!(run(false, &[]), Plan::none());
    }

    #[test]
    fn conditions_say_what_is_left() {
        let mut held = meta("a", true);
        held.finalizers = Some(vec!["example.com/x".into()]);
        let plan = run(true, &[(Resource::of::<Pod>(), vec![held])]);
        let Some(Action::Update { object, .. }) = plan.actions.first() else { panic!("{plan:?}") };
        let message = |kind: &str| {
            let list = object["status"]["conditions"].as_array().unwrap();
            list.iter().find(|c| c["type"] == kind).unwrap()["message"].as_str().unwrap().to_owned()
        };
        let text = "Some resources are remaining: pods. has 1 resource instances";
        assert_eq!(message("NamespaceContentRemaining"), text);
        let text =
            "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances";
        assert_eq!(message("NamespaceFinalizersRemaining"), text);
    }
}
