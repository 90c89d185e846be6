//! A container's environment: variables from values, ConfigMaps, Secrets, pod fields, resources and
//! Services, and the expansion of `$(NAME)`. Keeps true: later definitions win, an unresolvable reference
//! stays as it is written. Asks only `Cluster`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod, Service};

use super::{machine::Failure, name, namespace, resources, spec, status::Host, uid};
use crate::cluster::Cluster;

/// Variables in the order in which they were defined.
pub type Variables = Vec<(String, String)>;

/// Expands `$(NAME)`; `$$` is a dollar sign, an unknown name stays as written.
#[must_use]
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            out.push_str(&lookup(name).unwrap_or_else(|| format!("$({name})")));
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Looks a name up in variables.
#[must_use]
pub fn value(variables: &Variables, name: &str) -> Option<String> {
    variables.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

fn set(variables: &mut Variables, name: String, value: String) {
    variables.retain(|(key, _)| *key != name);
    variables.push((name, value));
}

/// Everything that a variable may refer to.
pub struct Source<'a> {
    /// The API server.
    pub cluster: &'a dyn Cluster,
    /// The pod.
    pub pod: &'a Pod,
    /// The pod's addresses.
    pub ips: &'a [String],
    /// The node.
    pub host: &'a Host,
    /// The node's allocatable resources, for limits that are not set.
    pub allocatable: &'a resources::List,
}

/// A container's whole environment.
///
/// # Errors
/// `CreateContainerConfigError` where a ConfigMap, Secret or key is missing and not optional.
pub async fn variables(source: &Source<'_>, container: &Container) -> Result<Variables, Failure> {
    let mut result = Variables::new();
    let links = spec(source.pod).enable_service_links.unwrap_or(true);
    for (key, value) in service_variables(&source.cluster.services(), namespace(source.pod), links) {
        set(&mut result, key, value);
    }
    for from in container.env_from.iter().flatten() {
        for (key, value) in all_of(source, from).await? {
            set(&mut result, key, value);
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = one(source, container, variable, &result).await? {
            set(&mut result, variable.name.clone(), value);
        }
    }
    Ok(result)
}

fn config_error(message: String) -> Failure {
    Failure { reason: "CreateContainerConfigError".into(), message }
}

async fn config_map(source: &Source<'_>, name: &str) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let found = source.cluster.config_map(namespace(source.pod), name).await;
    Ok(found.map_err(|error| config_error(error.chain()))?.map(|map| map.data.unwrap_or_default()))
}

async fn secret(source: &Source<'_>, name: &str) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let found = source.cluster.secret(namespace(source.pod), name).await;
    let found = found.map_err(|error| config_error(error.chain()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(found.map(|secret| {
        secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, text(bytes.0))).collect()
    }))
}

async fn all_of(source: &Source<'_>, from: &EnvFromSource) -> Result<BTreeMap<String, String>, Failure> {
    let (kind, name, optional, found) = if let Some(reference) = &from.config_map_ref {
        ("configmap", &reference.name, reference.optional, config_map(source, &reference.name).await?)
    } else if let Some(reference) = &from.secret_ref {
        ("secret", &reference.name, reference.optional, secret(source, &reference.name).await?)
    } else {
        return Ok(BTreeMap::new());
    };
    let prefix = from.prefix.as_deref().unwrap_or_default();
    match found {
        Some(data) => Ok(data.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)).collect()),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => Err(config_error(format!("{kind} \"{name}\" not found"))),
    }
}

async fn one(
    source: &Source<'_>,
    container: &Container,
    variable: &EnvVar,
    so_far: &Variables,
) -> Result<Option<String>, Failure> {
    match &variable.value_from {
        None => {
            let text = variable.value.as_deref().unwrap_or_default();
            Ok(Some(expand(text, &|name| value(so_far, name))))
        }
        Some(from) => referred(source, container, from).await,
    }
}

async fn referred(
    source: &Source<'_>,
    container: &Container,
    from: &EnvVarSource,
) -> Result<Option<String>, Failure> {
    if let Some(reference) = &from.field_ref {
        return match field(source.pod, &reference.field_path, source.ips, source.host) {
            Some(value) => Ok(Some(value)),
            None => Err(config_error(format!("unsupported fieldPath: {}", reference.field_path))),
        };
    }
    if let Some(reference) = &from.resource_field_ref {
        let other = reference.container_name.as_deref().filter(|name| !name.is_empty());
        let pod_spec = spec(source.pod);
        let of = other.and_then(|name| super::find(&pod_spec, name)).unwrap_or(container);
        let divisor = reference.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
        return Ok(resources::field(of, &reference.resource, divisor, source.allocatable));
    }
    let (kind, name, key, optional, data) = if let Some(reference) = &from.config_map_key_ref {
        (
            "configmap",
            &reference.name,
            &reference.key,
            reference.optional,
            config_map(source, &reference.name).await?,
        )
    } else if let Some(reference) = &from.secret_key_ref {
        (
            "secret",
            &reference.name,
            &reference.key,
            reference.optional,
            secret(source, &reference.name).await?,
        )
    } else {
        return Ok(None);
    };
    let optional = optional == Some(true);
    let title = if kind == "secret" { "Secret" } else { "ConfigMap" };
    match data {
        Some(data) => match data.get(key) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => {
                let text = format!("couldn't find key {key} in {title} {}/{name}", namespace(source.pod));
                Err(config_error(text))
            }
        },
        None if optional => Ok(None),
        None => Err(config_error(format!("{kind} \"{name}\" not found"))),
    }
}

