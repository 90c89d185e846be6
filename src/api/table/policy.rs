//! Roles, disruption budgets, admission, API services, flow control.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME,
    cells::{NONE, UNSET, condition, int, number, or, str_of, text, wide},
};
use crate::{Object, catalog::Col};

pub(crate) const ROLE_BINDINGS: &[Col] = &[
    NAME,
    text("Role", "The role that is granted.", |o, _| {
        format!("{}/{}", o.str_at("roleRef.kind"), o.str_at("roleRef.name")).into()
    }),
    AGE,
    wide(text("Users", "Users in the role binding.", |o, _| subjects(o, "User").into())),
    wide(text("Groups", "Groups in the role binding.", |o, _| subjects(o, "Group").into())),
    wide(text("ServiceAccounts", "ServiceAccounts in the role binding.", |o, _| {
        subjects(o, "ServiceAccount").into()
    })),
];

fn subjects(binding: &Object, kind: &str) -> String {
    let wanted = binding.list_at("subjects").iter().filter(|s| str_of(s, "kind") == kind);
    let text = |s: &Value| match (kind, str_of(s, "namespace"), str_of(s, "name")) {
        ("ServiceAccount", namespace, name) => format!("{namespace}/{name}"),
        (_, _, name) => name.to_owned(),
    };
    wanted.map(text).collect::<Vec<_>>().join(", ")
}

pub(crate) const DISRUPTION_BUDGETS: &[Col] = &[
    NAME,
    text("Min Available", "How many pods must be available.", |o, _| or(o, "spec.minAvailable", "N/A")),
    text("Max Unavailable", "How many pods may be unavailable.", |o, _| or(o, "spec.maxUnavailable", "N/A")),
    number("Allowed Disruptions", "How many pods may be evicted now.", |o, _| {
        int(o, "status.disruptionsAllowed")
    }),
    AGE,
];

pub(crate) const WEBHOOKS: &[Col] =
    &[NAME, number("Webhooks", "Number of webhooks.", |o, _| o.list_at("webhooks").len().into()), AGE];

pub(crate) const VALIDATING_POLICIES: &[Col] = &[
    NAME,
    number("Validations", "Number of validations.", |o, _| o.list_at("spec.validations").len().into()),
    text("ParamKind", "The kind of the parameters.", param_kind),
    AGE,
];

pub(crate) const MUTATING_POLICIES: &[Col] = &[
    NAME,
    number("Mutations", "Number of mutations.", |o, _| o.list_at("spec.mutations").len().into()),
    text("ParamKind", "The kind of the parameters.", param_kind),
    AGE,
];

fn param_kind(policy: &Object, _: Timestamp) -> Value {
    match policy.get("spec.paramKind") {
        Some(kind) => format!("{}/{}", str_of(kind, "apiVersion"), str_of(kind, "kind")).into(),
        None => UNSET.into(),
    }
}

pub(crate) const POLICY_BINDINGS: &[Col] = &[
    NAME,
    text("PolicyName", "The policy that is bound.", |o, _| or(o, "spec.policyName", "")),
    text("ParamRef", "The parameters.", |o, _| {
        let Some(parameters) = o.get("spec.paramRef") else { return UNSET.into() };
        match (str_of(parameters, "namespace"), str_of(parameters, "name")) {
            (_, "") => "*".into(),
            ("", name) => name.into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        }
    }),
    AGE,
];

pub(crate) const API_SERVICES: &[Col] = &[
    NAME,
    text("Service", "The service that serves the API.", |o, _| match o.get("spec.service") {
        Some(s) if s.is_object() => format!("{}/{}", str_of(s, "namespace"), str_of(s, "name")).into(),
        _ => "Local".into(),
    }),
    text("Available", "Whether the API can be reached.", |o, _| match condition(o, "Available") {
        Some(c) if str_of(c, "status") == "True" => "True".into(),
        Some(c) => format!("{} ({})", str_of(c, "status"), str_of(c, "reason")).into(),
        None => "Unknown".into(),
    }),
    AGE,
];

pub(crate) const FLOW_SCHEMAS: &[Col] = &[
    NAME,
    text("PriorityLevel", "The priority level of the requests.", |o, _| {
        or(o, "spec.priorityLevelConfiguration.name", "")
    }),
    number("MatchingPrecedence", "The lower, the earlier it is tried.", |o, _| {
        int(o, "spec.matchingPrecedence")
    }),
    text("DistinguisherMethod", "How flows are told apart.", |o, _| {
        or(o, "spec.distinguisherMethod.type", NONE)
    }),
    AGE,
    text("MissingPL", "Whether the priority level is missing.", |o, _| match condition(o, "Dangling") {
        Some(c) => str_of(c, "status").into(),
        None => "?".into(),
    }),
];

pub(crate) const PRIORITY_LEVELS: &[Col] = &[
    NAME,
    text("Type", "Limited or exempt.", |o, _| or(o, "spec.type", "")),
    text("NominalConcurrencyShares", "Its part of the concurrency.", |o, _| {
        let exempt = or(o, "spec.exempt.nominalConcurrencyShares", NONE);
        or(o, "spec.limited.nominalConcurrencyShares", exempt.as_str().unwrap_or(NONE))
    }),
    text("Queues", "How many queues it has.", |o, _| {
        or(o, "spec.limited.limitResponse.queuing.queues", NONE)
    }),
    text("HandSize", "How many queues a flow may use.", |o, _| {
        or(o, "spec.limited.limitResponse.queuing.handSize", NONE)
    }),
    text("QueueLengthLimit", "How long a queue may get.", |o, _| {
        or(o, "spec.limited.limitResponse.queuing.queueLengthLimit", NONE)
    }),
    AGE,
];
