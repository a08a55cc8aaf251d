//! Every route, in one place. Those for people are registered together with their part of the document.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::from_fn_with_state,
    routing::{get, post},
};
use hostler_model::{Code, Refusal, error::excerpt};
use http::{Method, Uri};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    access, audit, blob, docs, document::Head, event, gate, health, image, import, internal, join_token, key, letter,
    node, quota, service_account, snapshot, stats, task, task_log, tenant, token, unassigned, vm, vm_power,
};
use crate::app::{App, Error};

/// Where a node joins: the only internal route that needs no certificate.
pub(super) const JOIN: &str = "/internal/v1/nodes/join";
/// Where a node renews its certificate, also one that has ended.
pub(super) const RENEW: &str = "/internal/v1/nodes/{node}/renew";
const HEARTBEAT: &str = "/internal/v1/nodes/{node}/heartbeat";
const WAIT: &str = "/internal/v1/nodes/{node}/tasks/wait";
const PROGRESS: &str = "/internal/v1/nodes/{node}/tasks/{task}/progress";
const STARTED: &str = "/internal/v1/nodes/{node}/tasks/{task}/started";
const RESULT: &str = "/internal/v1/nodes/{node}/tasks/{task}/result";
const RESULTS: &str = "/internal/v1/nodes/{node}/results";
const SECRET: &str = "/internal/v1/nodes/{node}/tasks/{task}/secrets/{secret}";
const IMAGE: &str = "/internal/v1/nodes/{node}/images/{digest}";
const BLOB: &str = "/internal/v1/nodes/{node}/blobs/{sha256}";
const INTERNAL: [&str; 11] = [JOIN, RENEW, HEARTBEAT, WAIT, STARTED, PROGRESS, RESULT, RESULTS, SECRET, IMAGE, BLOB];

/// The routes of people.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(health::show_health))
        .routes(routes!(health::show_ready))
        .routes(routes!(health::show_metrics))
        .routes(routes!(health::show_document))
        .routes(routes!(docs::show_docs))
        .routes(routes!(docs::show_docs_file))
        .routes(routes!(health::show_diagnosis))
        .routes(routes!(task::list_tasks, task::submit_task))
        .routes(routes!(task::show_task))
        .routes(routes!(task::show_proof))
        .routes(routes!(task::cancel_task))
        .routes(routes!(task::retry_task))
        .routes(routes!(task::force_task))
        .routes(routes!(task_log::read_task_log))
        .routes(routes!(stats::show_task_stats))
        .routes(routes!(task::list_kinds))
        .routes(routes!(letter::list_letters))
        .routes(routes!(letter::retry_letters))
        .routes(routes!(letter::purge_letters))
        .routes(routes!(letter::submit_batch))
        .routes(routes!(vm::list_vms, vm::create_vm))
        .routes(routes!(vm::show_vm, vm::edit::patch_vm, vm::delete_vm))
        .routes(routes!(vm::exec_in_vm))
        .routes(routes!(vm_power::start_vm))
        .routes(routes!(vm_power::stop_vm))
        .routes(routes!(vm_power::reboot_vm))
        .routes(routes!(vm_power::pause_vm))
        .routes(routes!(vm_power::resume_vm))
        .routes(routes!(snapshot::list_vm_snapshots, snapshot::take_snapshot))
        .routes(routes!(snapshot::restore_vm))
        .routes(routes!(snapshot::list_snapshots))
        .routes(routes!(snapshot::show_snapshot, snapshot::delete_snapshot))
        .routes(routes!(vm::edit::rename_vm))
        .routes(routes!(node::list_nodes, node::add_node))
        .routes(routes!(node::show_node, node::edit::patch_node, node::drain::remove_node))
        .routes(routes!(node::drain::drain_node))
        .routes(routes!(node::approve_node))
        .routes(routes!(node::cordon_node))
        .routes(routes!(node::uncordon_node))
        .routes(routes!(node::revoke_node))
        .routes(routes!(join_token::make_join_token))
        .routes(routes!(key::list_keys, key::stage_key))
        .routes(routes!(key::activate_key))
        .routes(routes!(key::retire_key))
        .routes(routes!(key::revoke_key))
        .routes(routes!(key::rotate_master_key))
        .routes(routes!(key::retire_master_keys))
        .routes(routes!(node::refresh_node))
        .routes(routes!(node::pause_node))
        .routes(routes!(node::resume_node))
        .routes(routes!(node::reroute_node))
        .routes(routes!(unassigned::list_unassigned))
        .routes(routes!(unassigned::claim_unassigned))
        .routes(routes!(image::list_images, image::put_image))
        .routes(routes!(image::show_image, image::name_image, image::delete_image))
        .routes(routes!(image::pull_image))
        .routes(routes!(import::upload_image))
        .routes(routes!(import::import_image))
        .routes(routes!(import::list_imports))
        .routes(routes!(import::show_import))
        .routes(routes!(import::cancel_import))
        .routes(routes!(image::list_catalogue))
        .routes(routes!(blob::put_blob, blob::show_blob))
        .routes(routes!(event::follow_events))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::export_audit))
        .routes(routes!(audit::show_authority))
        .routes(routes!(quota::show_quota))
        .routes(routes!(quota::show_tenant_quota, quota::patch_tenant_quota))
        .routes(routes!(quota::recalculate_quota))
        .routes(routes!(quota::recalculate_node))
        .routes(routes!(quota::list_reservations, quota::reserve_quota))
        .routes(routes!(quota::release_quota))
        .routes(routes!(tenant::list_tenants, tenant::create_tenant))
        .routes(routes!(tenant::show_tenant, tenant::patch_tenant, tenant::delete_tenant))
        .routes(routes!(token::list_tokens, token::make_token))
        .routes(routes!(token::show_token, token::revoke_token))
        .routes(routes!(token::whoami))
        .routes(routes!(token::show_jwks))
        .routes(routes!(token::show_login))
        .routes(routes!(service_account::list_service_accounts, service_account::make_service_account))
        .routes(routes!(service_account::delete_service_account))
}

