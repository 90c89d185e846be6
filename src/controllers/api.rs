//! The only place that talks to the API server: performs actions, answers questions.
//!
//! Keeps true: a create whose answer was lost is tried again under the same name, so it never makes two objects;
//! every action reports what the stores must show before its author may decide again. Leaves to others: retries.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use http::{Method, Request};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList, ObjectMeta};
use serde_json::{Value, json};

use crate::{
    controller::{Action, Announce, Answer, Event, Key, Propagation, Question, Resource, Severity, Target},
    pods::ALPHABET,
};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const META: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METAS: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// Random letters at the end of a generated name, and the most of what comes before them.
const SUFFIX: usize = 5;
const BASE: usize = 58;
/// Requests of one batch under way at a time.
const PARALLEL: usize = 64;
/// Groups asked at a time during discovery, lists at a time in a namespace.
const QUESTIONS: usize = 16;

/// What the stores must show before the author of a write may look again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wait {
    /// This version, or a later one.
    Version(Resource, Key, u64),
    /// The object gone, or going.
    Leaving(Resource, Key, String),
}

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{verb} {path} was refused: {message}")]
    Refused { verb: &'static str, path: String, code: u16, reason: String, message: String },
    #[error("{verb} {path} got no answer")]
    Lost { verb: &'static str, path: String, source: Box<kube::Error> },
}

impl Failure {
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Lost { .. } => 0,
        }
    }

    fn already_exists(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == "AlreadyExists")
    }

    /// A namespace that is going refuses everything new.
    pub(crate) fn is_terminating(&self) -> bool {
        self.code() == 403 && self.message().contains("because it is being terminated")
    }

    /// What the server said.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Refused { message, .. } => message.clone(),
            Self::Lost { source, .. } => source.to_string(),
        }
    }
}

/// A connection, and a voice for events.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    recorder: client::Recorder,
}

type Done = Result<Vec<Wait>, Failure>;

