//! What requests carry beside their queries and bodies, for the document alone: handlers read it from the request.
#![allow(dead_code)]

use utoipa::IntoParams;

use crate::backup::{BackupId, ReplicaName};

/// The id in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct Id {
    /// A backup's id, as lists show it.
    id: BackupId,
}

/// The replica in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct Replica {
    /// Its name, as the status shows it.
    name: ReplicaName,
}

/// Which settings are to be changed.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Version {
    /// The `ETag` of the settings that were looked at; `*` for any.
    #[param(rename = "If-Match", pattern = r#"^(\*|"[0-9a-f]{64}")$"#)]
    if_match: String,
}

/// Which part of a copy, and when (RFC 9110 sections 13 and 14).
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Conditions {
    /// Only if the copy has one of these `ETag`s.
    #[param(rename = "If-Match", nullable = false)]
    if_match: Option<String>,
    /// Only if the copy has none of these `ETag`s.
    #[param(rename = "If-None-Match", nullable = false)]
    if_none_match: Option<String>,
    /// Only these bytes, such as `bytes=0-1023`; of one database alone. Several ranges get the whole.
    #[param(rename = "Range", nullable = false)]
    range: Option<String>,
    /// `Range` counts only if the copy has this `ETag`.
    #[param(rename = "If-Range", nullable = false)]
    if_range: Option<String>,
}
