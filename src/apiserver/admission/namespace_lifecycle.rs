//! NamespaceLifecycle: nothing is created in a namespace that is missing or being deleted, and the system's own
//! namespaces stay.

use api::status::Status;

use super::{Operation, Plugin, Review};

pub(crate) struct NamespaceLifecycle;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[async_trait::async_trait]
impl Plugin for NamespaceLifecycle {
    async fn admit(&self, review: &mut Review<'_>) -> api::Result<()> {
        if review.is("", "namespaces") && review.operation == Operation::Delete {
            return match IMMORTAL.contains(&review.name) {
                true => Err(review.forbidden("this namespace may not be deleted")),
                false => Ok(()),
            };
        }
        let exempt = review.namespace.is_empty()
            || review.is_any("", "namespaces")
            || review.operation == Operation::Delete
            || review.is_any("authorization.k8s.io", "localsubjectaccessreviews");
        if exempt {
            return Ok(());
        }
        let namespaces = review.server.resource("", "namespaces");
        let terminating = match review.server.cached_get(&namespaces, "", review.namespace) {
            Some(namespace) => namespace.str_at("status.phase") == "Terminating",
            // Another server may have made it a moment ago.
            None => {
                let namespace = review.server.get(&namespaces, "", review.namespace).await?;
                namespace.str_at("status.phase") == "Terminating"
            }
        };
        match terminating && review.operation == Operation::Create {
            true => Err(ending(review)),
            false => Ok(()),
        }
    }
}

fn ending(review: &Review<'_>) -> Status {
    let namespace = review.namespace;
    review
        .forbidden(format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        ))
        .with_cause(
            "NamespaceTerminating",
            &format!("namespace {namespace} is being terminated"),
            "metadata.namespace",
        )
}
