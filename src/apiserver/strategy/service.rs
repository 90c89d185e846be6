//! Services: defaults by type, and the checks that need no allocation. Addresses and node ports are given out by
//! `alloc`.

use super::{Strategy, defaults::fill, podcheck};
use api::{
    Object,
    field::{FieldError, Path},
    name,
};
use serde_json::{Value, json};
use std::collections::HashSet;

pub(super) struct Service;

impl Strategy for Service {
    fn has_status(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        fill(
            object,
            "",
            &[
                ("spec.type", "\"ClusterIP\""),
                ("spec.sessionAffinity", "\"None\""),
                ("spec.ports[].protocol", "\"TCP\""),
            ],
        );
        super::defaults::visit(object, "spec.ports[]", &mut |port| {
            let unset = port.get("targetPort").is_none_or(|t| t.is_null() || *t == 0 || *t == "");
            if let Some(number) = port.get("port").cloned().filter(|_| unset) {
                port.insert("targetPort".into(), number);
            }
        });
        if object.str_at("spec.sessionAffinity") == "ClientIP" {
            fill(object, "", &[("spec.sessionAffinityConfig!.clientIP!.timeoutSeconds", "10800")]);
        }
        match object.str_at("spec.type") {
            "ExternalName" => return,
            "NodePort" => fill(object, "", &[("spec.externalTrafficPolicy", "\"Cluster\"")]),
            "LoadBalancer" => fill(
                object,
                "",
                &[
                    ("spec.externalTrafficPolicy", "\"Cluster\""),
                    ("spec.allocateLoadBalancerNodePorts", "true"),
                ],
            ),
            _ => {}
        }
        fill(object, "", &[("spec.internalTrafficPolicy", "\"Cluster\"")]);
    }

    fn prepare_create(&self, object: &mut Object) {
        object.set("status", json!({"loadBalancer": {}}));
    }

    fn validate(&self, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let Some(spec) = new.map_at("spec") else {
            return vec![FieldError::required(&Path::new("spec"), "")];
        };
        let path = Path::new("spec");
        let mut errors = Vec::new();
        let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        podcheck::enumeration(spec, "type", &types, &path, &mut errors);
        podcheck::enumeration(spec, "sessionAffinity", &["ClientIP", "None"], &path, &mut errors);
        podcheck::enumeration(spec, "internalTrafficPolicy", &["Cluster", "Local"], &path, &mut errors);
        let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        podcheck::enumeration(spec, "trafficDistribution", &distributions, &path, &mut errors);
        errors.extend(super::meta::labels(new.map_at("spec.selector"), &path.child("selector")));
        let (kind, headless) = (new.str_at("spec.type"), new.str_at("spec.clusterIP") == "None");
        if kind == "ExternalName" {
            let target = new.str_at("spec.externalName").trim_end_matches('.').to_lowercase();
            if target.is_empty() {
                errors.push(FieldError::required(&path.child("externalName"), ""));
            } else {
                let texts = name::dns1123_subdomain(&target).into_iter();
                errors.extend(
                    texts.map(|t| FieldError::invalid(&path.child("externalName"), target.as_str(), t)),
                );
            }
        } else if podcheck::items(spec, "ports").is_empty() && !headless {
            errors.push(FieldError::required(&path.child("ports"), ""));
        }
        if headless && matches!(kind, "NodePort" | "LoadBalancer") {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", why));
        }
        ports(new, &path.child("ports"), &mut errors);
        errors
    }

    fn check_name(&self, name: &str) -> Vec<String> {
        name::dns1035_label(name)
    }
}

fn ports(new: &Object, path: &Path, errors: &mut Vec<FieldError>) {
    let spec = new.map_at("spec").cloned().unwrap_or_default();
    let ports = podcheck::items(&spec, "ports");
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (i, port) in ports.iter().enumerate() {
        let (at, name) = (path.index(i), podcheck::text(port, "name"));
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(&at.child("name"), ""));
            }
        } else {
            let texts = name::dns1123_label(name).into_iter();
            errors.extend(texts.map(|text| FieldError::invalid(&at.child("name"), name, text)));
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
        podcheck::port_number(number, &at.child("port"), errors);
        podcheck::enumeration(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        podcheck::validate_port_or_name(port.get("targetPort"), &at.child("targetPort"), errors);
        if !numbers.insert((number, podcheck::text(port, "protocol"))) {
            errors
                .push(FieldError::duplicate(&at, json!({"port": number, "protocol": port.get("protocol")})));
        }
        let node_port = port.get("nodePort").and_then(Value::as_i64).unwrap_or_default();
        if node_port != 0 && new.str_at("spec.type") == "ClusterIP" {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&at.child("nodePort"), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_depend_on_the_type() {
        let check = |spec: Value, expect: Value| {
            let mut service = Object::try_from(json!({"spec": spec})).unwrap();
            Service.default(&mut service);
            assert_eq!(service.get("spec"), Some(&expect));
        };
        check(
            json!({"ports": [{"port": 80}]}),
            json!({"type": "ClusterIP", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}),
        );
        check(
            json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": "http"}]}),
            json!({"type": "NodePort",
            "sessionAffinity": "None", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]}),
        );
        check(
            json!({"type": "ExternalName", "externalName": "x.y"}),
            json!({"type": "ExternalName",
            "externalName": "x.y", "sessionAffinity": "None"}),
        );
    }

    #[test]
    fn ports_are_named_and_distinct() {
        let mut service =
            Object::try_from(json!({"spec": {"ports": [{"port": 80}, {"port": 80, "name": "x"}]}})).unwrap();
        Service.default(&mut service);
        let errors: Vec<_> = Service.validate(&service, None).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.ports[0].name: Required value",
                r#"spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}"#
            ]
        );
    }
}