/// What of those has no line in the table of who may call what.
pub(crate) fn unlisted() -> Vec<String> {
    let (_, document) = routes().split_for_parts();
    access::unlisted(&document)
}

/// The router of people.
pub(crate) fn people(app: Arc<App>) -> Router {
    let (router, _) = routes().split_for_parts();
    finish(router).layer(from_fn_with_state(app.clone(), gate::people)).with_state(app)
}

/// The router of agents.
pub(crate) fn agents(app: Arc<App>) -> Router {
    let router = Router::new()
        .route(JOIN, post(internal::join))
        .route(RENEW, post(internal::renew))
        .route(HEARTBEAT, post(internal::heartbeat))
        .route(WAIT, get(internal::wait).delete(internal::end_wait))
        .route(STARTED, post(internal::started))
        .route(PROGRESS, post(internal::progress))
        .route(RESULT, post(internal::result))
        .route(RESULTS, post(internal::results))
        .route(SECRET, get(internal::secret))
        .route(IMAGE, get(internal::manifest))
        .route(BLOB, get(internal::bytes));
    finish(router).layer(from_fn_with_state(app.clone(), gate::agents)).with_state(app)
}

/// The internal route of this spelling.
pub(super) fn internal_route(path: Option<&str>) -> Option<&'static str> {
    INTERNAL.into_iter().find(|route| Some(*route) == path)
}

fn finish(router: Router<Arc<App>>) -> Router<Arc<App>> {
    // Bodies are read with limits of their own (`body.rs`).
    router
        .fallback(no_route)
        .method_not_allowed_fallback(async |request: Request| Error::from(no_method(request.method(), request.uri())))
        .layer(DefaultBodyLimit::disable())
}

async fn no_route(request: Request) -> Error {
    let path = excerpt(request.uri().path());
    Refusal::new(Code::NotFound, format!("there is no route {path}; /openapi.json lists those there are")).into()
}

/// A method that a route does not have.
pub(super) fn no_method(method: &Method, uri: &Uri) -> Refusal {
    let detail = format!("{} does not apply to {}", excerpt(method.as_str()), excerpt(uri.path()));
    Refusal::new(Code::MethodNotAllowed, detail)
}
