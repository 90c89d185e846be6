//! Makes an image available. Keeps true: `IfNotPresent` with a local image contacts nobody. The back-off
//! between pulls is the machine's.

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;

use super::{machine::Failure, namespace, spec};
use crate::{cluster::Cluster, context::Context, runtime::cri};

/// What an image needed.
pub enum Got {
    /// It was there already.
    Present(cri::Image),
    /// It was pulled.
    Pulled(cri::Image),
}

/// When to pull, with upstream's default: always for `latest` or no tag.
fn policy<'a>(container: &'a Container, image: &str) -> &'a str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    container.image_pull_policy.as_deref().unwrap_or(if latest { "Always" } else { "IfNotPresent" })
}

/// The name with its tag, as the runtime wants it.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// The image of a container, pulled if the policy asks for it.
///
/// # Errors
/// `ErrImagePull`, `ErrImageNeverPull` or `ImageInspectError`, with the runtime's own words.
pub async fn ensure(
    context: &Context,
    pod: &Pod,
    container: &Container,
    sandbox: &cri::PodSandboxConfig,
) -> Result<Got, Failure> {
    let image = normalized(container.image.as_deref().unwrap_or_default());
    let failure = |reason: &str, message: String| Failure { reason: reason.into(), message };
    let inspect = |error: crate::runtime::RuntimeError| {
        failure("ImageInspectError", format!("Failed to inspect image \"{image}\": {error}"))
    };
    let present = context.runtime.image_status(&image).await.map_err(inspect)?;
    match (policy(container, &image), present) {
        ("Never" | "IfNotPresent", Some(found)) => return Ok(Got::Present(found)),
        ("Never", None) => {
            let text = format!("Container image \"{image}\" is not present with pull policy of Never");
            return Err(failure("ErrImageNeverPull", text));
        }
        _ => {}
    }
    let auth = credentials(context.cluster.as_ref(), pod, &image).await;
    let pulled = context.runtime.pull_image(&image, auth, Some(sandbox.clone())).await;
    pulled.map_err(|error| failure("ErrImagePull", format!("failed to pull image \"{image}\": {error}")))?;
    let found = context.runtime.image_status(&image).await.map_err(inspect)?;
    let missing = || failure("ErrImagePull", format!("image \"{image}\" is not there after its pull"));
    found.map(Got::Pulled).ok_or_else(missing)
}

/// The first of the pod's pull secrets that knows the image's registry.
async fn credentials(cluster: &dyn Cluster, pod: &Pod, image: &str) -> Option<cri::AuthConfig> {
    for reference in spec(pod).image_pull_secrets.iter().flatten() {
        let secret = cluster.secret(namespace(pod), &reference.name).await.ok().flatten()?;
        let data = secret.data.unwrap_or_default();
        let config = data.get(".dockerconfigjson").and_then(|bytes| serde_json::from_slice(&bytes.0).ok());
        let legacy = data.get(".dockercfg").and_then(|bytes| serde_json::from_slice::<Value>(&bytes.0).ok());
        let auths = config.map(|config: Value| config["auths"].clone()).or(legacy).unwrap_or_default();
        if let Some(found) = auths.as_object().and_then(|auths| auth_for(auths, image)) {
            return Some(found);
        }
    }
    None
}

fn auth_for(auths: &serde_json::Map<String, Value>, image: &str) -> Option<cri::AuthConfig> {
    let registry = match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    };
    let matches = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let host = key.split('/').next().unwrap_or(key);
        host == registry || (registry == "docker.io" && host == "index.docker.io")
    };
    let (server, entry) = auths.iter().find(|(key, _)| matches(key))?;
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    Some(cri::AuthConfig {
        username: text("username"),
        password: text("password"),
        auth: text("auth"),
        server_address: server.clone(),
        identity_token: text("identitytoken"),
        registry_token: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        let container = Container::default();
        for (image, expect) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("demo.local/web:1", "IfNotPresent"),
            ("host:5000/web", "Always"),
            ("web@sha256:1", "IfNotPresent"),
        ] {
            assert_eq!(policy(&container, image), expect, "{image}");
        }
        assert_eq!(normalized("host:5000/web"), "host:5000/web:latest");
    }
}
