//! Tenants: `/api/v1/tenants`.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, State},
    response::Response,
};
use hostler_model::{
    TenantId,
    api::Page,
    tenant::{NewTenant, Tenant, TenantPatch},
};
use hostler_store::MadeTenant;
use http::{StatusCode, request::Parts};
use serde::Deserialize;

use super::{
    asked::Asked,
    body::{Json, Nothing, Strict, answer},
    cursor::{self, List},
    document::Refusals,
    etag::{IfMatch, tag},
    path::InPath,
    query::{InQuery, PageQuery, before, limit},
};
use crate::app::{App, Error, Result, caller::Call};

/// Whether it is meant.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordQuery {
    /// Answer as if, and write nothing.
    dry_run: bool,
}

/// How a record is changed: in earnest or not, and under which key.
#[derive(Debug)]
pub(super) struct Record(pub(super) Asked);

impl<S: Sync> FromRequestParts<S> for Record {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let InQuery(query) = InQuery::<RecordQuery>::from_request_parts(parts, state).await?;
        Ok(Record(Asked::read(parts, query.dry_run)?))
    }
}

/// Lists tenants, newest first.
#[utoipa::path(get, path = "/api/v1/tenants", tag = "tenants", params(PageQuery),
    responses((status = 200, description = "A page of tenants", body = Page<Tenant>), Refusals))]
pub(super) async fn list_tenants(
    State(app): State<Arc<App>>,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Json<Page<Tenant>>> {
    let limit = limit(query.limit)?;
    let before = before::<TenantId>(List::Tenants, query.cursor.as_deref())?;
    let tenants = app.tenants(before, limit + 1).await?;
    Ok(Json(cursor::page(List::Tenants, tenants, limit, |tenant| tenant.id.0)))
}

/// Makes a tenant. It has nothing: tokens for it are made with `?tenant=`.
#[utoipa::path(post, path = "/api/v1/tenants", tag = "tenants", request_body = NewTenant,
    params(RecordQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "A key of the caller's: a repeat under it gets the first answer")),
    responses(
        (status = 201, description = "The tenant", body = Tenant,
            headers(("ETag" = String, description = "Its generation"), ("Location" = String, description = "The tenant"))),
        (status = 200, description = "As it would be, for a dry run", body = Tenant), Refusals))]
pub(super) async fn create_tenant(
    State(app): State<Arc<App>>,
    call: Call,
    Record(asked): Record,
    body: Strict<NewTenant>,
) -> Result<Response> {
    let terms = asked.terms(&body.sha256);
    let MadeTenant { tenant, replayed } = app.create_tenant(&call, body.value, terms).await?;
    if asked.is_dry_run() {
        return Ok(answer(StatusCode::OK, &tenant));
    }
    let mut response = tagged(StatusCode::CREATED, &tenant);
    asked.mark(&mut response, &format!("/api/v1/tenants/{}", tenant.id), replayed);
    Ok(response)
}

/// Shows a tenant: its limits, and how much it has. A tenant's callers see their own.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = String, Path, description = "Its id or name")),
    responses(
        (status = 200, description = "The tenant", body = Tenant, headers(("ETag" = String, description = "Its generation"))),
        Refusals))]
pub(super) async fn show_tenant(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Response> {
    Ok(tagged(StatusCode::OK, &app.tenant(&call, path.get("tenant")?).await?))
}

/// Changes a tenant's name and limits: what is not named stays, a limit that is null becomes what new tenants get. A limit
/// below what the tenant has takes nothing away: it can only not grow.
#[utoipa::path(patch, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = String, Path, description = "Its id or name"), RecordQuery,
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the tenant as it was read: refused with 412 when it was changed since")),
    request_body(content = TenantPatch, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, description = "The tenant as it is now", body = Tenant, headers(("ETag" = String, description = "Its generation"))),
        Refusals))]
pub(super) async fn patch_tenant(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    IfMatch(if_match): IfMatch,
    Record(asked): Record,
    body: Strict<TenantPatch>,
) -> Result<Response> {
    let terms = asked.matching(if_match).terms(&body.sha256);
    Ok(tagged(StatusCode::OK, &app.edit_tenant(&call, path.get("tenant")?, body.value, terms).await?))
}

/// Deletes a tenant that has nothing any more; what it has is named in the refusal. Its history stays.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = String, Path, description = "Its id or name"), RecordQuery,
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the tenant as it was read: refused with 412 when it was changed since")),
    responses((status = 200, description = "The tenant as it was", body = Tenant), Refusals))]
pub(super) async fn delete_tenant(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    IfMatch(if_match): IfMatch,
    Record(asked): Record,
    body: Strict<Nothing>,
) -> Result<Json<Tenant>> {
    let terms = asked.matching(if_match).terms(&body.sha256);
    Ok(Json(app.delete_tenant(&call, path.get("tenant")?, terms).await?))
}

fn tagged(status: StatusCode, tenant: &Tenant) -> Response {
    let mut response = answer(status, tenant);
    tag(&mut response, tenant.generation);
    response
}
