//! Who may ask the kubelet what. Keeps true: nothing is allowed that the API server's TokenReview and
//! SubjectAccessReview did not allow; answers are remembered for a short while. Streams need `create`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, api::PostParams};
use sha2::{Digest, Sha256};

use super::{App, text};
use crate::Config;

/// How long an answer counts (upstream's cacheAuthorizedTTL is 5 min, for refusals 30 s).
const ALLOWED: Duration = Duration::from_secs(120);
const REFUSED: Duration = Duration::from_secs(10);
/// So many answers are remembered.
const MOST: usize = 1024;

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct User {
    name: String,
    groups: Vec<String>,
}

/// Values with the time until which they count.
type Memory<K, V> = Mutex<HashMap<K, (Instant, V)>>;
type Verb = &'static str;
type Question = (User, Verb, &'static str);

/// Asks the API server, with a memory.
pub(super) struct Access {
    kube: kube::Client,
    config: Config,
    tokens: Memory<[u8; 32], Option<User>>,
    answers: Memory<Question, bool>,
}

/// The subresource of nodes that a path belongs to, and the verb.
fn attributes(method: &Method, path: &str) -> (Verb, &'static str) {
    let begins = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    let stream = ["/exec", "/attach", "/portForward", "/run"].into_iter().any(begins);
    let verb = match *method {
        _ if stream => "create",
        Method::POST => "create",
        Method::PUT => "update",
        Method::DELETE => "delete",
        Method::PATCH => "patch",
        _ => "get",
    };
    let resource = match path {
        _ if begins("/stats") => "stats",
        _ if begins("/metrics") => "metrics",
        _ if begins("/logs") => "log",
        _ => "proxy",
    };
    (verb, resource)
}

fn remembered<K: std::hash::Hash + Eq, V: Clone>(memory: &Memory<K, V>, key: &K) -> Option<V> {
    let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    memory.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
}

fn remember<K: std::hash::Hash + Eq, V>(memory: &Memory<K, V>, key: K, value: V, good: bool) {
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    if memory.len() >= MOST {
        memory.clear();
    }
    memory.insert(key, (Instant::now() + if good { ALLOWED } else { REFUSED }, value));
}

impl Access {
    pub(super) fn new(kube: kube::Client, config: Config) -> Self {
        Self { kube, config, tokens: Mutex::default(), answers: Mutex::default() }
    }

    /// The identity of a verified client certificate.
    fn certified(&self, request: &Request) -> Option<User> {
        let peer = request.extensions().get::<serve::Peer>();
        let identity = peer.and_then(serve::Peer::identity).filter(|_| self.config.client_ca.is_some())?;
        let groups = identity.organizations.iter().cloned().chain(["system:authenticated".to_owned()]);
        Some(User { name: identity.common_name.clone(), groups: groups.collect() })
    }

    /// The identity behind a token.
    async fn bearer(&self, token: Option<String>) -> Option<User> {
        let token = token?;
        let key: [u8; 32] = Sha256::digest(&token).into();
        if let Some(known) = remembered(&self.tokens, &key) {
            return known;
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token), audiences: None },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.kube.clone());
        let status = api.create(&PostParams::default(), &review).await.ok()?.status?;
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        });
        remember(&self.tokens, key, user.clone(), user.is_some());
        user
    }

    async fn allows(&self, user: &User, verb: Verb, resource: &'static str) -> bool {
        if self.config.always_allow {
            return true;
        }
        let question = (user.clone(), verb, resource);
        if let Some(known) = remembered(&self.answers, &question) {
            return known;
        }
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some(resource.to_owned()),
                name: Some(self.config.node.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.kube.clone());
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) => {
                let allowed =
                    answer.status.is_some_and(|status| status.allowed && status.denied != Some(true));
                remember(&self.answers, question, allowed, allowed);
                allowed
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot ask the API server for authorisation"
                );
                false
            }
        }
    }
}

fn token(request: &Request) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::to_owned)
}

/// Lets a request through, or answers 401 or 403.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let (certified, token) = (app.access.certified(&request), token(&request));
    let user = match certified {
        Some(user) => Some(user),
        None => app.access.bearer(token).await,
    };
    let user = match user {
        Some(user) => user,
        None if app.access.config.anonymous && !request.headers().contains_key(header::AUTHORIZATION) => {
            User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
        }
        None => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
    };
    let (verb, resource) = attributes(request.method(), request.uri().path());
    if app.access.allows(&user, verb, resource).await {
        return next.run(request).await;
    }
    let message =
        format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{resource}])", user.name);
    text(StatusCode::FORBIDDEN, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_attributes() {
        for (method, path, expect) in [
            (Method::GET, "/exec/a/b/c", ("create", "proxy")),
            (Method::GET, "/containerLogs/a/b/c", ("get", "proxy")),
            (Method::GET, "/stats/summary", ("get", "stats")),
            (Method::GET, "/metrics/cadvisor", ("get", "metrics")),
            (Method::GET, "/statsx", ("get", "proxy")),
            (Method::POST, "/portForward/a/b", ("create", "proxy")),
        ] {
            assert_eq!(attributes(&method, path), expect, "{path}");
        }
    }
}
