//! The node ports of a Service. Pure.

use std::collections::BTreeSet;

use api::Object;
use serde_json::Value;

/// Whether services of this type have node ports.
pub(super) fn wanted(service: &Object) -> bool {
    match service.str_at("spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service.get("spec.allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

/// Whether the service needs a port for health checks of a load balancer.
pub(super) fn wants_health_check(service: &Object) -> bool {
    service.str_at("spec.type") == "LoadBalancer" && service.str_at("spec.externalTrafficPolicy") == "Local"
}

pub(super) fn node_port(port: &Value) -> Option<u16> {
    let number = port.get("nodePort").and_then(Value::as_u64)?;
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// All node ports a service has.
pub(super) fn of(service: &Object) -> BTreeSet<u16> {
    let health = service.i64_at("spec.healthCheckNodePort").and_then(|port| u16::try_from(port).ok());
    let ports = service.list_at("spec.ports").iter().filter_map(node_port);
    ports.chain(health.filter(|port| *port != 0)).collect()
}
