//! Quotas: the caller's own at `/api/v1/quota`, and those that the platform's administrators look after, below
//! `/api/v1/tenants/{tenant}`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    ReservationId,
    api::{Page, Quota},
    reservation::{NewReservation, Recalculated, RecalculatedNode, Reservation},
    tenant::{LimitsPatch, Tenant, TenantPatch},
};
use hostler_store::MadeReservation;
use http::StatusCode;

use super::{
    asked::mark_replay,
    body::{Json, Nothing, Strict, answer},
    cursor::{self, List},
    document::Refusals,
    etag::{IfMatch, tag},
    path::InPath,
    query::{InQuery, PageQuery, before, limit},
    tenant::{Record, RecordQuery},
};
use crate::app::{App, Result, caller::Call};

/// Shows how much the caller's tenant may have and has.
#[utoipa::path(get, path = "/api/v1/quota", tag = "quota",
    responses((status = 200, description = "The quota", body = Quota), Refusals))]
pub(super) async fn show_quota(State(app): State<Arc<App>>, call: Call) -> Result<Json<Quota>> {
    Ok(Json(app.quota(&call).await?))
}

/// Shows how much a tenant may have and has. A tenant's callers see their own.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/quota", tag = "quota",
    params(("tenant" = String, Path, description = "Its id or name")),
    responses(
        (status = 200, description = "The quota", body = Quota, headers(("ETag" = String, description = "The tenant's generation"))),
        Refusals))]
pub(super) async fn show_tenant_quota(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Response> {
    let tenant = app.tenant(&call, path.get("tenant")?).await?;
    tagged(&app, &tenant).await
}

/// Changes a tenant's limits: what is not named stays, null is what new tenants get, -1 is no limit. A limit below what
/// the tenant has takes nothing away: it can only not grow.
#[utoipa::path(patch, path = "/api/v1/tenants/{tenant}/quota", tag = "quota",
    params(("tenant" = String, Path, description = "Its id or name"), RecordQuery,
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the quota as it was read: refused with 412 when the tenant was changed since")),
    request_body(content = LimitsPatch, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, description = "The quota as it is now", body = Quota, headers(("ETag" = String, description = "The tenant's generation"))),
        Refusals))]
pub(super) async fn patch_tenant_quota(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    IfMatch(if_match): IfMatch,
    Record(asked): Record,
    body: Strict<LimitsPatch>,
) -> Result<Response> {
    let terms = asked.matching(if_match).terms(&body.sha256);
    let patch = TenantPatch { name: None, limits: body.value };
    let tenant = app.edit_tenant(&call, path.get("tenant")?, patch, terms).await?;
    tagged(&app, &tenant).await
}

/// Counts a tenant's book anew from what exists, and says what differed. Where nothing is broken, nothing does.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/quota/recalculate", tag = "quota",
    params(("tenant" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The book as it was kept, and as it is now", body = Recalculated), Refusals))]
pub(super) async fn recalculate_quota(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Recalculated>> {
    Ok(Json(app.recalculate(&call, path.get("tenant")?).await?))
}

/// Counts a node's book anew from what exists, and says what differed. Where nothing is broken, nothing does.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/recalculate", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The book as it was kept, and as it is now", body = RecalculatedNode), Refusals))]
pub(super) async fn recalculate_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<RecalculatedNode>> {
    Ok(Json(app.recalculate_node(&call, path.get("node")?).await?))
}

/// Holds amounts for a tenant, within its limits, until they are released or their time is up.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/reservations", tag = "quota", request_body = NewReservation,
    params(("tenant" = String, Path, description = "Its id or name"), RecordQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "A key of the caller's: a repeat under it gets the first answer")),
    responses(
        (status = 201, description = "The reservation", body = Reservation),
        (status = 200, description = "As it would be, for a dry run", body = Reservation), Refusals))]
pub(super) async fn reserve_quota(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    Record(asked): Record,
    body: Strict<NewReservation>,
) -> Result<Response> {
    let terms = asked.terms(&body.sha256);
    let status = if asked.is_dry_run() { StatusCode::OK } else { StatusCode::CREATED };
    let MadeReservation { reservation, replayed } = app.reserve(&call, path.get("tenant")?, body.value, terms).await?;
    let mut response = answer(status, &reservation);
    mark_replay(&mut response, replayed);
    Ok(response)
}

/// Lists what is held for a tenant by hand, newest first. A tenant's callers see their own.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/reservations", tag = "quota",
    params(("tenant" = String, Path, description = "Its id or name"), PageQuery),
    responses((status = 200, description = "A page of reservations", body = Page<Reservation>), Refusals))]
pub(super) async fn list_reservations(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Json<Page<Reservation>>> {
    let limit = limit(query.limit)?;
    let before = before::<ReservationId>(List::Reservations, query.cursor.as_deref())?;
    let tenant = app.tenant(&call, path.get("tenant")?).await?.id;
    let reservations = app.reservations(tenant, before, limit + 1).await?;
    Ok(Json(cursor::page(List::Reservations, reservations, limit, |one| one.id.0)))
}

/// Gives back what was held. Released once more, it is not there any more.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}/reservations/{reservation}", tag = "quota",
    params(("tenant" = String, Path, description = "Its id or name"), ("reservation" = String, Path, description = "Its id")),
    responses((status = 200, description = "The reservation as it was", body = Reservation), Refusals))]
pub(super) async fn release_quota(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Reservation>> {
    Ok(Json(app.release(&call, path.get("tenant")?, path.get("reservation")?).await?))
}

async fn tagged(app: &App, tenant: &Tenant) -> Result<Response> {
    let mut response = answer(StatusCode::OK, &app.quota_of(tenant).await?);
    tag(&mut response, tenant.generation);
    Ok(response)
}
