//! The whole scheduler against a small stand-in for the API server: election, binding, conditions, take-over.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use clap::Parser;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Plural, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
struct Data {
    objects: BTreeMap<Key, Value>,
    log: Vec<(Key, &'static str, Value)>,
    /// Epoch header of every binding, by pod.
    epochs: BTreeMap<String, String>,
}

/// The stand-in: revisions are positions in the log.
struct Api {
    data: Mutex<Data>,
    length: watch::Sender<usize>,
}

struct Target {
    plural: String,
    namespace: String,
    name: String,
    subresource: String,
}

impl Target {
    fn parse(path: &str) -> Self {
        let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        parts.drain(..if parts[0] == "api" { 2 } else { 3 });
        let namespaced = parts[0] == "namespaces" && parts.len() > 2;
        let namespace = if namespaced { parts[1].to_owned() } else { String::new() };
        let rest = if namespaced { &parts[2..] } else { &parts[..] };
        let part = |i: usize| rest.get(i).map(|p| (*p).to_owned()).unwrap_or_default();
        Self { plural: part(0), namespace, name: part(1), subresource: part(2) }
    }

    fn key(&self) -> Key {
        (self.plural.clone(), self.namespace.clone(), self.name.clone())
    }
}

impl Api {
    fn store(&self, key: Key, kind: &'static str, mut object: Value) -> Value {
        let mut data = self.data.lock().unwrap();
        object["metadata"]["resourceVersion"] = (data.log.len() + 1).to_string().into();
        if kind == "DELETED" {
            data.objects.remove(&key);
        } else {
            data.objects.insert(key.clone(), object.clone());
        }
        data.log.push((key, kind, object.clone()));
        self.length.send_replace(data.log.len());
        object
    }

    fn create(&self, plural: &str, namespace: &str, mut object: Value) -> Value {
        let name = object["metadata"]["name"].as_str().map(str::to_owned);
        let name = name.unwrap_or_else(|| format!("generated-{}", self.data.lock().unwrap().log.len()));
        object["metadata"]["name"] = name.clone().into();
        object["metadata"]["uid"] = format!("uid-{name}").into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.store((plural.to_owned(), namespace.to_owned(), name), "ADDED", object)
    }

    fn create_new(&self, target: &Target, object: Value) -> Response {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.get(&(target.plural.clone(), target.namespace.clone(), name)).is_some() {
            return status(409, "AlreadyExists");
        }
        (StatusCode::CREATED, Json(self.create(&target.plural, &target.namespace, object))).into_response()
    }

    fn get(&self, key: &Key) -> Option<Value> {
        self.data.lock().unwrap().objects.get(key).cloned()
    }

    fn pod(&self, name: &str) -> Value {
        self.get(&("pods".to_owned(), "default".to_owned(), name.to_owned())).unwrap_or_default()
    }

    fn list(&self, target: &Target) -> Response {
        let data = self.data.lock().unwrap();
        let items: Vec<&Value> =
            data.objects.iter().filter(|(k, _)| k.0 == target.plural).map(|(_, object)| object).collect();
        let version = data.log.len().to_string();
        Json(json!({"metadata": {"resourceVersion": version}, "items": items})).into_response()
    }

    fn watch(self: &Arc<Self>, target: Target, query: &str) -> Response {
        let from = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")?.parse::<usize>().ok());
        let start = (self.clone(), self.length.subscribe(), from.unwrap_or(0), target.plural);
        let stream = futures::stream::unfold(start, |(api, mut length, mut at, plural)| async move {
            loop {
                let next = api.data.lock().unwrap().log.get(at).cloned();
                match next {
                    Some((key, kind, object)) => {
                        at += 1;
                        if key.0 == plural {
                            let line = format!("{}\n", json!({"type": kind, "object": object}));
                            return Some((
                                Ok::<_, std::io::Error>(Bytes::from(line)),
                                (api, length, at, plural),
                            ));
                        }
                    }
                    None => length.changed().await.ok()?,
                }
            }
        });
        Body::from_stream(stream).into_response()
    }