impl Api {
    pub(crate) fn new(client: kube::Client, recorder: client::Recorder) -> Self {
        Self { client, recorder }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &'static str,
        accept: &'static str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let verb = verb(&method);
        let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, accept)
            .header(http::header::CONTENT_TYPE, kind)
            .body(body);
        let lost = |source| Failure::Lost { verb, path: path.to_owned(), source: Box::new(source) };
        let request = request.map_err(|e| lost(kube::Error::HttpError(e)))?;
        self.client.request::<Value>(request).await.map_err(|error| match error {
            kube::Error::Api(status) => Failure::Refused {
                verb,
                path: path.to_owned(),
                code: status.code,
                reason: status.reason,
                message: status.message,
            },
            other => lost(other),
        })
    }

    /// Performs one action; batches are done here, too.
    pub(crate) async fn perform(&self, action: Action) -> Done {
        match action {
            Action::Create { resource, object, announce, exists_ok } => {
                self.create(&resource, object, announce.as_ref(), exists_ok).await
            }
            Action::Update { target, subresource, object } => {
                let path = sub(&target, subresource);
                let object = self.send(Method::PUT, &path, JSON, JSON, Some(&object)).await?;
                Ok(written(&target.resource, &object))
            }
            Action::Patch { target, subresource, patch } => {
                let path = sub(&target, subresource);
                match self.send(Method::PATCH, &path, MERGE, JSON, Some(&patch)).await {
                    Ok(object) => Ok(written(&target.resource, &object)),
                    // Gone: there is nothing left to correct.
                    Err(failure) if failure.code() == 404 => Ok(Vec::new()),
                    Err(failure) => Err(failure),
                }
            }
            Action::Delete { target, uid, resource_version, propagation, grace, announce } => {
                let options = options(uid.as_deref(), resource_version.as_deref(), propagation, grace);
                self.delete(&target, uid, &options, announce.as_ref()).await
            }
            Action::DeleteCollection { resource, namespace } => {
                self.delete_collection(&resource, &namespace).await
            }
            Action::Batch(actions) => Box::pin(self.batch(actions)).await,
            Action::Event(event) => {
                self.tell(&event);
                Ok(Vec::new())
            }
        }
    }

    /// Batches of 1, 2, 4 …; after a batch with a failure no other begins.
    async fn batch(&self, actions: Vec<Action>) -> Done {
        let mut waits = Vec::new();
        let mut left = actions.into_iter();
        let mut size = 1;
        loop {
            let now: Vec<Action> = left.by_ref().take(size).collect();
            if now.is_empty() {
                return Ok(waits);
            }
            let mut running = stream::iter(now).map(|a| self.perform(a)).buffer_unordered(PARALLEL);
            let mut failed = None;
            while let Some(done) = running.next().await {
                match done {
                    Ok(more) => waits.extend(more),
                    Err(failure) => failed = Some(failure),
                }
            }
            if let Some(failure) = failed {
                return Err(failure);
            }
            size *= 2;
        }
    }

    async fn create(
        &self,
        resource: &Resource,
        mut object: Value,
        announce: Option<&Announce>,
        exists_ok: bool,
    ) -> Done {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
        let path = resource.collection(namespace);
        let base = object.pointer("/metadata/generateName").and_then(Value::as_str).map(ToOwned::to_owned);
        let generated = base.filter(|_| object.pointer("/metadata/name").is_none());
        if let Some(base) = &generated {
            object["metadata"]["name"] = json!(generate(base));
        }
        let mut outcome = self.send(Method::POST, &path, JSON, JSON, Some(&object)).await;
        if matches!(outcome, Err(Failure::Lost { .. })) && generated.is_some() {
            // Nobody else can have made an object of this name: if it exists, the lost request made it.
            outcome = match self.send(Method::POST, &path, JSON, JSON, Some(&object)).await {
                Err(failure) if failure.already_exists() => Ok(object.clone()),
                other => other,
            };
        }
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        match outcome {
            Ok(made) => {
                self.announce(announce, true, name);
                Ok(written(resource, &made))
            }
            Err(failure) if failure.already_exists() && exists_ok => Ok(Vec::new()),
            Err(failure) => {
                // That is no news to anybody.
                if !failure.is_terminating() {
                    self.announce(announce, false, &failure.message());
                }
                Err(failure)
            }
        }
    }

    async fn delete(
        &self,
        target: &Target,
        uid: Option<String>,
        options: &Value,
        announce: Option<&Announce>,
    ) -> Done {
        let path = target.resource.path(&target.key);
        match self.send(Method::DELETE, &path, JSON, JSON, Some(options)).await {
            Ok(_) => {
                self.announce(announce, true, &target.key.name);
                Ok(uid
                    .map(|uid| Wait::Leaving(target.resource.clone(), target.key.clone(), uid))
                    .into_iter()
                    .collect())
            }
            Err(failure) if failure.code() == 404 => Ok(Vec::new()),
            Err(failure) => {
                self.announce(announce, false, &failure.message());
                Err(failure)
            }
        }
    }

    async fn delete_collection(&self, resource: &Resource, namespace: &str) -> Done {
        let path = resource.collection(namespace);
        let options = options(None, None, Some(Propagation::Background), None);
        match self.send(Method::DELETE, &path, JSON, JSON, Some(&options)).await {
            Ok(_) => Ok(Vec::new()),
            Err(failure) if failure.code() == 405 => self.delete_each(resource, namespace).await,
            Err(failure) => Err(failure),
        }
    }

    /// For resources that do not support deleting a collection.
    async fn delete_each(&self, resource: &Resource, namespace: &str) -> Done {
        for meta in self.list(resource, namespace).await? {
            let target = Target { resource: resource.clone(), key: Key::of(&meta) };
            let options = options(meta.uid.as_deref(), None, Some(Propagation::Background), None);
            self.delete(&target, None, &options, None).await?;
        }
        Ok(Vec::new())
    }

    async fn list(&self, resource: &Resource, namespace: &str) -> Result<Vec<ObjectMeta>, Failure> {
        let path = format!("{}?limit=500", resource.collection(namespace));
        let list = self.send(Method::GET, &path, JSON, METAS, None).await?;
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(items.iter().filter_map(meta).collect())
    }

    fn announce(&self, announce: Option<&Announce>, worked: bool, what: &str) {
        let Some(announce) = announce else { return };
        let (severity, (reason, text)) =
            if worked { (Severity::Normal, announce.done) } else { (Severity::Warning, announce.failed) };
        let message = text.replace("{}", what);
        self.tell(&Event { about: announce.about.clone(), severity, reason, message });
    }

    fn tell(&self, event: &Event) {
        let kind = match event.severity {
            Severity::Normal => client::EventType::Normal,
            Severity::Warning => client::EventType::Warning,
        };
        self.recorder.event(&event.about, kind, event.reason, event.message.clone());
    }

    /// Answers questions, many at a time.
    pub(crate) async fn ask(&self, questions: Vec<Question>) -> Vec<(Question, Answer)> {
        let one = |question: Question| async move {
            let answer = self.answer(&question).await;
            (question, answer)
        };
        stream::iter(questions).map(one).buffer_unordered(QUESTIONS).collect().await
    }

    async fn answer(&self, question: &Question) -> Answer {
        let answer = match question {
            Question::Get(target) => self.get(target).await,
            Question::List { resource, namespace } => self.list(resource, namespace).await.map(Answer::Metas),
            Question::Texts { resource, pointer } => self.texts(resource, pointer).await,
            Question::Discover => {
                self.discover().await.map(|(found, failed)| Answer::Resources(found, failed))
            }
            Question::Review(spec) => self.review(spec).await,
        };
        answer.unwrap_or_else(|failure| match failure.code() {
            404 => Answer::Absent,
            _ => Answer::Failed(failure.to_string()),
        })
    }

    async fn get(&self, target: &Target) -> Result<Answer, Failure> {
        let object = self.send(Method::GET, &target.resource.path(&target.key), JSON, META, None).await?;
        Ok(match meta(&object) {
            Some(meta) => Answer::Meta(Box::new(meta)),
            None => Answer::Failed("the server sent an object without metadata".into()),
        })
    }

    async fn texts(&self, resource: &Resource, pointer: &str) -> Result<Answer, Failure> {
        let list = self.send(Method::GET, &resource.collection(""), JSON, JSON, None).await?;
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut texts = Vec::new();
        for value in items.iter().filter_map(|i| i.pointer(pointer)) {
            let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            texts.extend(list.iter().filter_map(Value::as_str).map(ToOwned::to_owned));
        }
        Ok(Answer::Texts(texts))
    }

    async fn review(&self, spec: &str) -> Result<Answer, Failure> {
        let spec: Value = serde_json::from_str(spec).unwrap_or_default();
        let kind = "SubjectAccessReview";
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let review = self.send(Method::POST, path, JSON, JSON, Some(&body)).await?;
        Ok(Answer::Allowed(review.pointer("/status/allowed") == Some(&Value::Bool(true))))
    }

    /// Every resource in its group's preferred version that can be listed and deleted; and the groups whose
    /// resources could not be learned.
    pub(crate) async fn discover(&self) -> Result<(Vec<Resource>, Vec<String>), Failure> {
        let groups = self.send(Method::GET, "/apis", JSON, JSON, None).await?;
        let groups: APIGroupList = serde_json::from_value(groups).unwrap_or_default();
        let preferred = |g: k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup| {
            g.preferred_version
                .map(|v| v.group_version)
                .or_else(|| Some(g.versions.first()?.group_version.clone()))
        };
        let versions =
            std::iter::once("v1".to_owned()).chain(groups.groups.into_iter().filter_map(preferred));
        let asked = stream::iter(versions).map(|version| async move {
            let root = if version == "v1" { "/api" } else { "/apis" };
            let answer = self.send(Method::GET, &format!("{root}/{version}"), JSON, JSON, None).await;
            (version, answer)
        });
        let answers: Vec<_> = asked.buffer_unordered(QUESTIONS).collect().await;
        let (mut found, mut failed) = (BTreeSet::new(), Vec::new());
        for (version, answer) in answers {
            match answer.map(serde_json::from_value::<APIResourceList>) {
                Ok(Ok(list)) => found.extend(deletable(&version, list)),
                Ok(Err(error)) => failed.push(format!("{version}: {error}")),
                Err(failure) => failed.push(format!("{version}: {}", failure.message())),
            }
        }
        Ok((found.into_iter().collect(), failed))
    }
}

