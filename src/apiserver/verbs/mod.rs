//! One file per verb, for all kinds. [`Context`] is what a verb knows of its request, [`Scope`] what a write
//! needs, whether it comes from a client or from the server itself.
//!
//! Order of a write: decode, defaults, admission (may change), strategy, validation, admission (may refuse),
//! transaction. Everything between decoding and answering is in the storage version.

pub(crate) mod create;
pub(crate) mod delete;
mod deletecollection;
mod extras;
mod get;
pub(crate) mod list;
mod options;
pub(crate) mod patch;
mod select;
pub(crate) mod update;
mod watch;

use crate::{
    admission::{self, Operation, Review},
    authn::UserInfo,
    body,
    registry::{self, Fence, Target},
    request::RequestInfo,
    respond::{self, Accept, Shape},
    server::Server,
    strategy,
};
use api::{
    Object,
    catalog::Resource,
    field::{ErrorType, FieldError, Path},
    status::Status,
};
use axum::{extract::Request, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use std::sync::{Arc, Mutex, PoisonError};

/// What a verb knows of its request.
pub(crate) struct Context {
    /// The server.
    pub(crate) server: Arc<Server>,
    /// Who asks.
    pub(crate) user: Arc<UserInfo>,
    /// For what.
    pub(crate) info: RequestInfo,
    /// The resource in the version asked for.
    pub(crate) resource: Arc<Resource>,
    /// The resource in the version that is stored.
    pub(crate) stored: Arc<Resource>,
    /// The request's headers.
    pub(crate) headers: HeaderMap,
    /// What the client accepts.
    pub(crate) accept: Accept,
    /// Namespace of the objects, empty for cluster-scoped resources.
    pub(crate) namespace: String,
    /// The epoch the client claims.
    pub(crate) fence: Option<Fence>,
    /// Do everything but write.
    pub(crate) dry_run: bool,
    warnings: Mutex<Vec<String>>,
}

/// Answers a request for a resource.
pub(crate) async fn serve(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    resource: Arc<Resource>,
    request: Request,
) -> api::Result<Response> {
    let (parts, body) = request.into_parts();
    let ctx = Context::new(server, user, info, resource, parts.headers)?;
    let bytes = if ctx.info.read_only() { Bytes::new() } else { body::read(body).await? };
    let response = dispatch(&ctx, bytes).await?;
    Ok(ctx.warned(response))
}

async fn dispatch(ctx: &Context, bytes: Bytes) -> api::Result<Response> {
    match ctx.info.verb {
        "get" => get::get(ctx).await,
        "list" => list::list(ctx).await,
        "watch" => watch::watch(ctx).await,
        "create" => create::create(ctx, bytes).await,
        "update" => update::update(ctx, bytes).await,
        "patch" => patch::patch(ctx, bytes).await,
        "delete" => delete::delete(ctx, bytes).await,
        "deletecollection" => deletecollection::deletecollection(ctx, bytes).await,
        other => Err(Status::method_not_supported(&ctx.resource.group_resource(), other)),
    }
}

impl Context {
    /// Reads what is in the query and the headers, and refuses what cannot be.
    pub(crate) fn new(
        server: Arc<Server>,
        user: Arc<UserInfo>,
        info: RequestInfo,
        resource: Arc<Resource>,
        headers: HeaderMap,
    ) -> api::Result<Self> {
        supported(&resource, &info)?;
        let accept = respond::negotiate(&headers)?;
        let fence = if info.read_only() { None } else { Fence::from_headers(&headers)? };
        let dry_run = options::write(&info.query, info.verb)?;
        let stored = server.catalog().by_kind(&resource.storage).cloned().unwrap_or_else(|| resource.clone());
        let namespace = if resource.namespaced { info.namespace.clone() } else { String::new() };
        let warnings = Mutex::default();
        Ok(Context {
            server,
            user,
            info,
            resource,
            stored,
            headers,
            accept,
            namespace,
            fence,
            dry_run,
            warnings,
        })
    }

    /// The write side of this request.
    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope {
            server: &self.server,
            user: Some(&self.user),
            resource: &self.stored,
            subresource: &self.info.subresource,
            namespace: &self.namespace,
            fence: self.fence.as_ref(),
            dry_run: self.dry_run,
        }
    }

    /// A copy that outlives the request, for a watch.
    pub(crate) fn detached(&self) -> Context {
        Context {
            server: self.server.clone(),
            user: self.user.clone(),
            info: self.info.clone(),
            resource: self.resource.clone(),
            stored: self.stored.clone(),
            headers: HeaderMap::new(),
            accept: self.accept,
            namespace: self.namespace.clone(),
            fence: None,
            dry_run: false,
            warnings: Mutex::default(),
        }
    }

    /// Whether stored bytes can go out as they are.
    pub(crate) fn plain(&self) -> bool {
        self.accept.shape == Shape::Plain && self.resource.gvk() == self.resource.storage
    }

    /// An object in the storage version, in the version asked for.
    pub(crate) fn present(&self, object: Object) -> api::Result<Object> {
        convert(object, &self.stored, &self.resource)
    }

    /// An object in the version asked for, in the storage version.
    pub(crate) fn absorb(&self, object: Object) -> api::Result<Object> {
        convert(object, &self.resource, &self.stored)
    }

    /// An answer with the warnings that came up.
    pub(crate) fn warned(&self, mut response: Response) -> Response {
        for text in self.warnings.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append("warning", value);
            }
        }
        response
    }

    /// Adds a warning to the answer.
    pub(crate) fn warn(&self, text: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

fn convert(object: Object, from: &Resource, to: &Resource) -> api::Result<Object> {
    if from.gvk() == to.gvk() {
        return Ok(object);
    }
    if from.custom {
        // Conversion strategy None: only the version's name differs.
        let mut object = object;
        object.set("apiVersion", to.group_version());
        return Ok(object);
    }
    api::convert::convert(&object, &from.gvk(), &to.gvk())
}

fn supported(r: &Resource, info: &RequestInfo) -> api::Result<()> {
    let verbs = match info.subresource.as_str() {
        "" => r.verbs,
        name => r.subresource(name).ok_or_else(Status::not_found_path)?.verbs,
    };
    let named = info.verb == "create" && !info.name.is_empty() && info.subresource.is_empty();
    if named || !verbs.has(info.verb) {
        return Err(match r.custom {
            true => Status::method_not_supported(&r.group_resource(), info.verb),
            false => Status::method_not_allowed(),
        });
    }
    Ok(())
}

/// What a write needs.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// The server.
    pub(crate) server: &'a Server,
    /// Who writes; `None` for the server itself, whom admission does not concern.
    pub(crate) user: Option<&'a UserInfo>,
    /// The resource in its storage version.
    pub(crate) resource: &'a Resource,
    /// e.g. `status`, or empty.
    pub(crate) subresource: &'a str,
    /// Namespace, empty for cluster-scoped resources.
    pub(crate) namespace: &'a str,
    /// The epoch the writer claims.
    pub(crate) fence: Option<&'a Fence>,
    /// Do everything but write.
    pub(crate) dry_run: bool,
}

