//! delete: at once, gracefully, or when the last finalizer is gone.

use super::{Change, Context, Outcome, Plan, Scope, extras, options};
use crate::{
    admission::Operation,
    body, respond,
    server::{Preconditions, Server},
    strategy,
};
use api::{
    Object, Schema,
    catalog::Resource,
    field::{FieldError, Path},
    status::Status,
};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::Value;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose deletion answers with the object instead of a Status.
const SHOWN: &[&str] = &[
    "Pod",
    "Service",
    "ServiceAccount",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ResourceQuota",
];

/// What a client asks of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace: Option<i64>,
    pub(crate) preconditions: Preconditions,
    /// Orphan, Background or Foreground.
    pub(crate) policy: Option<String>,
    pub(crate) dry_run: bool,
}

impl Options {
    /// From body and query; what both say, the body decides.
    pub(crate) fn read(ctx: &Context, bytes: &Bytes) -> api::Result<Self> {
        let body = match bytes.is_empty() {
            true => Object::default(),
            false => body::parse(&ctx.headers, bytes)?.0,
        };
        if !matches!(body.kind(), "" | "DeleteOptions") {
            return Err(Status::bad_request(format!(
                "expected DeleteOptions in the body, got {}",
                body.kind()
            )));
        }
        let query = &ctx.info.query;
        let mut options = Options::of(&body)?;
        options.grace = options.grace.or(options::number(query, "gracePeriodSeconds")?);
        options.policy = options.policy.or(query.get("propagationPolicy").map(str::to_string));
        options.dry_run |= ctx.dry_run;
        options.check()?;
        Ok(options)
    }

    /// From a DeleteOptions object.
    pub(crate) fn of(body: &Object) -> api::Result<Self> {
        if let Some(schema) = Schema::builtin("", "v1", "DeleteOptions") {
            schema.decode(&body.clone().into_value())?;
        }
        let text = |path: &str| Some(body.str_at(path).to_string()).filter(|s| !s.is_empty());
        let orphans = body.get("orphanDependents").and_then(Value::as_bool);
        let dry: Vec<String> =
            body.list_at("dryRun").iter().filter_map(Value::as_str).map(str::to_string).collect();
        if orphans.is_some() && text("propagationPolicy").is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let path = Path::new("propagationPolicy");
            let error = FieldError::invalid(&path, body.str_at("propagationPolicy"), why);
            options::refuse("DeleteOptions", vec![error])?;
        }
        let old_style = orphans.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_string());
        Ok(Options {
            grace: body.i64_at("gracePeriodSeconds"),
            preconditions: Preconditions {
                uid: text("preconditions.uid"),
                resource_version: text("preconditions.resourceVersion"),
            },
            policy: text("propagationPolicy").or(old_style),
            dry_run: options::dry_run("DeleteOptions", &dry)?,
        })
    }

    fn check(&self) -> api::Result<()> {
        const KNOWN: [&str; 3] = ["Foreground", "Background", "Orphan"];
        let Some(policy) = self.policy.as_deref().filter(|p| !KNOWN.contains(p)) else { return Ok(()) };
        let supported = [&KNOWN[..], &["nil"]].concat();
        let error = FieldError::not_supported(&Path::new("propagationPolicy"), policy, &supported);
        options::refuse("DeleteOptions", vec![error])
    }
}

pub(super) async fn delete(ctx: &Context, bytes: Bytes) -> api::Result<Response> {
    let options = Options::read(ctx, &bytes)?;
    let name = ctx.info.name.as_str();
    let scope = Scope { dry_run: options.dry_run, ..ctx.scope() };
    match remove(&scope, name, &options).await? {
        Outcome::Deleted(object) if !SHOWN.contains(&ctx.stored.kind.as_str()) => {
            Ok(respond::success(ctx, object.name(), object.uid()))
        }
        outcome => respond::object(ctx, StatusCode::OK, outcome.object()),
    }
}

/// Deletes one object.
pub(crate) async fn remove<'a>(scope: &Scope<'a>, name: &'a str, options: &Options) -> api::Result<Outcome> {
    scope.target(name).change(&Delete { scope: *scope, options, immediate: false }).await
}