fn deletable(version: &str, list: APIResourceList) -> impl Iterator<Item = Resource> {
    let (group, version) =
        version.split_once('/').map_or((String::new(), version.to_owned()), |(g, v)| (g.into(), v.into()));
    let wanted = |r: &k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource| {
        let can = |verb: &str| r.verbs.iter().any(|v| v == verb);
        !r.name.contains('/') && can("list") && can("delete")
    };
    list.resources.into_iter().filter(wanted).map(move |r| Resource {
        group: r.group.filter(|g| !g.is_empty()).unwrap_or_else(|| group.clone()).into(),
        version: r.version.filter(|v| !v.is_empty()).unwrap_or_else(|| version.clone()).into(),
        kind: r.kind.into(),
        plural: r.name.into(),
        namespaced: r.namespaced,
    })
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn sub(target: &Target, subresource: &str) -> String {
    let path = target.resource.path(&target.key);
    if subresource.is_empty() { path } else { format!("{path}/{subresource}") }
}

fn meta(object: &Value) -> Option<ObjectMeta> {
    let mut value = object.get("metadata")?.clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("managedFields");
    }
    serde_json::from_value(value).ok()
}

fn written(resource: &Resource, object: &Value) -> Vec<Wait> {
    let Some(meta) = meta(object) else { return Vec::new() };
    vec![Wait::Version(resource.clone(), Key::of(&meta), crate::store::version(&meta))]
}