    /// A new holder of a Lease starts a new epoch, as our API server does it.
    fn replace(&self, target: &Target, mut object: Value) -> Response {
        let Some(old) = self.get(&target.key()) else { return status(404, "NotFound") };
        if old["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return status(409, "Conflict");
        }
        let holder = |o: &Value| o["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        let epoch = old["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
        let new_term = !holder(&object).is_empty() && holder(&object) != holder(&old);
        object["spec"]["leaseTransitions"] = (epoch + i64::from(new_term)).into();
        Json(self.store(target.key(), "MODIFIED", object)).into_response()
    }

    fn bind(&self, target: &Target, binding: &Value, epoch: Option<&str>) -> Response {
        let mut pod = self.pod(&target.name);
        if pod["spec"]["nodeName"].is_string() {
            return status(409, "Conflict");
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        self.data.lock().unwrap().epochs.insert(target.name.clone(), epoch.unwrap_or("none").to_owned());
        self.store(("pods".into(), target.namespace.clone(), target.name.clone()), "MODIFIED", pod);
        (StatusCode::CREATED, Json(json!({"kind": "Status", "status": "Success"}))).into_response()
    }

    fn patch_status(&self, target: &Target, patch: &Value) -> Response {
        let Some(mut object) = self.get(&target.key()) else { return status(404, "NotFound") };
        for (key, value) in patch["status"].as_object().unwrap() {
            object["status"][key] = value.clone();
        }
        Json(self.store(target.key(), "MODIFIED", object)).into_response()
    }
}

fn status(code: u16, reason: &str) -> Response {
    let body =
        json!({"kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

async fn serve(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = Target::parse(parts.uri.path());
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let object: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match (parts.method.as_str(), target.subresource.as_str()) {
        ("GET", _) if query.contains("watch=") => api.watch(target, &query),
        ("GET", _) if target.name.is_empty() => api.list(&target),
        ("GET", _) => {
            api.get(&target.key()).map_or_else(|| status(404, "NotFound"), |o| Json(o).into_response())
        }
        ("POST", "binding") => {
            let epoch = parts.headers.get("trireme-epoch").and_then(|v| v.to_str().ok());
            api.bind(&target, &object, epoch)
        }
        ("POST", _) => api.create_new(&target, object),
        ("PUT", _) => api.replace(&target, object),
        ("PATCH", "status") => api.patch_status(&target, &object),
        ("DELETE", _) => match api.get(&target.key()) {
            Some(object) => Json(api.store(target.key(), "DELETED", object)).into_response(),
            None => status(404, "NotFound"),
        },
        _ => status(405, "MethodNotAllowed"),
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: scheduler::Flags,
}

/// A cluster with the stand-in API, and schedulers.
struct Cluster {
    api: Arc<Api>,
    kubeconfig: tempfile::NamedTempFile,
}

impl Cluster {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let api = Arc::new(Api { data: Mutex::default(), length: watch::channel(0).0 });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(serve).with_state(api.clone());
        tokio::spawn(serve::http(listener, router, CancellationToken::new()));
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
        std::fs::write(kubeconfig.path(), text.to_string()).unwrap();
        Self { api, kubeconfig }
    }

    fn scheduler(&self) -> (CancellationToken, tokio::task::JoinHandle<Result<(), scheduler::Error>>) {
        let path = self.kubeconfig.path().to_str().unwrap();
        let line = Line::parse_from(["kube-scheduler", "--kubeconfig", path, "--secure-port=0"]);
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(scheduler::run(line.flags, stop)))
    }

    fn node(&self, name: &str, cpu: &str) {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}});
        self.api.create("nodes", "", node);
    }

    fn pod(&self, name: &str, cpu: &str) {
        let pod = json!({"metadata": {"name": name}, "status": {"phase": "Pending"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
        self.api.create("pods", "default", pod);
    }

    /// Waits until something is so.
    async fn until<T>(&self, what: &str, found: impl Fn(&Api) -> Option<T>) -> T {
        let mut length = self.api.length.subscribe();
        let wait = async {
            loop {
                if let Some(found) = found(&self.api) {
                    return found;
                }
                length.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(15), wait).await;
        waited.unwrap_or_else(|_| panic!("{what} did not happen"))
    }

    async fn bound(&self, name: &str) -> String {
        let node = |api: &Api| api.pod(name)["spec"]["nodeName"].as_str().map(str::to_owned);
        self.until(&format!("binding of {name}"), node).await
    }

    async fn event(&self, reason: &str, message: &str) {
        let told = |api: &Api| {
            let data = api.data.lock().unwrap();
            let mut events = data.objects.iter().filter(|(k, _)| k.0 == "events").map(|(_, o)| o);
            events.any(|e| e["reason"] == reason && e["message"] == message).then_some(())
        };
        self.until(&format!("event {reason} {message}"), told).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_bound_explained_and_taken_over() {
    let cluster = Cluster::start().await;
    cluster.node("w1", "2");
    cluster.pod("one", "1");
    let (stop, running) = cluster.scheduler();
    assert_eq!(cluster.bound("one").await, "w1");
    cluster.event("Scheduled", "Successfully assigned default/one to w1").await;

    cluster.pod("big", "3");
    let why = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
               1 Preemption is not helpful for scheduling.";
    cluster.event("FailedScheduling", why).await;
    let condition =
        |api: &Api| Some(api.pod("big")["status"]["conditions"][0].clone()).filter(|c| !c.is_null());
    let condition = cluster.until("the condition", condition).await;
    assert_eq!((&condition["reason"], &condition["message"]), (&json!("Unschedulable"), &json!(why)));
    cluster.node("w2", "4");
    assert_eq!(cluster.bound("big").await, "w2");

    let (other_stop, other_running) = cluster.scheduler();
    stop.cancel();
    running.await.unwrap().unwrap();
    let started = std::time::Instant::now();
    cluster.pod("late", "500m");
    cluster.bound("late").await;
    println!("a standby bound a pod {:?} after a clean stop of the leader", started.elapsed());
    let epochs = cluster.api.data.lock().unwrap().epochs.clone();
    assert_eq!(epochs["one"], "kube-system/kube-scheduler=0");
    assert_eq!(epochs["late"], "kube-system/kube-scheduler=1");
    other_stop.cancel();
    other_running.await.unwrap().unwrap();
}
