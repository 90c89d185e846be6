//! What the table tests of all controllers share.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::{
    controller::{Answer, Context, Plan, Question, Target},
    store::{Stores, Watched},
};

/// Noon, when tests happen unless they say otherwise.
pub(crate) const NOON: &str = "2026-01-01T12:00:00Z";

/// A time.
pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Metadata of an object in `ns`.
pub(crate) fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1})
}

/// Metadata of a cluster-scoped object.
pub(crate) fn cluster_meta(name: &str) -> Value {
    let mut meta = meta(name);
    meta.as_object_mut().unwrap().remove("namespace");
    meta
}

/// Reads an object and puts it into its store.
pub(crate) fn load<K: Watched>(stores: &Stores, mut value: Value) -> K {
    value["apiVersion"] = json!(K::API_VERSION);
    value["kind"] = json!(K::KIND);
    let object: K = serde_json::from_value(value).unwrap();
    stores.put(object.clone());
    object
}

/// Applies a merge patch.
pub(crate) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// A context without failure.
pub(crate) fn context<'a>(
    stores: &'a Stores,
    answers: &'a HashMap<Question, Answer>,
    now: Timestamp,
) -> Context<'a> {
    Context { stores, now, failure: None, answers }
}

/// Runs a reconcile at noon; when it asks for the metadata of one of `live`, that object exists as named.
pub(crate) fn answered(stores: &Stores, live: &[Target], reconcile: impl Fn(&Context<'_>) -> Plan) -> Plan {
    let meta = |t: &Target| ObjectMeta {
        uid: Some(format!("uid-{}", t.key.name)),
        name: Some(t.key.name.clone()),
        ..Default::default()
    };
    let answers: HashMap<_, _> =
        live.iter().map(|t| (Question::Get(t.clone()), Answer::Meta(Box::new(meta(t))))).collect();
    reconcile(&context(stores, &answers, at(NOON)))
}
