//! `pods/binding` (and the old `bindings`): gives a pod its node, once.

use super::{Call, done};
use crate::{
    admission::Operation,
    server::Preconditions,
    store::Extra,
    verbs::{Change, Plan, Scope, place},
};
use api::{Object, status::Status};
use axum::response::Response;
use serde_json::{Value, json};

pub(super) async fn run(call: Call) -> api::Result<Response> {
    let pods = call.server.resource("", "pods");
    let (ctx, mut binding) = call.posted().await?;
    let in_url = ctx.info.name.as_str();
    let name = if in_url.is_empty() { binding.name().to_string() } else { in_url.to_string() };
    if !binding.name().is_empty() && binding.name() != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    if !matches!(binding.str_at("target.kind"), "" | "Node") || binding.str_at("target.name").is_empty() {
        return Err(Status::bad_request("the target of a Binding must be a Node, with its name"));
    }
    let scope = Scope { resource: &pods, subresource: "binding", ..ctx.scope() };
    place(&scope, &mut binding)?;
    scope.admit(Operation::Create, &name, Some(&mut binding), None).await?;
    scope.permit(Operation::Create, &name, Some(&mut binding), None).await?;
    scope.target(&name).change(&Bind { scope, binding }).await?;
    Ok(done(&ctx))
}

struct Bind<'a> {
    scope: Scope<'a>,
    binding: Object,
}

#[async_trait::async_trait]
impl Change for Bind<'_> {
    async fn plan(&self, pod: &Object) -> api::Result<Plan> {
        let uid = Some(self.binding.uid().to_string()).filter(|uid| !uid.is_empty());
        Preconditions { uid, resource_version: None }.check(self.scope.resource, pod)?;
        decide(&self.scope, &self.binding, pod).map(|pod| Plan::Put(Box::new(pod), Extra::default()))
    }
}

fn decide(scope: &Scope<'_>, binding: &Object, pod: &Object) -> api::Result<Object> {
    let conflict = |why: String| Err(Status::conflict(&scope.resource.group_resource(), pod.name(), why));
    if pod.deletion_timestamp().is_some() {
        return conflict(format!("pod {} is being deleted, cannot be assigned to a host", pod.name()));
    }
    let node = pod.str_at("spec.nodeName");
    if !node.is_empty() {
        return conflict(format!("pod {} is already assigned to node {node:?}", pod.name()));
    }
    if !pod.list_at("spec.schedulingGates").is_empty() {
        return conflict(format!("pod {} has non-empty .spec.schedulingGates", pod.name()));
    }
    let mut pod = pod.clone();
    pod.set("spec.nodeName", binding.str_at("target.name"));
    for (key, value) in binding.annotations().into_iter().flatten() {
        pod.set_annotation(key, value.as_str().unwrap_or_default());
    }
    schedule_condition(&mut pod);
    Ok(pod)
}

fn schedule_condition(pod: &mut Object) {
    let mut conditions: Vec<Value> = pod.list_at("status.conditions").to_vec();
    conditions.retain(|c| c["type"] != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": api::time::now_text(),
    }));
    pod.set("status.conditions", conditions);
}
