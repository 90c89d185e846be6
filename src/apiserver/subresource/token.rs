//! `serviceaccounts/NAME/token`: a token for a service account, bound to a pod, secret or node if asked. Checking
//! tokens is `authn`'s.

use super::{Call, Row, answers, row};
use crate::{
    admission::Operation,
    authn::{
        account_user,
        keys::{Claims, Private, Ref},
    },
    respond,
    server::Server,
};
use api::{
    Object,
    catalog::GroupKind,
    field::{FieldError, Path},
    status::Status,
};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[row("", "serviceaccounts", "token", answers!(run))];

/// Validity when none is asked for, seconds.
const DEFAULT_SECONDS: i64 = 3600;
/// The shortest validity, seconds.
const SHORTEST: i64 = 600;
/// The longest validity that can be asked for, seconds.
const LONGEST: i64 = 1 << 32;

async fn run(call: Call) -> api::Result<Response> {
    let server = call.server.clone();
    let accounts = server.resource("", "serviceaccounts");
    let (ctx, mut wanted) = call.posted().await?;
    let (scope, name) = (ctx.scope(), ctx.info.name.as_str());
    let account = server.get(&accounts, &ctx.namespace, name).await?;
    scope.admit(Operation::Create, name, Some(&mut wanted), None).await?;
    let seconds = duration(&server, &wanted)?;
    scope.permit(Operation::Create, name, Some(&mut wanted), None).await?;
    let bound = bind(&server, &account, &wanted).await?;
    let claims = claims(&server, &account, bound, audiences(&server, &wanted), seconds);
    let keys = server.authenticator().map(|authenticator| authenticator.keys().clone());
    let token = keys.and_then(|keys| keys.sign(&claims)).ok_or_else(|| {
        Status::internal("this API server has no key to sign tokens: set --service-account-signing-key-file")
    })?;
    let reply = reply(&account, wanted, &claims, &token, seconds);
    Ok(ctx.warned(respond::value(ctx.accept, StatusCode::CREATED, &reply)))
}

fn audiences(server: &Server, wanted: &Object) -> Vec<String> {
    let asked = wanted.list_at("spec.audiences").iter().filter_map(Value::as_str).map(str::to_owned);
    let asked: Vec<String> = asked.filter(|audience| !audience.is_empty()).collect();
    if asked.is_empty() { server.config().audiences.clone() } else { asked }
}

fn duration(server: &Server, wanted: &Object) -> api::Result<i64> {
    let seconds = wanted.i64_at("spec.expirationSeconds").unwrap_or(DEFAULT_SECONDS);
    let path = Path::new("spec").child("expirationSeconds");
    let invalid = |why: &str| {
        let kind = GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
        Err(Status::invalid(&kind, "", vec![FieldError::invalid(&path, seconds, why)]))
    };
    match seconds {
        ..SHORTEST => invalid("may not specify a duration less than 10 minutes"),
        LONGEST.. => invalid("may not specify a duration larger than 2^32 seconds"),
        _ => {
            let most = server.config().flags.service_account_max_token_expiration;
            let most = most.and_then(|limit| i64::try_from(limit.as_secs()).ok()).filter(|limit| *limit > 0);
            Ok(seconds.min(most.unwrap_or(seconds)))
        }
    }
}

/// The objects a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Ref>,
    secret: Option<Ref>,
    node: Option<Ref>,
}

fn reference(object: &Object) -> Ref {
    Ref { name: object.name().to_owned(), uid: object.uid().to_owned() }
}

async fn bind(server: &Server, account: &Object, wanted: &Object) -> api::Result<Bound> {
    let mut bound = Bound::default();
    if wanted.map_at("spec.boundObjectRef").is_none() {
        return Ok(bound);
    }
    let (version, kind) =
        (wanted.str_at("spec.boundObjectRef.apiVersion"), wanted.str_at("spec.boundObjectRef.kind"));
    let name = wanted.str_at("spec.boundObjectRef.name");
    let (plural, namespace) = match (version, kind) {
        ("v1", "Pod") => ("pods", account.namespace()),
        ("v1", "Secret") => ("secrets", account.namespace()),
        ("v1", "Node") => ("nodes", ""),
        _ => {
            let why = format!("cannot bind token to object of type {version}, Kind={kind}");
            return Err(Status::bad_request(why));
        }
    };
    let resource = server.resource("", plural);
    let object = server.get(&resource, namespace, name).await?;
    let uid = wanted.str_at("spec.boundObjectRef.uid");
    if !uid.is_empty() && uid != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&resource.group_resource(), name, why));
    }
    match plural {
        "pods" => {
            if object.str_at("spec.serviceAccountName") != account.name() {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.name()
                );
                return Err(Status::bad_request(why));
            }
            bound.node = node_of(server, &object);
            bound.pod = Some(reference(&object));
        }
        "secrets" => bound.secret = Some(reference(&object)),
        _ => bound.node = Some(reference(&object)),
    }
    Ok(bound)
}

/// The node of a pod; the cache is enough, the pod's own reference decides.
fn node_of(server: &Server, pod: &Object) -> Option<Ref> {
    let name = pod.str_at("spec.nodeName");
    let node = server.cached_get(&server.resource("", "nodes"), "", name);
    (!name.is_empty()).then(|| Ref {
        name: name.to_owned(),
        uid: node.map(|node| node.uid().to_owned()).unwrap_or_default(),
    })
}

fn claims(server: &Server, account: &Object, bound: Bound, audiences: Vec<String>, seconds: i64) -> Claims {
    let now = Timestamp::now().as_second();
    let issuers = &server.config().flags.service_account_issuer;
    Claims {
        aud: audiences,
        exp: now + seconds,
        iat: now,
        nbf: now,
        iss: issuers.first().cloned().unwrap_or_default(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: account_user(account.namespace(), account.name()),
        kubernetes: Private {
            namespace: account.namespace().to_owned(),
            node: bound.node,
            pod: bound.pod,
            secret: bound.secret,
            serviceaccount: reference(account),
            warnafter: None,
        },
    }
}

fn reply(account: &Object, mut wanted: Object, claims: &Claims, token: &str, seconds: i64) -> Value {
    let expires = Timestamp::from_second(claims.exp).map(api::time::format).unwrap_or_default();
    wanted.set("apiVersion", "authentication.k8s.io/v1");
    wanted.set("kind", "TokenRequest");
    wanted.set(
        "metadata",
        json!({"name": account.name(), "namespace": account.namespace(), "creationTimestamp": api::time::now_text()}),
    );
    wanted.set("spec.audiences", json!(claims.aud));
    wanted.set("spec.expirationSeconds", seconds);
    wanted.set("status", json!({"token": token, "expirationTimestamp": expires}));
    wanted.into_value()
}
