//! The core group, and its events under their second name.

use super::{ANY_METHOD, GET_POST, GroupRows, Row, SCALE, STATUS, Sub, Verbs};
use crate::table::{cluster, core as columns, events, nodes, pods};

const CREATE: Verbs = Verbs::CREATE;

pub(super) const GROUPS: &[GroupRows] = &[GroupRows {
    group: "",
    version: "v1",
    rows: &[
        Row::new("Binding", "bindings").verbs(CREATE),
        Row::new("ComponentStatus", "componentstatuses")
            .short(&["cs"])
            .cluster()
            .verbs(Verbs::GET.or(Verbs::LIST))
            .columns(columns::COMPONENT_STATUSES),
        Row::new("ConfigMap", "configmaps").short(&["cm"]).columns(columns::CONFIG_MAPS),
        Row::new("Endpoints", "endpoints")
            .short(&["ep"])
            .prefix("services/endpoints")
            .columns(columns::ENDPOINTS),
        Row::new("Event", "events").short(&["ev"]).columns(events::EVENTS),
        Row::new("LimitRange", "limitranges").short(&["limits"]).columns(columns::CREATED_AT),
        Row::new("Namespace", "namespaces")
            .short(&["ns"])
            .cluster()
            .verbs(Verbs::ALL.without(Verbs::DELETE_COLLECTION))
            .subs(&[Sub::of("finalize", Verbs::UPDATE, ("", "", "")), STATUS])
            .columns(columns::NAMESPACES),
        Row::new("Node", "nodes")
            .short(&["no"])
            .cluster()
            .prefix("minions")
            .subs(&[Sub::connect("proxy", ANY_METHOD, "NodeProxyOptions"), STATUS])
            .columns(nodes::NODES),
        Row::new("PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .subs(&[STATUS])
            .columns(cluster::CLAIMS),
        Row::new("PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .cluster()
            .subs(&[STATUS])
            .columns(cluster::VOLUMES),
        Row::new("Pod", "pods")
            .short(&["po"])
            .all()
            .subs(&[
                Sub::connect("attach", GET_POST, "PodAttachOptions"),
                Sub::of("binding", CREATE, ("", "v1", "Binding")),
                Sub::own("ephemeralcontainers"),
                Sub::of("eviction", CREATE, ("policy", "v1", "Eviction")),
                Sub::connect("exec", GET_POST, "PodExecOptions"),
                Sub::of("log", Verbs::GET, ("", "", "")),
                Sub::connect("portforward", GET_POST, "PodPortForwardOptions"),
                Sub::connect("proxy", ANY_METHOD, "PodProxyOptions"),
                Sub::own("resize"),
                STATUS,
            ])
            .columns(pods::PODS),
        Row::new("PodTemplate", "podtemplates").columns(columns::POD_TEMPLATES),
        Row::new("ReplicationController", "replicationcontrollers")
            .short(&["rc"])
            .all()
            .prefix("controllers")
            .subs(&[SCALE, STATUS])
            .columns(columns::REPLICATION_CONTROLLERS),
        Row::new("ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .subs(&[STATUS])
            .columns(columns::QUOTAS),
        Row::new("Secret", "secrets").columns(columns::SECRETS),
        Row::new("ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .subs(&[Sub::of("token", CREATE, ("authentication.k8s.io", "v1", "TokenRequest"))])
            .columns(columns::SERVICE_ACCOUNTS),
        Row::new("Service", "services")
            .short(&["svc"])
            .all()
            .prefix("services/specs")
            .subs(&[Sub::connect("proxy", ANY_METHOD, "ServiceProxyOptions"), STATUS])
            .columns(columns::SERVICES),
    ],
}];

pub(super) const EVENTS: &[GroupRows] = &[GroupRows {
    group: "events.k8s.io",
    version: "v1",
    rows: &[Row::new("Event", "events").short(&["ev"]).stored("", "v1").columns(events::EVENTS_V1)],
}];