fn options(
    uid: Option<&str>,
    version: Option<&str>,
    propagation: Option<Propagation>,
    grace: Option<i64>,
) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if let Some(uid) = uid {
        options["preconditions"]["uid"] = json!(uid);
    }
    if let Some(version) = version {
        options["preconditions"]["resourceVersion"] = json!(version);
    }
    if let Some(propagation) = propagation {
        options["propagationPolicy"] = json!(format!("{propagation:?}"));
    }
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = json!(grace);
    }
    options
}

/// A name from a base, as the API server would make it.
fn generate(base: &str) -> String {
    use rand::seq::IndexedRandom;
    let mut rng = rand::rng();
    let end =
        base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|i| *i <= BASE).last().unwrap_or(0);
    let letter = |_| ALPHABET.choose(&mut rng).map_or('x', |b| char::from(*b));
    base[..end].chars().chain((0..SUFFIX).map(letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_options() {
        let name = generate("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate(&"a".repeat(100)).len(), 63);
        let full = options(Some("u"), Some("7"), Some(Propagation::Foreground), Some(0));
        assert_eq!(full["preconditions"], json!({"uid": "u", "resourceVersion": "7"}));
        assert_eq!(full["propagationPolicy"], "Foreground");
        assert_eq!(full["gracePeriodSeconds"], 0);
    }

    #[test]
    fn discovery_keeps_what_can_be_deleted() {
        let list = json!({"groupVersion": "apps/v1", "resources": [
            {"name": "deployments", "singularName": "", "namespaced": true, "kind": "Deployment", "verbs": ["list", "delete"]},
            {"name": "deployments/status", "singularName": "", "namespaced": true, "kind": "Deployment", "verbs": ["get"]},
            {"name": "reviews", "singularName": "", "namespaced": true, "kind": "Review", "verbs": ["create"]}]});
        let list: APIResourceList = serde_json::from_value(list).unwrap();
        let found: Vec<_> = deletable("apps/v1", list).map(|r| r.collection("ns")).collect();
        assert_eq!(found, ["/apis/apps/v1/namespaces/ns/deployments"]);
    }
}
