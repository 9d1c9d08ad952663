//! What changes anything: only from loopback.

use hyper::StatusCode;
use tracing::info;

use super::view::{View, shown};
use crate::api::connections::Connections;
use crate::api::serve::{Request, Response, Router, respond, segment};
use crate::connection::ConnectionId;
use crate::drain::{FORCE_CLOSE_PERIOD, Trigger};
use crate::relay::Order;

pub(super) fn routes(router: Router, view: &View) -> Router {
    let drain = view.clone();
    let undrain = view.clone();
    let list = view.clone();
    let delete = view.clone();
    router
        .post("/drain", move |_| {
            drain.drain.trigger(Trigger::Endpoint);
            let response = respond::json(StatusCode::OK, &(drain.report)());
            async move { response }
        })
        .post("/undrain", move |_| {
            let response = match undrain.drain.undrain() {
                Ok(()) => respond::json(StatusCode::OK, &(undrain.report)()),
                Err(why) => respond::text(StatusCode::CONFLICT, format!("{why}\n")),
            };
            async move { response }
        })
        .get("/connections", move |_| {
            let connections = list.table.list().iter().map(|entry| shown(entry)).collect();
            let response = respond::json(StatusCode::OK, &Connections { connections });
            async move { response }
        })
        .delete("/connections/{}", move |request: Request| {
            let response = close(&delete, &request);
            async move { response }
        })
}

/// FIN to both sides, and a reset for who has not taken it in time.
fn close(view: &View, request: &Request) -> Response {
    let id = segment(request, 1);
    let Ok(id) = id.parse::<ConnectionId>() else {
        return respond::text(
            StatusCode::BAD_REQUEST,
            "an id is a number, as /connections lists it\n",
        );
    };
    let Some(entry) = view.table.find(id) else {
        return respond::text(StatusCode::NOT_FOUND, "no such connection is open\n");
    };
    info!(id = id.to_string(), peer = %entry.peer, "closing a connection on request");
    entry.control.order(Order::Close);
    let answer = respond::json(StatusCode::OK, &shown(&entry));
    tokio::spawn(async move {
        tokio::time::sleep(FORCE_CLOSE_PERIOD).await;
        entry.control.order(Order::Reset);
    });
    answer
}