/// A pod field by its path, as the downward API has it.
#[must_use]
pub fn field(pod: &Pod, path: &str, ips: &[String], host: &Host) -> Option<String> {
    let metadata = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = spec(pod);
    Some(match path {
        "metadata.name" => name(pod).to_owned(),
        "metadata.namespace" => namespace(pod).to_owned(),
        "metadata.uid" => uid(pod).to_owned(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => host.ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => host.ips.join(","),
        "status.podIP" => ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => ips.join(","),
        _ => return None,
    })
}

/// `a['b']` as `(a, b)`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    Some((map, key))
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Variables that point at Services: those of the pod's namespace, and the master's from `default`.
#[must_use]
pub fn service_variables(services: &[Arc<Service>], of: &str, links: bool) -> Variables {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (name, home) =
            (service.metadata.name.as_deref().unwrap_or_default(), service.metadata.namespace.as_deref());
        let is_master = home == Some("default") && name == "kubernetes";
        let own = links && home == Some(of);
        if own || (is_master && !chosen.contains_key(name)) {
            chosen.insert(name, service);
        }
    }
    chosen.into_iter().flat_map(|(name, service)| of_service(name, service)).collect()
}

fn of_service(name: &str, service: &Service) -> Variables {
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None");
    let ports = spec.ports.unwrap_or_default();
    let (Some(address), Some(first)) = (address, ports.first()) else { return Variables::new() };
    let prefix = name.to_uppercase().replace('-', "_");
    let mut out = vec![
        (format!("{prefix}_SERVICE_HOST"), address.clone()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports.iter().filter(|port| port.name.as_deref().is_some_and(|name| !name.is_empty())) {
        let title = port.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
        out.push((format!("{prefix}_SERVICE_PORT_{title}"), port.port.to_string()));
    }
    let url = |protocol: &str, port: i32| format!("{}://{address}:{port}", protocol.to_lowercase());
    let protocol =
        |port: &k8s_openapi::api::core::v1::ServicePort| port.protocol.clone().unwrap_or("TCP".into());
    out.push((format!("{prefix}_PORT"), url(&protocol(first), first.port)));
    for port in &ports {
        let (protocol, number) = (protocol(port), port.port);
        let base = format!("{prefix}_PORT_{number}_{protocol}");
        out.push((base.clone(), url(&protocol, number)));
        out.push((format!("{base}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{base}_PORT"), number.to_string()));
        out.push((format!("{base}_ADDR"), address.clone()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expect) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("a$b", "a$b"),
            ("ü$(A)", "ü1"),
        ] {
            assert_eq!(expand(text, &lookup), expect, "{text}");
        }
    }

    #[test]
    fn a_service_has_its_variables() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}
        }))
        .unwrap();
        let variables = service_variables(&[Arc::new(service)], "other", false);
        let get = |name: &str| value(&variables, name);
        assert_eq!(get("KUBERNETES_SERVICE_HOST").as_deref(), Some("10.96.0.1"));
        assert_eq!(get("KUBERNETES_SERVICE_PORT_HTTPS").as_deref(), Some("443"));
        assert_eq!(get("KUBERNETES_PORT_443_TCP").as_deref(), Some("tcp://10.96.0.1:443"));
    }

    #[test]
    fn fields_of_the_pod() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "labels": {"app": "web", "x": "q\"z"}}
        }))
        .unwrap();
        let host = Host { ips: vec!["1.2.3.4".into()], runtime: String::new() };
        let get = |path: &str| field(&pod, path, &["10.0.0.1".into()], &host);
        assert_eq!(get("metadata.labels['app']").as_deref(), Some("web"));
        assert_eq!(get("metadata.labels").as_deref(), Some("app=\"web\"\nx=\"q\\\"z\""));
        assert_eq!(get("status.podIP").as_deref(), Some("10.0.0.1"));
        assert_eq!(get("status.hostIP").as_deref(), Some("1.2.3.4"));
        assert_eq!(get("spec.nope"), None);
    }
}
