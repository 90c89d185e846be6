//! Ingresses, policies, addresses, endpoint slices.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME,
    cells::{NONE, UNSET, first_few, int_of, or, plain, selector, str_of, text},
};
use crate::{Object, catalog::Col};

pub(crate) const ADDRESSES: &[Col] = &[
    NAME,
    text("ParentRef", "The resource that the address belongs to.", |o, _| {
        let Some(parent) = o.get("spec.parentRef") else { return "".into() };
        let parts = ["group", "resource", "namespace", "name"].map(|f| str_of(parent, f));
        let [group, resource, namespace, name] = parts;
        let kind = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        join(&[&kind, namespace, name]).into()
    }),
];

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|p| !p.is_empty()).copied().collect::<Vec<_>>().join("/")
}

pub(crate) const SERVICE_CIDRS: &[Col] = &[
    NAME,
    text("CIDRs", "The ranges that service addresses are taken from.", |o, _| {
        o.list_at("spec.cidrs").iter().map(plain).collect::<Vec<_>>().join(",").into()
    }),
    AGE,
];

pub(crate) const INGRESS_CLASSES: &[Col] = &[
    NAME,
    text("Controller", "Controller that is responsible for handling this class", |o, _| {
        or(o, "spec.controller", "")
    }),
    text("Parameters", "A reference to a resource with additional parameters", |o, _| {
        let Some(p) = o.get("spec.parameters") else { return NONE.into() };
        let (group, kind, name) = (str_of(p, "apiGroup"), str_of(p, "kind"), str_of(p, "name"));
        if group.is_empty() {
            format!("{kind}/{name}").into()
        } else {
            format!("{kind}.{group}/{name}").into()
        }
    }),
    AGE,
];

pub(crate) const INGRESSES: &[Col] = &[
    NAME,
    text("Class", "The name of the IngressClass resource that should be used", |o, _| {
        let annotation = o.annotation("kubernetes.io/ingress.class").unwrap_or(NONE);
        or(o, "spec.ingressClassName", annotation)
    }),
    text("Hosts", "Hosts that incoming requests are matched against before the ingress rule", hosts),
    text("Address", "Where the ingress can be reached", |o, _| {
        let ingress = o.list_at("status.loadBalancer.ingress").iter();
        let address =
            ingress.map(|i| if str_of(i, "ip").is_empty() { str_of(i, "hostname") } else { str_of(i, "ip") });
        address.collect::<Vec<_>>().join(",").into()
    }),
    text("Ports", "Ports of TLS configurations that open", |o, _| {
        if o.list_at("spec.tls").is_empty() { "80" } else { "80, 443" }.into()
    }),
    AGE,
];

fn hosts(ingress: &Object, _: Timestamp) -> Value {
    let rules = ingress.list_at("spec.rules").iter();
    let hosts: Vec<_> = rules.map(|r| str_of(r, "host").to_owned()).filter(|h| !h.is_empty()).collect();
    if hosts.is_empty() { "*".into() } else { first_few(&hosts, 3).into() }
}

pub(crate) const POLICIES: &[Col] = &[
    NAME,
    text("Pod-Selector", "The pods that the policy applies to.", |o, _| {
        selector(o.get("spec.podSelector")).into()
    }),
    AGE,
];

pub(crate) const ENDPOINT_SLICES: &[Col] = &[
    NAME,
    text("AddressType", "The type of address carried by this EndpointSlice.", |o, _| {
        or(o, "addressType", "")
    }),
    text("Ports", "The network ports exposed by each endpoint in this slice.", |o, _| {
        let ports = o.list_at("ports");
        let number = |p: &Value| match int_of(p, "port") {
            0 => "*".to_owned(),
            port => port.to_string(),
        };
        if ports.is_empty() {
            UNSET.into()
        } else {
            first_few(&ports.iter().map(number).collect::<Vec<_>>(), 3).into()
        }
    }),
    text("Endpoints", "The addresses of the endpoints.", |o, _| {
        let endpoints = o.list_at("endpoints").iter();
        let addresses = endpoints.flat_map(|e| e["addresses"].as_array().into_iter().flatten()).map(plain);
        let all: Vec<_> = addresses.collect();
        if all.is_empty() { UNSET.into() } else { first_few(&all, 3).into() }
    }),
    AGE,
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slice() {
        let slice = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
        let slice = Object::try_from(slice).unwrap();
        let cells: Vec<_> = ENDPOINT_SLICES.iter().map(|c| (c.cell)(&slice, crate::time::now())).collect();
        assert_eq!(json!(cells), json!(["x", "IPv4", "8080", "10.0.0.1,10.0.0.2", "<unknown>"]));
    }
}
