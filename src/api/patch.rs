//! Patches: pure functions from an object and a patch to the patched object.
//!
//! Keeps true: an original is never changed in place, so a failed patch changes nothing. Server-side apply,
//! what a user may change and conflicts between writers are left to the API server.

pub mod json;
pub mod merge;
pub mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;
