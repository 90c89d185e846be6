//! Admission: what the cluster makes of a write (mutating), and whether it lets it happen (validating).
//!
//! A table of plug-ins in upstream's order; each is a file, its decision a pure function where it can be. The
//! verbs call [`admit`] between defaulting and validation and [`validate`] after it, for creations, updates
//! (patches too), deletions and connects. Writes of the server itself do not come here.

mod certificates;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod rbac_escalation;
mod service_account;
mod taint_nodes_by_condition;

use api::Object;
use api::catalog::Resource;
use api::status::Status;

use crate::authn::UserInfo;
use crate::server::Server;

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write on its way to the store.
pub(crate) struct Review<'a> {
    pub(crate) server: &'a Server,
    pub(crate) user: &'a UserInfo,
    pub(crate) operation: Operation,
    pub(crate) resource: &'a Resource,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    /// Empty for a creation whose name is generated, and for deletions of collections.
    pub(crate) name: &'a str,
    /// The object as it will be; `None` for deletions.
    pub(crate) object: Option<&'a mut Object>,
    /// The object as it is; `None` for creations.
    pub(crate) old: Option<&'a Object>,
    /// Nothing will be written: plug-ins with effects of their own (webhooks) must not have them.
    #[allow(dead_code, reason = "no plug-in has effects yet")]
    pub(crate) dry_run: bool,
}

impl Review<'_> {
    /// Whether the write is to this resource (not a subresource of it).
    fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.is_any(group, plural)
    }

    /// Whether the write is to this resource or a subresource of it.
    fn is_any(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    /// The name of the object, also where the request has none.
    fn object_name(&self) -> &str {
        let own = self.object.as_ref().map(|object| object.name()).unwrap_or_default();
        if self.name.is_empty() { own } else { self.name }
    }

    /// 403 with upstream's wording around the reason.
    fn forbidden(&self, reason: impl std::fmt::Display) -> Status {
        let generated = self.object.as_ref().map(|object| object.generate_name()).unwrap_or_default();
        let name = if self.object_name().is_empty() { generated } else { self.object_name() };
        Status::forbidden(&self.resource.group_resource(), name, reason)
    }
}

/// A plug-in; both halves do nothing unless overridden.
#[async_trait::async_trait]
trait Plugin: Sync {
    /// May change the object.
    async fn admit(&self, _review: &mut Review<'_>) -> api::Result<()> {
        Ok(())
    }

    /// Sees the object as it will be stored.
    async fn validate(&self, _review: &Review<'_>) -> api::Result<()> {
        Ok(())
    }
}

/// One plug-in: its name in `--enable-admission-plugins`, whether it is on without being named there.
struct Row {
    name: &'static str,
    by_default: bool,
    plugin: &'static dyn Plugin,
}

const fn on(name: &'static str, plugin: &'static dyn Plugin) -> Row {
    Row { name, by_default: true, plugin }
}

const fn off(name: &'static str, plugin: &'static dyn Plugin) -> Row {
    Row { name, by_default: false, plugin }
}

/// All plug-ins, in the order in which they run. The two without an upstream plug-in name do what upstream does
/// in the registry of their kinds, because only admission knows the user.
const PLUGINS: &[Row] = &[
    on("NamespaceLifecycle", &namespace_lifecycle::NamespaceLifecycle),
    on("ServiceAccount", &service_account::ServiceAccount),
    on("NodeRestriction", &node_restriction::NodeRestriction),
    on("TaintNodesByCondition", &taint_nodes_by_condition::TaintNodesByCondition),
    on("Priority", &priority::Priority),
    on("DefaultTolerationSeconds", &default_toleration_seconds::DefaultTolerationSeconds),
    on("CertificateRequester", &certificates::Requester),
    on("CertificateApproval", &certificates::Approval),
    on("CertificateSigning", &certificates::Signing),
    on("CertificateSubjectRestriction", &certificates::SubjectRestriction),
    on("RBACEscalation", &rbac_escalation::RbacEscalation),
    off("DenyServiceExternalIPs", &deny_service_external_ips::DenyServiceExternalIps),
];

/// Names that cannot be disabled: without them anybody could become anybody.
const ALWAYS: &[&str] = &["CertificateRequester", "RBACEscalation"];

fn enabled(server: &Server) -> impl Iterator<Item = &'static dyn Plugin> + use<'_> {
    let runs = |row: &&Row| {
        ALWAYS.contains(&row.name) || server.config().admission_enabled(row.name, row.by_default)
    };
    PLUGINS.iter().filter(runs).map(|row| row.plugin)
}

/// The mutating half, before validation.
pub(crate) async fn admit(review: &mut Review<'_>) -> api::Result<()> {
    for plugin in enabled(review.server) {
        plugin.admit(review).await?;
    }
    Ok(())
}

/// The validating half, after validation. Nothing is changed any more.
pub(crate) async fn validate(review: &mut Review<'_>) -> api::Result<()> {
    for plugin in enabled(review.server) {
        plugin.validate(review).await?;
    }
    Ok(())
}
