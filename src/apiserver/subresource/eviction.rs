//! `pods/eviction`: a deletion that PodDisruptionBudgets may delay (429).
//!
//! A budget's `status.disruptionsAllowed` is taken down in the budget's own conditional write before the pod is
//! deleted, so that evictions racing through several servers never take more than allowed.

use super::{Call, done};
use crate::{
    server::Server,
    verbs::{Change, Plan, Scope, delete, update},
};
use api::{Object, catalog::Resource, selector::LabelSelector, status::Status};
use axum::response::Response;

pub(super) async fn run(call: Call) -> api::Result<Response> {
    let server = call.server.clone();
    let pods = server.resource("", "pods");
    let (ctx, eviction) = call.posted().await?;
    let name = ctx.info.name.as_str();
    if !eviction.name().is_empty() && eviction.name() != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let wanted = Object(eviction.map_at("deleteOptions").cloned().unwrap_or_default());
    let mut options = delete::Options::of(&wanted)?;
    options.dry_run |= ctx.dry_run;
    let scope = Scope { resource: &pods, subresource: "", dry_run: options.dry_run, ..ctx.scope() };
    let pod = server.get(&pods, &ctx.namespace, name).await?;
    if guarded(&pod) {
        spend(&server, &scope, &pod).await?;
    }
    delete::remove(&scope, name, &options).await?;
    Ok(done(&ctx))
}

/// Whether a budget has a say: pods that are over or not begun are evicted freely.
fn guarded(pod: &Object) -> bool {
    !matches!(pod.str_at("status.phase"), "Succeeded" | "Failed" | "Pending")
        && pod.deletion_timestamp().is_none()
}

async fn spend(server: &Server, scope: &Scope<'_>, pod: &Object) -> api::Result<()> {
    let budgets = server.resource("policy", "poddisruptionbudgets");
    server.cache().fresh().await?;
    let mut matching = Vec::new();
    for budget in server.cached_list(&budgets, Some(pod.namespace())) {
        if LabelSelector::from_value(budget.get("spec.selector"))?.matches(pod.labels()) {
            matching.push(budget);
        }
    }
    match matching.as_slice() {
        [] => Ok(()),
        [budget] => take(server, scope, &budgets, budget.name(), pod).await,
        _ => Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

async fn take(
    server: &Server,
    scope: &Scope<'_>,
    budgets: &Resource,
    name: &str,
    pod: &Object,
) -> api::Result<()> {
    let own = Scope { user: None, resource: budgets, subresource: "status", server, ..*scope };
    own.target(name).change(&Take { scope: own, pod: pod.name() }).await.map(drop)
}

struct Take<'a> {
    scope: Scope<'a>,
    pod: &'a str,
}

#[async_trait::async_trait]
impl Change for Take<'_> {
    async fn plan(&self, budget: &Object) -> api::Result<Plan> {
        update::finish(&self.scope, decide(budget, self.pod)?, budget).await
    }
}

fn decide(budget: &Object, pod: &str) -> api::Result<Object> {
    let refuse = |cause: String| {
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        Err(Status::too_many_requests(text, 0).with_cause("DisruptionBudget", &cause, ""))
    };
    if budget.i64_at("status.observedGeneration").unwrap_or(0) < budget.generation() {
        return refuse(format!(
            "The disruption budget {} is still being processed by the server.",
            budget.name()
        ));
    }
    let allowed = budget.i64_at("status.disruptionsAllowed").unwrap_or(0);
    if allowed <= 0 {
        let healthy = |field| budget.i64_at(field).unwrap_or(0);
        return refuse(format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            budget.name(),
            healthy("status.desiredHealthy"),
            healthy("status.currentHealthy")
        ));
    }
    let mut budget = budget.clone();
    budget.set("status.disruptionsAllowed", allowed - 1);
    let mut disrupted = budget.map_at("status.disruptedPods").cloned().unwrap_or_default();
    disrupted.insert(pod.to_string(), api::time::now_text().into());
    budget.set("status.disruptedPods", disrupted);
    Ok(budget)
}
