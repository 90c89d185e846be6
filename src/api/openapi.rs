//! OpenAPI documents, derived from the catalog: v3 per group and version, v2 as JSON and as protobuf.
//!
//! Keeps true: what is listed is what is served; the same catalog gives the same bytes on every API server.
//! Documents are large: whoever serves them builds them once per catalog and keeps them.

mod definitions;
mod paths;
mod protobuf;
mod v2;
mod v3;

pub use protobuf::encode as protobuf;
pub use v2::document as v2;
pub use v3::{document as v3, index as v3_index};

/// What clients that want v2 as protobuf accept. The first is what kubectl before 1.27 says: its `@` makes it
/// malformed, so it must never be sent.
pub const PROTOBUF_ACCEPTED: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// The Content-Type of v2 as protobuf, whichever was asked for.
pub const PROTOBUF_CONTENT_TYPE: &str = PROTOBUF_ACCEPTED[1];
