//! A kubelet's pods on a real containerd, in a network namespace without a way out, with an API server made
//! of a map. Needs root, containerd, runc, the CNI plug-ins and busybox; says so when something is missing.

#![expect(clippy::unwrap_used, reason = "a test may end at the first surprise")]

#[path = "support/machine.rs"]
mod machine;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use client::{Change, Recorder};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kubelet::{
    Cgroups, Config, Flags, Result, cluster::Cluster, context::Context, manager::Manager, pod::status::Host,
    runtime::Cri,
};
use machine::Machine;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// An API server of one map: enough for pods' statuses and deletes.
#[derive(Default)]
struct Api {
    pods: Mutex<HashMap<String, Pod>>,
}

impl Api {
    fn pod(&self, name: &str) -> Option<Pod> {
        self.pods.lock().unwrap().get(name).cloned()
    }

    fn put(&self, pod: Pod) -> Pod {
        Self::store(&mut self.pods.lock().unwrap(), pod)
    }

    fn store(pods: &mut HashMap<String, Pod>, mut pod: Pod) -> Pod {
        let name = pod.metadata.name.clone().unwrap();
        let version = pods.get(&name).and_then(|pod| pod.metadata.resource_version.clone());
        let version = version.map_or(1, |version| version.parse::<u64>().unwrap() + 1);
        pod.metadata.resource_version = Some(version.to_string());
        pods.insert(name, pod.clone());
        pod
    }
}

fn merge(status: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().unwrap() {
        if key == "conditions" {
            let list = status["conditions"].as_array().cloned().unwrap_or_default();
            let mut all: Vec<Value> = value.as_array().unwrap().clone();
            all.extend(
                list.into_iter()
                    .filter(|old| !value.as_array().unwrap().iter().any(|new| new["type"] == old["type"])),
            );
            status["conditions"] = all.into();
        } else {
            status[key] = value.clone();
        }
    }
}

#[async_trait]
impl Cluster for Api {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<ConfigMap>> {
        let map = json!({"metadata": {"name": name}, "data": {"greeting": "hello from the map"}});
        Ok((name == "settings").then(|| serde_json::from_value(map).unwrap()))
    }

    async fn secret(&self, _: &str, name: &str) -> Result<Option<Secret>> {
        let secret = json!({"metadata": {"name": name}, "data": {"password": "c2VzYW1l"}});
        Ok((name == "keys").then(|| serde_json::from_value(secret).unwrap()))
    }

    fn services(&self) -> Vec<Arc<Service>> {
        Vec::new()
    }

    async fn token(&self, _: &Pod, _: Option<&str>, _: i64) -> Result<String> {
        Ok("a-token".into())
    }

    async fn patch_status(&self, pod: &Pod, patch: &Value) -> Result<Option<Pod>> {
        let mut pods = self.pods.lock().unwrap();
        let Some(known) = pods.get(pod.metadata.name.as_deref().unwrap()) else { return Ok(None) };
        let mut value = serde_json::to_value(known).unwrap();
        let mut status = value.get("status").cloned().unwrap_or(json!({}));
        merge(&mut status, &patch["status"]);
        value["status"] = status;
        Ok(Some(Self::store(&mut pods, serde_json::from_value(value).unwrap())))
    }

    async fn delete(&self, pod: &Pod) -> Result<()> {
        self.pods.lock().unwrap().remove(pod.metadata.name.as_deref().unwrap());
        Ok(())
    }
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

fn context(machine: &Machine, api: &Arc<Api>) -> Arc<Context> {
    use clap::Parser;
    let root = machine.directory().join("kubelet");
    let file = machine.directory().join("config.yaml");
    let logs = machine.directory().join("logs");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\npodLogsDir: {}\nclusterDNS: [10.96.0.10]\n",
        logs.display()
    );
    std::fs::write(&file, text).unwrap();
    let arguments = [
        "kubelet".to_owned(),
        format!("--config={}", file.display()),
        "--kubeconfig=/nonexistent".into(),
        "--hostname-override=t1".into(),
        "--node-ip=10.90.0.99".into(),
        format!("--root-dir={}", root.display()),
        format!("--cgroup-root={}", machine.name()),
        format!("--container-runtime-endpoint=unix://{}", machine.socket().display()),
    ];
    let config = Config::new(Cli::parse_from(arguments).flags).unwrap();
    let list = |pairs: &[(&str, &str)]| {
        serde_json::from_value(json!(pairs.iter().copied().collect::<HashMap<_, _>>())).unwrap()
    };
    let capacity = list(&[("cpu", "8"), ("memory", "8Gi"), ("pods", "110"), ("ephemeral-storage", "10Gi")]);
    Arc::new(Context {
        runtime: Arc::new(Cri::new(&config.runtime_endpoint).unwrap()),
        cluster: api.clone(),
        recorder: Recorder::silent(),
        cgroups: Cgroups::detect(&config.cgroup_root),
        host: Host { ips: vec!["10.90.0.99".into()], runtime: "containerd".into() },
        runtime_version: "containerd://test".into(),
        allocatable: capacity,
        capacity: list(&[("memory", "8Gi")]),
        node: RwLock::new(None),
        config,
    })
}