impl<'a> Scope<'a> {
    /// The server itself as the writer.
    pub(crate) fn server(server: &'a Server, resource: &'a Resource, namespace: &'a str) -> Self {
        Scope { server, user: None, resource, subresource: "", namespace, fence: None, dry_run: false }
    }

    /// One object to write.
    pub(crate) fn target(&self, name: &'a str) -> Target<'a> {
        Target {
            server: self.server,
            resource: self.resource,
            namespace: self.namespace,
            name,
            fence: self.fence,
            dry_run: self.dry_run,
        }
    }

    fn review<'o>(
        &self,
        user: &'o UserInfo,
        operation: Operation,
        name: &'o str,
        object: Option<&'o mut Object>,
        old: Option<&'o Object>,
    ) -> Review<'o>
    where
        'a: 'o,
    {
        Review {
            server: self.server,
            user,
            operation,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            object,
            old,
            dry_run: self.dry_run,
        }
    }

    /// Mutating admission.
    pub(crate) async fn admit(
        &self,
        operation: Operation,
        name: &str,
        object: Option<&mut Object>,
        old: Option<&Object>,
    ) -> api::Result<()> {
        match self.user {
            None => Ok(()),
            Some(user) => admission::admit(&mut self.review(user, operation, name, object, old)).await,
        }
    }

    /// Validating admission.
    pub(crate) async fn permit(
        &self,
        operation: Operation,
        name: &str,
        object: Option<&mut Object>,
        old: Option<&Object>,
    ) -> api::Result<()> {
        match self.user {
            None => Ok(()),
            Some(user) => admission::validate(&mut self.review(user, operation, name, object, old)).await,
        }
    }

    /// Defaults by schema, then by kind.
    pub(crate) fn default(&self, object: &mut Object) {
        if let Some(schema) = &self.resource.schema {
            let mut value = std::mem::take(object).into_value();
            schema.default(&mut value);
            *object = Object::try_from(value).unwrap_or_default();
        }
        strategy::of(self.resource).default(object);
    }

    /// Validation by schema, then by kind.
    pub(crate) fn validate(&self, new: &Object, old: Option<&Object>) -> api::Result<()> {
        let mut errors: Vec<FieldError> = match &self.resource.schema {
            Some(schema) => schema.validate(&new.clone().into_value(), &Path::root()),
            None => Vec::new(),
        };
        errors.retain(|error| !free_form(self.resource, error));
        for error in strategy::validate(self.resource, new, old) {
            if !errors.iter().any(|e| e.field == error.field && e.kind == error.kind) {
                errors.push(error);
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid(&self.resource.group_kind(), new.name(), errors)),
        }
    }
}

/// Whether an error is about a value in a CRD's schema that may be any JSON.
fn free_form(r: &Resource, error: &FieldError) -> bool {
    let last = error.field.rsplit('.').next().unwrap_or_default();
    r.kind == "CustomResourceDefinition"
        && error.kind == ErrorType::TypeInvalid
        && (matches!(last, "default" | "example") || last.starts_with("enum["))
}

/// The namespace an object belongs to: the request's; another one in the object is refused.
pub(crate) fn place(scope: &Scope<'_>, object: &mut Object) -> api::Result<()> {
    if !scope.resource.namespaced {
        object.set_namespace("");
        return Ok(());
    }
    let own = object.namespace();
    if !own.is_empty() && own != scope.namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    object.set_namespace(scope.namespace);
    Ok(())
}

pub(crate) use registry::{Change, Outcome, Plan};
