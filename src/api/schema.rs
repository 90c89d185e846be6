//! What an object of a kind may contain: pruning, defaulting and validating by schema.
//!
//! A built-in kind's schema is the committed table (`schema/k8s.tsv`, made by `examples/generate.rs`), a custom
//! kind's is its CRD's OpenAPI v3 schema. Keeps true: nothing is parsed or compiled per call. Rules beyond the
//! schema (what a name may be, which fields never change) are left to the API server's strategies.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    Result,
    field::{FieldError, Path},
};

mod builtin;
mod custom;
mod format;
mod structural;
mod trail;
pub mod types;

use custom::Node;
use types::Type;

/// A kind's schema.
#[derive(Clone, Debug)]
pub struct Schema(Source);

#[derive(Clone, Debug)]
enum Source {
    Builtin(&'static Type),
    Custom(Arc<Node>),
}

impl Schema {
    /// The schema of a built-in kind.
    pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Arc<Self>> {
        types::table().kind(group, version, kind).map(|t| Arc::new(Self(Source::Builtin(t))))
    }

    /// The schema in a CRD's `openAPIV3Schema`.
    ///
    /// # Errors
    /// Every mistake that makes it not structural, or that cannot be compiled (patterns), below `path`.
    pub fn from_open_api(schema: &Value, path: &Path) -> std::result::Result<Self, Vec<FieldError>> {
        let errors = structural::check(schema, path);
        if !errors.is_empty() {
            return Err(errors);
        }
        Node::root(schema, path).map(|node| Self(Source::Custom(Arc::new(node))))
    }

    /// Removes what the schema does not know and returns the paths of what was removed
    /// (`spec.containers[0].imagePullPolice`).
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut removed = Vec::new();
        match &self.0 {
            Source::Builtin(t) => builtin::prune(t, object, &mut removed),
            Source::Custom(node) => node.prune_root(object, &mut removed),
        }
        removed
    }

    /// Fills in the schema's defaults.
    pub fn default(&self, object: &mut Value) {
        match &self.0 {
            Source::Builtin(t) => builtin::default(t, object),
            Source::Custom(node) => node.default(object),
        }
    }

    /// The mistakes in an object. For a built-in kind: values of wrong types and missing required fields
    /// outside `status`; for a custom kind all that its schema says.
    pub fn validate(&self, object: &Value, path: &Path) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match &self.0 {
            Source::Builtin(t) => builtin::validate(t, object, path, &mut errors),
            Source::Custom(node) => node.validate(object, path, &mut errors),
        }
        errors
    }

    /// For a built-in kind: fails as upstream's decoder does when a value has the wrong JSON type.
    ///
    /// # Errors
    /// 400: `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
    pub fn decode(&self, object: &Value) -> Result<()> {
        match &self.0 {
            Source::Builtin(t) => builtin::decode(t, object),
            Source::Custom(_) => Ok(()),
        }
    }

    /// For a custom kind: its OpenAPI v3 schema as the CRD has it.
    pub fn open_api(&self) -> Option<&Value> {
        match &self.0 {
            Source::Builtin(_) => None,
            Source::Custom(node) => Some(node.source()),
        }
    }

    /// The definition of a built-in kind: field types, list keys, patch strategies, texts.
    pub fn definition(&self) -> Option<&'static Type> {
        match &self.0 {
            Source::Builtin(t) => Some(t),
            Source::Custom(_) => None,
        }
    }
}
