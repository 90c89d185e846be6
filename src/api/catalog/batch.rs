//! Jobs.

use super::{GroupRows, Row, STATUS};
use crate::table::workloads as columns;

pub(super) const GROUPS: &[GroupRows] = &[GroupRows {
    group: "batch",
    version: "v1",
    rows: &[
        Row::new("CronJob", "cronjobs").short(&["cj"]).all().subs(&[STATUS]).columns(columns::CRON_JOBS),
        Row::new("Job", "jobs").all().subs(&[STATUS]).columns(columns::JOBS),
    ],
}];
