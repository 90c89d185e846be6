//! What every namespace has: the ServiceAccount `default`, and the ConfigMap `kube-root-ca.crt` by which its pods
//! know the API server.
//!
//! Keeps true: both come back when deleted, and the CA is corrected when changed; nothing is made in a namespace
//! that is going.

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    controller::{Action, Context, Controller, Key, Plan, Resource, json, update},
    store::{Change, Stores},
};

const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const ABOUT_CA: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

fn live_namespace(context: &Context<'_>, key: &Key) -> bool {
    let active = |n: &Namespace| n.metadata.deletion_timestamp.is_none();
    context.stores.namespaces.get(key).is_some_and(|n| active(&n))
}

fn create<K: crate::store::Watched>(object: &K) -> Plan {
    let resource = Resource::of::<K>();
    Plan::of(vec![Action::Create { resource, object: json(object), announce: None, exists_ok: true }])
}

fn named(name: &str, namespace: &Key) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(namespace.name.clone()), ..Default::default() }
}

/// Makes the ServiceAccount `default`.
pub(crate) struct ServiceAccounts;

impl Controller for ServiceAccounts {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.namespaces.keys()
    }

    fn wake(&self, _: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Namespace(d) => vec![d.key()],
            Change::ServiceAccount(d) if d.new.is_none() => vec![Key::new("", d.key().namespace)],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let exists = context.stores.service_accounts.named(&key.name, "default").is_some();
        if exists || !live_namespace(context, key) {
            return Plan::none();
        }
        create(&ServiceAccount { metadata: named("default", key), ..Default::default() })
    }
}

/// Publishes the cluster's CA.
pub(crate) struct RootCa {
    /// The CA bundle as PEM.
    pub(crate) bundle: String,
}

impl Controller for RootCa {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.namespaces.keys()
    }

    fn wake(&self, _: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Namespace(d) => vec![d.key()],
            Change::ConfigMap(d) => vec![Key::new("", d.key().namespace)],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        if !live_namespace(context, key) {
            return Plan::none();
        }
        let Some(old) = context.stores.config_maps.named(&key.name, ROOT_CA) else {
            let mut new = ConfigMap { metadata: named(ROOT_CA, key), ..Default::default() };
            self.fill(&mut new);
            return create(&new);
        };
        let mut new = (*old).clone();
        self.fill(&mut new);
        Plan::of((new != *old).then(|| update(&new, "")).into_iter().collect())
    }
}

impl RootCa {
    fn fill(&self, map: &mut ConfigMap) {
        map.data = Some([("ca.crt".to_owned(), self.bundle.clone())].into());
        map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.into(), ABOUT_CA.into());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::testing::{NOON, at, cluster_meta, context, load};

    fn stores(going: bool) -> Stores {
        let stores = Stores::default();
        let mut namespace = json!({"metadata": cluster_meta("ns")});
        if going {
            namespace["metadata"]["deletionTimestamp"] = json!(NOON);
        }
        load::<Namespace>(&stores, namespace);
        stores
    }

    fn run(controller: &dyn Controller, stores: &Stores) -> Plan {
        let answers = HashMap::new();
        controller.reconcile(&context(stores, &answers, at(NOON)), &Key::new("", "ns"))
    }

    #[test]
    fn default_account() {
        assert_eq!(run(&ServiceAccounts, &stores(false)).actions.len(), 1);
        assert_eq!(run(&ServiceAccounts, &stores(true)).actions.len(), 0);
        let full = stores(false);
        load::<ServiceAccount>(&full, json!({"metadata": crate::testing::meta("default")}));
        assert_eq!(run(&ServiceAccounts, &full), Plan::none());
    }

    #[test]
    fn root_ca() {
        let controller = RootCa { bundle: "PEM".into() };
        let stores = stores(false);
        let plan = run(&controller, &stores);
        let [Action::Create { object, .. }] = &plan.actions[..] else { panic!("{plan:?}") };
        let map: ConfigMap = load(&stores, object.clone());
        assert_eq!(run(&controller, &stores), Plan::none());
        stores.put(ConfigMap { data: None, ..map });
        assert!(matches!(&run(&controller, &stores).actions[..], [Action::Update { .. }]));
    }
}
