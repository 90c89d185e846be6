//! The vocabulary of the API: objects, the catalog of kinds, schemas, patches, selectors, errors.
//!
//! Everything here is a pure function or a table: no I/O, no async, no clock except `time::now`. Names and
//! texts are those of Kubernetes 1.35. Who may do what, where objects are kept and how requests arrive is
//! left to the crates above.

pub mod catalog;
pub mod convert;
pub mod field;
pub mod fields;
pub mod jsonpath;
pub mod name;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;

pub use catalog::{Catalog, GroupKind, GroupResource, GroupVersionKind, Resource, Verbs};
pub use object::Object;
pub use schema::Schema;
pub use status::Status;

/// What every fallible operation on behalf of a request returns: the error is the answer to the client.
pub type Result<T> = std::result::Result<T, Status>;
