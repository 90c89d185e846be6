//! Which objects a list, a watch or a deletecollection is about.

use super::Context;
use crate::watchcache::Entry;
use api::selector::{FieldSelector, LabelSelector};

/// A label and a field selector.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the query's selectors; unknown fields are refused.
    pub(super) fn read(ctx: &Context) -> api::Result<Self> {
        let query = |name| ctx.info.query.get(name).unwrap_or_default();
        let mut fields = query("fieldSelector").to_string();
        let parsed = FieldSelector::parse(&fields)?;
        api::fields::check(&ctx.stored, &parsed)?;
        // The deprecated /watch/ path names its object in the path.
        if ctx.info.verb == "watch" && !ctx.info.name.is_empty() && parsed.required("metadata.name").is_none()
        {
            let comma = if fields.is_empty() { "" } else { "," };
            fields += &format!("{comma}metadata.name={}", ctx.info.name);
        }
        Ok(Selection {
            labels: LabelSelector::parse(query("labelSelector"))?,
            fields: FieldSelector::parse(&fields)?,
        })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        self.labels.matches(Some(&entry.labels)) && self.fields.matches(&entry.fields)
    }
}
