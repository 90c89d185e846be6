//! Pods on this node: what is known of one (`view`), what to do next (`machine`, pure), who does it
//! (`driver`), and what the API is told (`status`, pure). Which pods there are is left to `manager`.

pub mod container;
pub mod driver;
pub mod env;
pub mod hooks;
pub mod images;
pub mod machine;
pub mod probe;
pub mod resources;
pub mod sandbox;
pub mod status;
mod terms;
pub mod view;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// The pod's specification; an empty one cannot occur on an object that the API server admitted.
pub(crate) fn spec(pod: &Pod) -> std::borrow::Cow<'_, PodSpec> {
    pod.spec.as_ref().map_or_else(Default::default, std::borrow::Cow::Borrowed)
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `NAME_NAMESPACE(UID)`, as the kubelet's texts name a pod.
pub(crate) fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The init containers.
pub(crate) fn inits(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// A container of the pod by name, init containers too.
pub(crate) fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    inits(spec).iter().chain(&spec.containers).find(|container| container.name == name)
}
