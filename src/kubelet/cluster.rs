//! The seam to the API server: the few requests that pods need. Keeps true: "not found" is an answer, not an
//! error; a pod is changed or deleted only if it is still the same pod (uid). Watching is left to `manager`.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount},
};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::Value;

use crate::{
    Error,
    error::Result,
    pod::{name, namespace, spec, uid},
};

/// What pods need from the API server.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// A ConfigMap, if there is one.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>>;
    /// A Secret, if there is one.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>>;
    /// All Services, for the variables that point at them.
    fn services(&self) -> Vec<Arc<Service>>;
    /// A token of the pod's service account, bound to the pod.
    async fn token(&self, pod: &Pod, audience: Option<&str>, seconds: i64) -> Result<String>;
    /// Patches the status; the pod as it is then, or `None` when there is no such pod any more.
    async fn patch_status(&self, pod: &Pod, patch: &Value) -> Result<Option<Pod>>;
    /// Deletes the pod for good. A pod that is gone, or another of the same name, counts as deleted.
    async fn delete(&self, pod: &Pod) -> Result<()>;
}

/// The API server.
pub struct Remote {
    kube: kube::Client,
    services: client::Informer<Service>,
}

impl Remote {
    /// Requests through `kube`, Services from the informer.
    #[must_use]
    pub fn new(kube: kube::Client, services: client::Informer<Service>) -> Self {
        Self { kube, services }
    }

    fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.kube.clone(), namespace(pod))
    }
}

/// Whether the API server answered with this HTTP code.
pub(crate) fn answered(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

#[async_trait]
impl Cluster for Remote {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>> {
        let api: Api<ConfigMap> = Api::namespaced(self.kube.clone(), namespace);
        api.get_opt(name).await.map_err(Error::api(format!("get configmap {namespace}/{name}")))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>> {
        let api: Api<Secret> = Api::namespaced(self.kube.clone(), namespace);
        api.get_opt(name).await.map_err(Error::api(format!("get secret {namespace}/{name}")))
    }

    fn services(&self) -> Vec<Arc<Service>> {
        self.services.list()
    }

    async fn token(&self, pod: &Pod, audience: Option<&str>, seconds: i64) -> Result<String> {
        let spec = spec(pod);
        let account =
            spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(name(pod).to_owned()),
            uid: Some(uid(pod).to_owned()),
        };
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audience.map(str::to_owned).into_iter().collect(),
                bound_object_ref: Some(bound),
                expiration_seconds: Some(seconds),
            },
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.kube.clone(), namespace(pod));
        let answer = api.create_token_request(account, &PostParams::default(), &request).await;
        let answer = answer.map_err(Error::api(format!("request a token of service account {account}")))?;
        Ok(answer.status.map(|status| status.token).unwrap_or_default())
    }

    async fn patch_status(&self, pod: &Pod, patch: &Value) -> Result<Option<Pod>> {
        let params = PatchParams::default();
        match self.pods(pod).patch_status(name(pod), &params, &Patch::Strategic(patch)).await {
            Ok(pod) => Ok(Some(pod)),
            // 409: another pod has this name by now (the uid in the patch differs).
            Err(error) if answered(&error, 404) || answered(&error, 409) => Ok(None),
            Err(error) => Err(Error::api(format!("patch the status of pod {}", name(pod)))(error)),
        }
    }

    async fn delete(&self, pod: &Pod) -> Result<()> {
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.pods(pod).delete(name(pod), &params).await {
            Ok(_) => Ok(()),
            Err(error) if answered(&error, 404) || answered(&error, 409) => Ok(()),
            Err(error) => Err(Error::api(format!("delete pod {}", name(pod)))(error)),
        }
    }
}
