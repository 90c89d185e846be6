//! `pods/binding` (and the old `bindings`): gives a pod its node, once.

use super::answer;
use crate::{
    admission::Operation,
    authn::UserInfo,
    body,
    registry::Fence,
    request::RequestInfo,
    respond,
    server::{Preconditions, Server},
    store::Extra,
    verbs::{Change, Plan, Scope, dry_run},
};
use api::{Object, status::Status};
use axum::{extract::Request, response::Response};
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn binding(
    s: Arc<Server>,
    u: Arc<UserInfo>,
    i: RequestInfo,
    r: Request,
) -> BoxFuture<'static, Response> {
    Box::pin(answer(run(s, u, i, r)))
}

pub(super) fn bindings(
    s: Arc<Server>,
    u: Arc<UserInfo>,
    i: RequestInfo,
    r: Request,
) -> BoxFuture<'static, Response> {
    Box::pin(answer(run(s, u, i, r)))
}

async fn run(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    request: Request,
) -> api::Result<Response> {
    let pods = server.resource("", "pods");
    if info.verb != "create" {
        return Err(Status::method_not_supported(&pods.group_resource(), info.verb));
    }
    let (parts, body) = request.into_parts();
    let fence = Fence::from_headers(&parts.headers)?;
    let accept = respond::negotiate(&parts.headers)?;
    let (mut binding, _) = body::parse(&parts.headers, &body::read(body).await?)?;
    let name = if info.name.is_empty() { binding.name().to_string() } else { info.name.clone() };
    if !binding.name().is_empty() && binding.name() != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    if !matches!(binding.str_at("target.kind"), "" | "Node") || binding.str_at("target.name").is_empty() {
        return Err(Status::bad_request("the target of a Binding must be a Node, with its name"));
    }
    binding.set_namespace(&info.namespace);
    let scope = Scope {
        server: &server,
        user: Some(&user),
        resource: &pods,
        subresource: "binding",
        namespace: &info.namespace,
        fence: fence.as_ref(),
        dry_run: dry_run(info.query.all("dryRun"))?,
    };
    scope.admit(Operation::Create, &name, Some(&mut binding), None).await?;
    scope.permit(Operation::Create, &name, Some(&mut binding), None).await?;
    scope.target(&name).change(&Bind { scope, binding }).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(accept, StatusCode::CREATED, &done))
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