fn web() -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "11111111-2222-3333-4444-555555555555", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "t1", "terminationGracePeriodSeconds": 5,
            "initContainers": [{"name": "setup", "image": "test.local/box:1", "command": ["sh", "-c", "echo ready > /work/state"],
                "volumeMounts": [{"name": "work", "mountPath": "/work"}]}],
            "containers": [{
                "name": "web", "image": "test.local/box:1",
                "command": ["sh", "-c", "echo started $(GREETING); trap 'exit 0' TERM; while true; do sleep 0.1; done"],
                "env": [{"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "greeting"}}}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}},
                "readinessProbe": {"exec": {"command": ["cat", "/work/state"]}, "periodSeconds": 1},
                "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                "volumeMounts": [
                    {"name": "work", "mountPath": "/work"},
                    {"name": "work", "mountPath": "/part", "subPath": "inner/part"},
                    {"name": "token", "mountPath": "/token"}]}],
            "volumes": [
                {"name": "work", "emptyDir": {}},
                {"name": "token", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"secret": {"name": "keys"}},
                    {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]
        }
    }))
    .unwrap()
}

struct Kubelet {
    manager: Arc<Manager>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Kubelet {
    fn start(context: &Arc<Context>, pods: Vec<Pod>) -> Self {
        let manager = Manager::new(context.clone());
        for pod in pods {
            manager.on_change(&Change { old: None, new: Some(Arc::new(pod)) });
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(manager.clone().run(std::future::ready(()), stop.clone()));
        Self { manager, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn until(what: &str, limit: Duration, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{what}: {:?}", begun.elapsed());
    begun.elapsed()
}

fn container(api: &Api) -> Option<k8s_openapi::api::core::v1::ContainerStatus> {
    api.pod("web")?.status?.container_statuses?.into_iter().next()
}

fn is_ready(api: &Api) -> bool {
    container(api).is_some_and(|one| one.ready)
}

async fn output(context: &Context, id: &str, command: &[&str]) -> String {
    let command = command.iter().map(|part| (*part).to_owned()).collect();
    let answer = context.runtime.exec_sync(id, command, 5).await.unwrap();
    String::from_utf8_lossy(&answer.stdout).trim().to_owned()
}

fn id(api: &Api) -> String {
    container(api).and_then(|one| one.container_id).unwrap_or_default().replace("containerd://", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_on_containerd() {
    let machine = Machine::start();
    let api = Arc::new(Api::default());
    let context = context(&machine, &api);
    until_runtime_is_ready(&context).await;

    let kubelet = Kubelet::start(&context, vec![api.put(web())]);
    until("pod Running and Ready", Duration::from_secs(20), || is_ready(&api)).await;
    let status = api.pod("web").unwrap().status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.as_deref().is_some_and(|ip| ip.starts_with("10.244.9.")), "{status:?}");
    let first = id(&api);
    look_inside(&context, &first).await;
    log_is_there(&context, &api).await;

    machine.kill_container(&first);
    until("killed container is back and ready", Duration::from_secs(10), || {
        container(&api).is_some_and(|one| one.restart_count == 1 && one.ready)
    })
    .await;
    let second = id(&api);

    kubelet.stop().await;
    let kubelet = Kubelet::start(&context, vec![api.pod("web").unwrap()]);
    until("adopted by a new kubelet", Duration::from_secs(5), || {
        kubelet.manager.find("default", "web").is_some_and(|found| found.view.newest("web").is_some())
    })
    .await;
    assert_eq!((id(&api), container(&api).map(|one| one.restart_count)), (second, Some(1)));
    assert!(is_ready(&api), "adoption must not take readiness away");

    let mut deleted = api.pod("web").unwrap();
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    deleted.metadata.deletion_grace_period_seconds = Some(5);
    let deleted = Arc::new(api.put(deleted));
    kubelet.manager.on_change(&Change { old: Some(deleted.clone()), new: Some(deleted.clone()) });
    until("pod deleted for good", Duration::from_secs(10), || api.pod("web").is_none()).await;
    assert!(context.runtime.list_sandboxes(None).await.unwrap().iter().all(|one| one.state != 0));
    kubelet.manager.on_change(&Change { old: Some(deleted), new: None });
    let directory = context.config.pod_dir("11111111-2222-3333-4444-555555555555");
    until("nothing is left", Duration::from_secs(10), || !directory.exists()).await;
    assert!(context.runtime.list_containers(None).await.unwrap().is_empty());
    kubelet.stop().await;
}

async fn until_runtime_is_ready(context: &Context) {
    let begun = Instant::now();
    loop {
        let conditions = context.runtime.status().await.unwrap_or_default();
        if !conditions.is_empty() && conditions.iter().all(|one| one.status) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "containerd is not ready: {conditions:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn look_inside(context: &Context, id: &str) {
    for (command, expect) in [
        (&["cat", "/work/state"][..], "ready"),
        (&["cat", "/token/token"], "a-token"),
        (&["cat", "/token/password"], "sesame"),
        (&["cat", "/token/labels"], "app=\"web\""),
        (&["hostname"], "web"),
        (&["sh", "-c", "echo $GREETING"], "hello from the map"),
        (&["sh", "-c", "echo x > /part/file; cat /work/inner/part/file"], "x"),
        (&["sh", "-c", "grep -c web /etc/hosts"], "1"),
        (&["sh", "-c", "grep nameserver /etc/resolv.conf"], "nameserver 10.96.0.10"),
    ] {
        assert_eq!(output(context, id, command).await, expect, "{command:?}");
    }
}

async fn log_is_there(context: &Context, api: &Api) {
    let pod = api.pod("web").unwrap();
    let path = kubelet::manager::log_path(context, &pod, "web", 0);
    let (send, mut receive) = tokio::sync::mpsc::channel(8);
    let options = kubelet::logs::Options::default();
    kubelet::logs::read(path, options, send, async || false).await.unwrap();
    assert_eq!(receive.recv().await.unwrap(), "started hello from the map\n");
}
