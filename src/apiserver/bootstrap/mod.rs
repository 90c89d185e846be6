//! What every cluster starts with: system namespaces, RBAC's bootstrap policy, the system's priority classes, the
//! default ServiceCIDR, and the ConfigMap that tells extension API servers whom to trust.
//!
//! [`reconcile()`] may be called by three servers at once and again at every start: an object that is there is completed,
//! never reset. Users' edits stay, and `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps a role as it is.

pub(crate) mod cluster_roles;
mod controllers;
mod objects;
pub(crate) mod policy;
mod reconcile;

use std::sync::Arc;

use api::Object;
use api::status::Reason;
use futures::{StreamExt, TryStreamExt};

use crate::server::Server;

/// Objects written at the same time.
const AT_ONCE: usize = 16;

/// One family of bootstrap objects.
struct Family {
    group: &'static str,
    plural: &'static str,
    objects: fn(&Server) -> Vec<Object>,
    /// What an existing object becomes; the same object when nothing is missing.
    complete: fn(Object, &Object) -> Object,
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// In this order: namespaces before what lives in them, roles before their bindings.
const FAMILIES: &[Family] = &[
    Family { group: "", plural: "namespaces", objects: |_| objects::namespaces(), complete: keep },
    Family { group: RBAC, plural: "clusterroles", objects: |_| cluster_roles(), complete: reconcile::role },
    Family {
        group: RBAC,
        plural: "clusterrolebindings",
        objects: |_| cluster_bindings(),
        complete: reconcile::binding,
    },
    Family {
        group: RBAC,
        plural: "roles",
        objects: |_| policy::ROLES.iter().map(|row| row.to_object()).collect(),
        complete: reconcile::role,
    },
    Family {
        group: RBAC,
        plural: "rolebindings",
        objects: |_| policy::BINDINGS.iter().map(|row| row.to_object()).collect(),
        complete: reconcile::binding,
    },
    Family {
        group: "scheduling.k8s.io",
        plural: "priorityclasses",
        objects: |_| objects::priority_classes(),
        complete: keep,
    },
    Family {
        group: "networking.k8s.io",
        plural: "servicecidrs",
        objects: |server| vec![objects::service_cidr(server.config())],
        complete: objects::ready_cidr,
    },
    Family {
        group: "",
        plural: "configmaps",
        objects: |server| vec![objects::authentication(server.config())],
        complete: objects::same_data,
    },
];

fn keep(existing: Object, _: &Object) -> Object {
    existing
}

fn cluster_roles() -> Vec<Object> {
    let system = cluster_roles::CLUSTER_ROLES.iter().map(|row| row.to_object());
    system.chain(controllers::CONTROLLERS.iter().map(controllers::Row::role)).collect()
}

fn cluster_bindings() -> Vec<Object> {
    let system = policy::CLUSTER_BINDINGS.iter().map(|row| row.to_object());
    system.chain(controllers::CONTROLLERS.iter().map(controllers::Row::binding)).collect()
}

/// Brings all bootstrap objects into being. An error leaves the rest undone; calling again is safe.
pub(crate) async fn reconcile(server: &Arc<Server>) -> api::Result<()> {
    for family in FAMILIES {
        let objects = (family.objects)(server);
        futures::stream::iter(objects)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |wanted| ensure(server, family, wanted))
            .await?;
    }
    Ok(())
}

async fn ensure(server: &Server, family: &Family, wanted: Object) -> api::Result<()> {
    let resource = server.resource(family.group, family.plural);
    let (namespace, name) = (wanted.namespace().to_owned(), wanted.name().to_owned());
    if server.cached_get(&resource, &namespace, &name).is_none() {
        match server.create(&resource, wanted.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.reason() == Reason::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let cached = server.cached_get(&resource, &namespace, &name);
    if cached.is_some_and(|existing| (family.complete)((*existing).clone(), &wanted) == *existing) {
        return Ok(());
    }
    let complete = |existing: Object| Ok((family.complete)(existing, &wanted));
    match server.update_with(&resource, &namespace, &name, complete).await {
        // Deleted in between: by whoever may do that; the next start brings it back.
        Err(error) if error.reason() == Reason::NotFound => Ok(()),
        done => done.map(drop),
    }
}
