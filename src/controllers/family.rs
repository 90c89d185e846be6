//! Owners and their children: who belongs to whom, adoption and release.
//!
//! Keeps true: a child is adopted only by an owner that, asked at this moment, exists with the same uid and is not
//! being deleted; a child has one controller at most.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::{
    controller::{Action, Answer, Context, Plan, Question, Target, controller_of, owned_by},
    store::Watched,
};

/// Name of an object's controller, if that is of this kind.
#[must_use]
pub(crate) fn owner_name(meta: &ObjectMeta, kind: &str) -> Option<String> {
    controller_of(meta).filter(|r| r.kind == kind).map(|r| r.name.clone())
}

/// The children of `owner` among those it controls and those that nobody does. `Err` is what has to be done (or
/// asked) first: adopt, release.
pub(crate) fn claim<O: Watched, C: Watched>(
    context: &Context<'_>,
    owner: &O,
    fits: impl Fn(&ObjectMeta) -> bool,
    owned: Vec<Arc<C>>,
    orphans: Vec<Arc<C>>,
) -> Result<Vec<Arc<C>>, Plan> {
    let going = owner.metadata().deletion_timestamp.is_some();
    let (keep, lost): (Vec<_>, Vec<_>) = owned.into_iter().partition(|c| fits(c.metadata()));
    if going {
        return Ok(keep);
    }
    let found = |c: &Arc<C>| c.metadata().deletion_timestamp.is_none() && fits(c.metadata());
    let adopt: Vec<Arc<C>> = orphans.into_iter().filter(found).collect();
    if adopt.is_empty() && lost.is_empty() {
        return Ok(keep);
    }
    let mut plan = Plan::of(lost.iter().map(|c| release(owner, &**c)).collect());
    if !adopt.is_empty() {
        let question = Question::Get(Target::of(owner));
        match context.answers.get(&question) {
            None => return Err(Plan::ask(vec![question])),
            Some(Answer::Meta(live))
                if live.uid == owner.metadata().uid && live.deletion_timestamp.is_none() =>
            {
                plan.actions.extend(adopt.iter().map(|c| adoption(owner, &**c)));
            }
            Some(_) if plan.actions.is_empty() => return Ok(keep),
            Some(_) => {}
        }
    }
    Err(plan)
}

fn references<C: Watched>(child: &C, references: serde_json::Value) -> Action {
    let meta = child.metadata();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references,
    }});
    Action::Patch { target: Target::of(child), subresource: "", patch }
}

fn adoption<O: Watched, C: Watched>(owner: &O, child: &C) -> Action {
    let mut list = child.metadata().owner_references.clone().unwrap_or_default();
    list.push(owned_by(owner));
    references(child, json!(list))
}

fn release<O: Watched, C: Watched>(owner: &O, child: &C) -> Action {
    let uid = owner.metadata().uid.as_deref().unwrap_or_default();
    let others: Vec<_> =
        child.metadata().owner_references.iter().flatten().filter(|r| r.uid != uid).collect();
    references(child, json!(others))
}
