//! Requests as kubelets make them, and as they must not be.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Node};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use serde_json::{Value, json};
use x509_parser::pem::parse_x509_pem;

use super::{KUBELET_CLIENT, KUBELET_SERVING, approving::Approving, signing::*};
use crate::{
    controller::{Action, Answer, Controller, Key, Plan, Question},
    store::Stores,
    testing::{NOON, at, cluster_meta, context, load, merge},
};

fn request(common_name: &str, organization: &str, names: &[&str], ca: bool) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    for name in names {
        let name = match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names.push(name);
    }
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    STANDARD.encode(pem)
}

fn csr(signer: &str, request: &str, extra: Value) -> Value {
    let usage = if signer == KUBELET_SERVING { "server auth" } else { "client auth" };
    let mut value = json!({"metadata": cluster_meta("csr"), "spec": {"signerName": signer, "request": request,
        "usages": ["digital signature", usage], "username": "system:node:w1",
        "groups": ["system:nodes", "system:authenticated"]}});
    merge(&mut value, &extra);
    value
}

fn stores(csr: Value) -> Stores {
    let stores = Stores::default();
    let addresses =
        json!([{"type": "InternalIP", "address": "10.90.0.21"}, {"type": "Hostname", "address": "w1"}]);
    load::<Node>(&stores, json!({"metadata": cluster_meta("w1"), "status": {"addresses": addresses}}));
    load::<CertificateSigningRequest>(&stores, csr);
    stores
}

/// Runs the approver; reviews of these subresources are allowed.
fn approve(csr: Value, allowed: &[&str]) -> Plan {
    let stores = stores(csr);
    let mut answers = HashMap::new();
    loop {
        let plan = Approving.reconcile(&context(&stores, &answers, at(NOON)), &Key::new("", "csr"));
        if plan.questions.is_empty() {
            return plan;
        }
        for question in plan.questions {
            let Question::Review(text) = &question else { panic!("{question:?}") };
            let yes = allowed.iter().any(|a| text.contains(&format!("\"subresource\":\"{a}\"")));
            answers.insert(question, Answer::Allowed(yes));
        }
    }
}

fn message(plan: &Plan) -> Option<String> {
    let [Action::Update { subresource: "approval", object, .. }] = &plan.actions[..] else { return None };
    object["status"]["conditions"][0]["message"].as_str().map(Into::into)
}

#[test]
fn clients() {
    let node = request("system:node:w1", "system:nodes", &[], false);
    let check = |csr: Value, allowed: &[&str], expect: Option<&str>| {
        let got = message(&approve(csr, allowed));
        assert_eq!(got.is_some(), expect.is_some(), "{got:?}");
        assert!(got.unwrap_or_default().contains(expect.unwrap_or_default()));
    };
    let own = || csr(KUBELET_CLIENT, &node, json!({}));
    let bootstrap = || csr(KUBELET_CLIENT, &node, json!({"spec": {"username": "system:bootstrap:abc"}}));
    check(own(), &["selfnodeclient"], Some("self kubelet"));
    check(own(), &["nodeclient"], Some("Auto approving kubelet client"));
    check(own(), &[], None);
    check(bootstrap(), &["nodeclient"], Some("Auto approving kubelet client"));
    check(bootstrap(), &["selfnodeclient"], None);
    let all = &["nodeclient", "selfnodeclient"];
    check(csr(KUBELET_CLIENT, &request("admin", "system:masters", &[], false), json!({})), all, None);
    check(
        csr(KUBELET_CLIENT, &request("system:node:w1", "system:nodes", &["w1"], false), json!({})),
        all,
        None,
    );
    check(
        csr(
            KUBELET_CLIENT,
            &node,
            json!({"spec": {"usages": ["client auth", "cert sign", "digital signature"]}}),
        ),
        all,
        None,
    );
    check(csr("kubernetes.io/kube-apiserver-client", &node, json!({})), all, None);
    let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
    check(csr(KUBELET_CLIENT, &node, denied), all, None);
}

#[test]
fn serving() {
    let check = |names: &[&str], extra: Value, expect: bool| {
        let request = request("system:node:w1", "system:nodes", names, false);
        let plan = approve(csr(KUBELET_SERVING, &request, extra), &[]);
        assert_eq!(message(&plan).is_some(), expect, "{names:?}");
    };
    check(&["w1", "10.90.0.21"], json!({}), true);
    check(&["10.90.0.22"], json!({}), false);
    check(&["w1", "kubernetes.default.svc"], json!({}), false);
    check(&[], json!({}), false);
    check(&["w1"], json!({"spec": {"username": "system:node:w2"}}), false);
    check(&["w1"], json!({"spec": {"groups": ["system:authenticated"]}}), false);
}

fn signing() -> Signing {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let authority = Arc::new(Authority::new(&certificate.pem(), &key.serialize_pem()).unwrap());
    Signing {
        authorities: SIGNERS.iter().map(|s| (*s, authority.clone())).collect(),
        duration: Duration::from_secs(365 * 24 * 3600),
    }
}

fn sign(csr: Value) -> Value {
    let stores = stores(csr);
    let answers = HashMap::new();
    let plan = signing().reconcile(&context(&stores, &answers, at(NOON)), &Key::new("", "csr"));
    match &plan.actions[..] {
        [Action::Update { subresource: "status", object, .. }] => object["status"].clone(),
        _ => json!(null),
    }
}

#[test]
fn signs_what_is_approved_and_nothing_more() {
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    let node = request("system:node:w1", "system:nodes", &[], true);
    assert_eq!(sign(csr(KUBELET_CLIENT, &node, json!({}))), json!(null));
    let mut with_life = csr(KUBELET_CLIENT, &node, approved.clone());
    with_life["spec"]["expirationSeconds"] = json!(3600);
    let status = sign(with_life);
    let pem = STANDARD.decode(status["certificate"].as_str().expect("a certificate")).unwrap();
    let (_, pem) = parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=system:node:w1, O=system:nodes");
    assert_eq!(certificate.validity().not_after.timestamp(), at(NOON).as_second() + 3600);
    assert_eq!(certificate.validity().not_before.timestamp(), at(NOON).as_second() - 300);
    assert!(!certificate.is_ca(), "the request asked to be a CA");
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth);
    // Approved by a person, but against the signer's rules.
    let masters = request("system:node:w1", "system:masters", &[], false);
    let status = sign(csr(KUBELET_CLIENT, &masters, approved.clone()));
    assert_eq!(status["conditions"][1]["type"], "Failed");
    assert_eq!(status.get("certificate"), None);
    assert_eq!(sign(csr("example.com/other", &node, approved)), json!(null));
}
