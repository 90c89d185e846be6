//! Service-account tokens: who a verified token stands for, as long as what it is bound to exists.
//!
//! Signatures are remembered for a short while (verifying costs far more than looking up), but the account and
//! the pod, secret or node are looked at on every request: deleting one ends its tokens at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::Object;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::keys::{Claims, Keys, Ref, check_claims};
use super::{Accepted, UserInfo, account_groups, account_user};
use crate::server::Server;

/// How long a verified signature is remembered.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Signatures remembered at most; the map is emptied when it is full.
const KEPT: usize = 8192;
/// An object that is being deleted still counts for so many seconds, so that a pod can finish its work.
const DELETION_LEEWAY: i64 = 60;

/// Claims by the digest of their token, with the time of verification.
type Verified = HashMap<[u8; 32], (Instant, Arc<Claims>)>;

/// Checks service-account tokens.
pub(crate) struct Accounts {
    keys: Arc<Keys>,
    issuers: Vec<String>,
    verified: Mutex<Verified>,
}

impl Accounts {
    /// With these keys, for these issuers.
    pub(crate) fn new(keys: Arc<Keys>, issuers: Vec<String>) -> Self {
        Self { keys, issuers, verified: Mutex::default() }
    }

    pub(crate) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The user of a token that is good for one of the audiences now.
    pub(crate) async fn user(
        &self,
        server: &Server,
        token: &str,
        audiences: &[String],
    ) -> Result<Accepted, String> {
        let claims = self.claims(token).ok_or("invalid bearer token")?;
        let now = Timestamp::now();
        let audiences = check_claims(&claims, &self.issuers, audiences, now.as_second())?;
        let private = &claims.kubernetes;
        let namespace = &private.namespace;
        if claims.sub != account_user(namespace, &private.serviceaccount.name) {
            return Err("token subject does not match its claims".into());
        }
        alive(server, "serviceaccounts", "service account", namespace, &private.serviceaccount, now).await?;
        if let Some(secret) = &private.secret {
            alive(server, "secrets", "secret", namespace, secret, now).await?;
        }
        if let Some(pod) = &private.pod {
            alive(server, "pods", "pod", namespace, pod, now).await?;
        } else if let Some(node) = &private.node {
            alive(server, "nodes", "node", "", node, now).await?;
        }
        Ok(Accepted { user: user(&claims), audiences })
    }

    fn claims(&self, token: &str) -> Option<Arc<Claims>> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, claims)) = verified.get(&key)
            && at.elapsed() < REMEMBERED
        {
            return Some(claims.clone());
        }
        drop(verified);
        let claims = Arc::new(self.keys.verify(token)?);
        verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= KEPT {
            verified.clear();
        }
        verified.insert(key, (Instant::now(), claims.clone()));
        Some(claims)
    }
}

/// Whether the object a token is bound to is there. The cache may lag behind another server that made it a
/// moment ago, so "no" is asked again of the store; only holders of a signed token can cause that read.
async fn alive(
    server: &Server,
    plural: &str,
    what: &str,
    namespace: &str,
    wanted: &Ref,
    now: Timestamp,
) -> Result<(), String> {
    let resource = server.resource("", plural);
    let cached = server.cached_get(&resource, namespace, &wanted.name);
    if cached.is_some_and(|object| is(&object, wanted, now)) {
        return Ok(());
    }
    match server.get(&resource, namespace, &wanted.name).await {
        Ok(object) if is(&object, wanted, now) => Ok(()),
        _ => Err(format!("{what} {namespace}/{} has been deleted", wanted.name)),
    }
}

fn is(object: &Object, wanted: &Ref, now: Timestamp) -> bool {
    let ending = object.deletion_timestamp().and_then(|text| text.parse::<Timestamp>().ok());
    let gone = ending.is_some_and(|at| at.as_second() + DELETION_LEEWAY < now.as_second());
    object.uid() == wanted.uid && !gone
}

fn user(claims: &Claims) -> UserInfo {
    let private = &claims.kubernetes;
    let account = &private.serviceaccount;
    let mut user = UserInfo::authenticated(claims.sub.clone(), account_groups(&private.namespace));
    user.uid.clone_from(&account.uid);
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    for (kind, object) in [("pod", &private.pod), ("node", &private.node)] {
        if let Some(object) = object {
            extra(&format!("{kind}-name"), &object.name);
            extra(&format!("{kind}-uid"), &object.uid);
        }
    }
    if !claims.jti.is_empty() {
        extra("credential-id", &format!("JTI={}", claims.jti));
    }
    user
}

#[cfg(test)]
mod tests {
    use super::super::keys::Private;
    use super::*;
    use serde_json::json;

    #[test]
    fn users_of_claims() {
        let reference = |name: &str, uid: &str| Ref { name: name.into(), uid: uid.into() };
        let claims = Claims {
            sub: "system:serviceaccount:a:sam".into(),
            jti: "id".into(),
            kubernetes: Private {
                namespace: "a".into(),
                serviceaccount: reference("sam", "u1"),
                pod: Some(reference("p", "u2")),
                node: Some(reference("w1", "u3")),
                ..Private::default()
            },
            ..Claims::default()
        };
        let user = user(&claims);
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:a:sam", "u1"));
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
        );
        let extra: Vec<_> = user.extra.values().flatten().map(String::as_str).collect();
        assert_eq!(extra, ["JTI=id", "w1", "u3", "p", "u2"]);
    }

    #[test]
    fn bound_objects() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let check = |metadata: serde_json::Value, expect: bool| {
            let object = Object(json!({"metadata": metadata}).as_object().unwrap().clone());
            let wanted = Ref { name: "p".into(), uid: "u".into() };
            assert_eq!(is(&object, &wanted, now), expect, "{object:?}");
        };
        check(json!({"uid": "u"}), true);
        check(json!({"uid": "v"}), false);
        check(json!({"uid": "u", "deletionTimestamp": "2026-11-23T11:59:30Z"}), true);
        check(json!({"uid": "u", "deletionTimestamp": "2026-11-23T11:58:00Z"}), false);
    }
}
