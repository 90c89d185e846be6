//! `/containerLogs`: the options of `kubectl logs` made into a stream of the log file.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio_stream::wrappers::ReceiverStream;

use super::{App, Named, Pairs, Shared, flag, text, value};
use crate::{logs, manager::log_path, pod::view::Run};

fn options(pairs: &[(String, String)]) -> Result<logs::Options, String> {
    let number = |name: &str| match value(pairs, name) {
        None => Ok(None),
        Some(text) => text.parse::<usize>().map(Some).map_err(|_| format!("invalid {name}: {text}")),
    };
    let seconds = number("sinceSeconds")?.and_then(|seconds| i64::try_from(seconds).ok());
    let since = seconds.map(|seconds| Timestamp::now() - SignedDuration::from_secs(seconds));
    let time = match value(pairs, "sinceTime") {
        None => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|_| format!("invalid sinceTime: {text}"))?),
    };
    Ok(logs::Options {
        tail: number("tailLines")?,
        since: since.or(time),
        timestamps: flag(pairs, "timestamps"),
        follow: flag(pairs, "follow"),
        limit: number("limitBytes")?,
        stream: match value(pairs, "stream") {
            Some("Stdout") => Some("stdout".into()),
            Some("Stderr") => Some("stderr".into()),
            _ => None,
        },
    })
}

pub(super) async fn serve(State(app): Shared, Path(named): Named, Query(pairs): Pairs) -> Response {
    let (namespace, pod, container) = named;
    let options = match options(&pairs) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let Some(found) = app.manager.find(&namespace, &pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
    };
    let previous = flag(&pairs, "previous");
    let chosen = match previous {
        true => found.view.of(&container).filter(|one| one.run == Run::Exited).find(|one| {
            found
                .view
                .newest(&container)
                .is_none_or(|newest| newest.id != one.id || newest.run == Run::Exited)
        }),
        false => found.view.of(&container).find(|one| one.run != Run::Created),
    };
    let Some(instance) = chosen.cloned() else {
        let kind = if previous { "previous terminated " } else { "" };
        let message =
            format!("{kind}container \"{container}\" in pod \"{pod}\" is waiting to start or not found");
        return text(StatusCode::BAD_REQUEST, message);
    };
    let path = log_path(&app.context, &found.pod, &container, instance.restarts);
    let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(64);
    let id = instance.id.clone();
    // The reader ends by itself when the receiver is gone or the container has ended.
    tokio::spawn(async move {
        let app: Arc<App> = app;
        let alive = || {
            let view = app.manager.find(&namespace, &pod).map(|found| found.view);
            let alive = view.is_some_and(|view| view.alive().any(|one| one.id == id));
            std::future::ready(alive)
        };
        if let Err(error) = logs::read(path, options, send, alive).await {
            tracing::debug!(%error, pod, container, "cannot read the log");
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receive).map(Ok::<_, std::io::Error>));
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}
