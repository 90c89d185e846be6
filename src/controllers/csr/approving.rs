//! The csrapproving controller: kubelets get their certificates without a person.
//!
//! Keeps true: a client certificate is approved only for somebody whom RBAC allows to have it; a serving
//! certificate only for the node that asks, and only for addresses that are that Node's.

use std::time::Duration;

use k8s_openapi::{
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::json;

use super::{KUBELET_CLIENT, KUBELET_SERVING, Parsed, is, is_issued, parse};
use crate::{
    controller::{Answer, Context, Controller, Key, Plan, Question, update},
    store::{Change, Stores},
};

/// A node's addresses may be reported a moment after it asks for a certificate with them; the binding that lets it ask
/// may be made a moment later, too.
const AGAIN: Duration = Duration::from_secs(1);

/// The controller; it keeps nothing.
pub(crate) struct Approving;

impl Controller for Approving {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.csrs.keys()
    }

    fn wake(&self, _: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::CertificateSigningRequest(d) if d.new.is_some() => vec![d.key()],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(csr) = context.stores.csrs.get(key) else { return Plan::none() };
        if is_issued(&csr) || is(&csr, "Approved") || is(&csr, "Denied") {
            return Plan::none();
        }
        let Ok(parsed) = parse(&csr) else { return Plan::none() };
        match csr.spec.signer_name.as_str() {
            KUBELET_CLIENT => client(context, &csr, &parsed),
            KUBELET_SERVING => serving(context, &csr, &parsed),
            _ => Plan::none(),
        }
    }
}

fn client(context: &Context<'_>, csr: &CertificateSigningRequest, parsed: &Parsed) -> Plan {
    if parsed.not_kubelet_client().is_some() {
        return Plan::none();
    }
    let own = csr.spec.username.as_deref() == Some(&parsed.common_name);
    let rows: &[(bool, &str, &str)] = &[
        (own, "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
        (true, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
    ];
    for (_, subresource, message) in rows.iter().filter(|row| row.0) {
        let question = review(csr, subresource);
        match context.answers.get(&question) {
            None => return Plan::ask(vec![question]),
            Some(Answer::Allowed(true)) => return approve(context, csr, message),
            Some(Answer::Allowed(false)) => {}
            Some(_) => return Plan { requeue: Some(AGAIN), ..Plan::none() },
        }
    }
    // The binding that allows it may be on its way: nothing else would bring this request back.
    Plan { requeue: Some(AGAIN), ..Plan::none() }
}

/// May the requester create this subresource of certificatesigningrequests?
fn review(csr: &CertificateSigningRequest, subresource: &str) -> Question {
    let spec = json!({
        "user": csr.spec.username, "uid": csr.spec.uid, "groups": csr.spec.groups, "extra": csr.spec.extra,
        "resourceAttributes": {
            "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
            "subresource": subresource, "version": "*",
        },
    });
    Question::Review(spec.to_string())
}

fn serving(context: &Context<'_>, csr: &CertificateSigningRequest, parsed: &Parsed) -> Plan {
    let is_self = csr.spec.username.as_deref() == Some(&parsed.common_name);
    let is_node = csr.spec.groups.iter().flatten().any(|g| g == "system:nodes");
    let name = parsed.common_name.strip_prefix("system:node:");
    let Some(name) = name.filter(|_| is_self && is_node && parsed.not_kubelet_serving().is_none()) else {
        return Plan::none();
    };
    let node = context.stores.nodes.named("", name);
    if node.is_some_and(|n| owns(&n, parsed)) {
        return approve(
            context,
            csr,
            "Auto approving kubelet serving certificate: requested by its node, for its addresses.",
        );
    }
    Plan { requeue: Some(AGAIN), ..Plan::none() }
}

/// Whether every name in the request is the Node's name or one of its addresses.
fn owns(node: &Node, parsed: &Parsed) -> bool {
    let addresses = || node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let is_name = |name: &String| {
        node.metadata.name.as_ref() == Some(name)
            || addresses().any(|a| {
                a.address == *name && matches!(a.type_.as_str(), "Hostname" | "InternalDNS" | "ExternalDNS")
            })
    };
    let is_ip = |ip| addresses().any(|a| a.address.parse() == Ok(ip));
    parsed.dns.iter().all(is_name) && parsed.ips.iter().all(|ip| is_ip(*ip))
}

fn approve(context: &Context<'_>, csr: &CertificateSigningRequest, message: &str) -> Plan {
    let mut approved = csr.clone();
    let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("AutoApproved".into()),
        message: Some(message.into()),
        last_update_time: Some(Time(context.now)),
        last_transition_time: Some(Time(context.now)),
    });
    Plan::of(vec![update(&approved, "approval")])
}
