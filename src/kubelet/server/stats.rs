//! Resource usage from the runtime: `/stats/summary` and the metrics that dashboards read.

use std::fmt::Write;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{App, Shared};
use crate::{
    pod::{name, namespace, uid},
    runtime::{cri, label},
};

fn number(value: Option<&cri::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

fn figures(one: &cri::ContainerStats) -> (u64, u64) {
    let cpu = one.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref());
    let memory = one.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    (number(cpu), number(memory))
}

async fn all(app: &App) -> Vec<cri::ContainerStats> {
    app.context.runtime.stats().await.unwrap_or_default()
}

fn label_of<'a>(one: &'a cri::ContainerStats, key: &str) -> &'a str {
    let labels = one.attributes.as_ref().map(|attributes| &attributes.labels);
    labels.and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

pub(super) async fn summary(State(app): Shared) -> Response {
    let stats = all(&app).await;
    let now = Timestamp::now().to_string();
    let pods: Vec<Value> = app
        .manager
        .snapshots()
        .iter()
        .map(|snapshot| {
            let own = stats.iter().filter(|one| label_of(one, label::POD_UID) == uid(&snapshot.pod));
            let (mut cpu, mut memory) = (0, 0);
            let containers: Vec<Value> = own
                .map(|one| {
                    let (used, working) = figures(one);
                    (cpu, memory) = (cpu + used, memory + working);
                    json!({"name": label_of(one, label::CONTAINER_NAME),
                        "cpu": {"time": now, "usageCoreNanoSeconds": used},
                        "memory": {"time": now, "workingSetBytes": working}})
                })
                .collect();
            json!({
                "podRef": {"name": name(&snapshot.pod), "namespace": namespace(&snapshot.pod), "uid": uid(&snapshot.pod)},
                "startTime": snapshot.pod.status.as_ref().and_then(|status| status.start_time.clone()),
                "containers": containers,
                "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
                "memory": {"time": now, "workingSetBytes": memory},
            })
        })
        .collect();
    Json(json!({"node": {"nodeName": app.context.config.node}, "pods": pods})).into_response()
}

pub(super) async fn metrics(State(app): Shared) -> Response {
    let mut out = String::from("# TYPE container_cpu_usage_seconds_total counter\n");
    let stats = all(&app).await;
    let labels = |one: &cri::ContainerStats| {
        format!(
            "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
            label_of(one, label::CONTAINER_NAME),
            label_of(one, label::POD_NAMESPACE),
            label_of(one, label::POD_NAME)
        )
    };
    for one in &stats {
        let (cpu, _) = figures(one);
        let _ = writeln!(
            out,
            "container_cpu_usage_seconds_total{} {}.{:09}",
            labels(one),
            cpu / 1_000_000_000,
            cpu % 1_000_000_000
        );
    }
    out.push_str("# TYPE container_memory_working_set_bytes gauge\n");
    for one in &stats {
        let _ = writeln!(out, "container_memory_working_set_bytes{} {}", labels(one), figures(one).1);
    }
    let _ = writeln!(
        out,
        "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}",
        app.manager.snapshots().len()
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out).into_response()
}