/// Deletes as the server itself.
pub(crate) async fn as_server(
    server: &Server,
    r: &Resource,
    namespace: &str,
    name: &str,
    preconditions: Preconditions,
) -> api::Result<()> {
    let scope = Scope::server(server, r, namespace);
    let options = Options { preconditions, ..Options::default() };
    scope.target(name).change(&Delete { scope, options: &options, immediate: true }).await.map(drop)
}

struct Delete<'a> {
    scope: Scope<'a>,
    options: &'a Options,
    /// Without the kind's grace.
    immediate: bool,
}

#[async_trait::async_trait]
impl Change for Delete<'_> {
    async fn plan(&self, current: &Object) -> api::Result<Plan> {
        let (scope, r) = (&self.scope, self.scope.resource);
        self.options.preconditions.check(r, current)?;
        scope.admit(Operation::Delete, current.name(), None, Some(current)).await?;
        scope.permit(Operation::Delete, current.name(), None, Some(current)).await?;
        let grace = match self.immediate {
            true => None,
            false => strategy::of(r).graceful_deletion(current, self.options.grace),
        };
        match decide(r, current, self.options, grace, api::time::now()) {
            Step::Keep => Ok(Plan::Keep),
            Step::Delete => Ok(Plan::Delete(extras::delete(scope, current).await?)),
            Step::Put(object) => Ok(Plan::Put(object, crate::store::Extra::default())),
        }
    }
}

enum Step {
    Keep,
    Delete,
    Put(Box<Object>),
}

/// What a deletion does to an object now. `grace`: seconds that its kind gives it, `None` for kinds that die at
/// once.
fn decide(
    r: &Resource,
    current: &Object,
    options: &Options,
    grace: Option<i64>,
    now: jiff::Timestamp,
) -> Step {
    let mut object = current.clone();
    let grace = grace.unwrap_or(0).max(0);
    if let Some(begun) = current.deletion_timestamp() {
        let granted = current.deletion_grace_period_seconds().unwrap_or(0);
        let shorter = options.grace.is_some() && grace < granted;
        if granted > 0 && !shorter {
            return Step::Keep;
        }
        if shorter && grace > 0 {
            let end = api::time::parse(begun).unwrap_or(now) - SignedDuration::from_secs(granted - grace);
            mark(&mut object, end, grace);
            return Step::Put(Box::new(object));
        }
    } else if grace > 0 {
        mark(&mut object, now + SignedDuration::from_secs(grace), grace);
        set_finalizers(&mut object, options.policy.as_deref());
        return Step::Put(Box::new(object));
    }
    set_finalizers(&mut object, options.policy.as_deref());
    let namespace = r.group.is_empty() && r.kind == "Namespace";
    let waits = namespace && !object.list_at("spec.finalizers").is_empty();
    if object.finalizers().next().is_none() && !waits {
        return Step::Delete;
    }
    let begun = current.deletion_timestamp().and_then(api::time::parse).filter(|at| *at < now);
    mark(&mut object, begun.unwrap_or(now), 0);
    if namespace {
        object.set("status.phase", "Terminating");
        object.metadata_mut().remove("deletionGracePeriodSeconds");
    }
    if object.0 == current.0 { Step::Keep } else { Step::Put(Box::new(object)) }
}

fn mark(object: &mut Object, end: jiff::Timestamp, grace: i64) {
    if object.deletion_timestamp().is_none() && object.generation() > 0 {
        let next = object.generation() + 1;
        object.set_meta("generation", next);
    }
    object.set_meta("deletionTimestamp", api::time::format(end));
    object.set_meta("deletionGracePeriodSeconds", grace);
}

fn set_finalizers(object: &mut Object, policy: Option<&str>) {
    let wanted = match policy {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
        // Nothing said: what is there stays.
        None => return,
    };
    let mut list: Vec<String> =
        object.finalizers().filter(|f| ![ORPHAN, FOREGROUND].contains(f)).map(str::to_string).collect();
    list.extend(wanted.map(str::to_string));
    match list.is_empty() {
        true => drop(object.metadata_mut().remove("finalizers")),
        false => object.set_meta("finalizers", list),
    }
}
