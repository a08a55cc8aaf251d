//! Who may call what: one table for the routes of people. The gate reads it, the API's document shows it, and a server
//! with a route that is not in it does not start. Handlers ask for more only where a route alone does not decide: a task
//! of a kind that only few may ask for, a file of the server's.

use std::{collections::HashMap, sync::LazyLock};

use hostler_model::{caller::Access, role::Role, scope::Scope};
use http::Method;
use utoipa::openapi::{OpenApi, PathItem};

/// One line of the table.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Row {
    /// How.
    pub(super) method: Method,
    /// The route, as the router spells it.
    pub(super) route: &'static str,
    /// Who.
    pub(super) access: Access,
}

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

/// The table. A task's kind may ask for more than its route does.
pub(super) const TABLE: &[Row] = &[
    row(GET, "/healthz", Access::Anyone),
    row(GET, "/readyz", Access::Anyone),
    row(GET, "/metrics", admin(Scope::MetricsRead)),
    row(GET, "/.well-known/jwks.json", Access::Anyone),
    row(GET, "/openapi.json", Access::Known),
    row(GET, "/docs", Access::Known),
    row(GET, "/docs/{file}", Access::Known),
    row(GET, "/api/v1/tasks", tenant(Role::Viewer, Scope::TaskRead)),
    row(POST, "/api/v1/tasks", tenant(Role::Operator, Scope::TaskWrite)),
    row(GET, "/api/v1/tasks/{task}", tenant(Role::Viewer, Scope::TaskRead)),
    row(GET, "/api/v1/tasks/{task}/log", tenant(Role::Viewer, Scope::TaskRead)),
    row(GET, "/api/v1/tasks/{task}/proof", tenant(Role::Viewer, Scope::TaskRead)),
    row(GET, "/api/v1/tasks/stats", tenant(Role::Viewer, Scope::TaskRead)),
    row(GET, "/api/v1/tasks/kinds", tenant(Role::Viewer, Scope::TaskRead)),
    row(GET, "/api/v1/tasks/dead", tenant(Role::Viewer, Scope::TaskRead)),
    row(POST, "/api/v1/tasks/dead/retry", tenant(Role::Operator, Scope::TaskWrite)),
    row(POST, "/api/v1/tasks/dead/purge", tenant(Role::Operator, Scope::TaskWrite)),
    row(POST, "/api/v1/tasks/batch", tenant(Role::Operator, Scope::TaskWrite)),
    row(POST, "/api/v1/tasks/{task}/cancel", tenant(Role::Operator, Scope::TaskWrite)),
    row(POST, "/api/v1/tasks/{task}/retry", tenant(Role::Operator, Scope::TaskWrite)),
    row(POST, "/api/v1/tasks/{task}/force", admin(Scope::TaskWrite)),
    row(GET, "/api/v1/vms", tenant(Role::Viewer, Scope::VmRead)),
    row(POST, "/api/v1/vms", tenant(Role::Operator, Scope::VmWrite)),
    row(GET, "/api/v1/vms/{vm}", tenant(Role::Viewer, Scope::VmRead)),
    row(PATCH, "/api/v1/vms/{vm}", tenant(Role::Operator, Scope::VmWrite)),
    row(DELETE, "/api/v1/vms/{vm}", tenant(Role::Operator, Scope::VmWrite)),
    row(POST, "/api/v1/vms/{vm}/exec", tenant(Role::Operator, Scope::VmExec)),
    row(POST, "/api/v1/vms/{vm}/start", tenant(Role::Operator, Scope::VmWrite)),
    row(POST, "/api/v1/vms/{vm}/stop", tenant(Role::Operator, Scope::VmWrite)),
    row(POST, "/api/v1/vms/{vm}/reboot", tenant(Role::Operator, Scope::VmWrite)),
    row(POST, "/api/v1/vms/{vm}/pause", tenant(Role::Operator, Scope::VmWrite)),
    row(POST, "/api/v1/vms/{vm}/resume", tenant(Role::Operator, Scope::VmWrite)),
    row(GET, "/api/v1/vms/{vm}/snapshots", tenant(Role::Viewer, Scope::SnapshotRead)),
    row(POST, "/api/v1/vms/{vm}/snapshots", tenant(Role::Operator, Scope::SnapshotWrite)),
    row(POST, "/api/v1/vms/{vm}/restore", tenant(Role::Operator, Scope::SnapshotWrite)),
    row(GET, "/api/v1/snapshots", tenant(Role::Viewer, Scope::SnapshotRead)),
    row(GET, "/api/v1/snapshots/{snapshot}", tenant(Role::Viewer, Scope::SnapshotRead)),
    row(DELETE, "/api/v1/snapshots/{snapshot}", tenant(Role::Operator, Scope::SnapshotWrite)),
    row(POST, "/api/v1/vms/{vm}/rename", tenant(Role::Operator, Scope::VmWrite)),
    row(GET, "/api/v1/images", tenant(Role::Viewer, Scope::ImageRead)),
    row(PUT, "/api/v1/images", tenant(Role::TenantAdmin, Scope::ImageWrite)),
    row(GET, "/api/v1/images/{image}", tenant(Role::Viewer, Scope::ImageRead)),
    row(PUT, "/api/v1/images/{image}", tenant(Role::TenantAdmin, Scope::ImageWrite)),
    row(DELETE, "/api/v1/images/{image}", tenant(Role::TenantAdmin, Scope::ImageWrite)),
    row(PUT, "/api/v1/images/{image}/content", tenant(Role::TenantAdmin, Scope::ImageWrite)),
    row(POST, "/api/v1/images/{image}/import", tenant(Role::TenantAdmin, Scope::ImageWrite)),
    row(POST, "/api/v1/images/{image}/pull", tenant(Role::Operator, Scope::ImageWrite)),
    row(GET, "/api/v1/imports", tenant(Role::Viewer, Scope::ImageRead)),
    row(GET, "/api/v1/imports/{import}", tenant(Role::Viewer, Scope::ImageRead)),
    row(POST, "/api/v1/imports/{import}/cancel", tenant(Role::TenantAdmin, Scope::ImageWrite)),
    row(GET, "/api/v1/catalogue", tenant(Role::Viewer, Scope::ImageRead)),
    row(PUT, "/api/v1/blobs/{sha256}", tenant(Role::TenantAdmin, Scope::ImageWrite)),
    row(GET, "/api/v1/blobs/{sha256}", tenant(Role::TenantAdmin, Scope::ImageRead)),
    row(GET, "/api/v1/events", tenant(Role::Viewer, Scope::EventRead)),
    row(GET, "/api/v1/audit", tenant(Role::TenantAdmin, Scope::AuditRead)),
    row(GET, "/api/v1/audit/export", tenant(Role::TenantAdmin, Scope::AuditRead)),
    row(GET, "/api/v1/audit/authority", tenant(Role::TenantAdmin, Scope::AuditRead)),
    row(GET, "/api/v1/quota", tenant(Role::Viewer, Scope::QuotaRead)),
    row(GET, "/api/v1/tenants", admin(Scope::TenantRead)),
    row(POST, "/api/v1/tenants", admin(Scope::TenantWrite)),
    row(GET, "/api/v1/tenants/{tenant}", tenant(Role::Viewer, Scope::TenantRead)),
    row(PATCH, "/api/v1/tenants/{tenant}", admin(Scope::TenantWrite)),
    row(DELETE, "/api/v1/tenants/{tenant}", admin(Scope::TenantWrite)),
    row(GET, "/api/v1/tenants/{tenant}/quota", tenant(Role::Viewer, Scope::QuotaRead)),
    row(PATCH, "/api/v1/tenants/{tenant}/quota", admin(Scope::QuotaWrite)),
    row(POST, "/api/v1/tenants/{tenant}/quota/recalculate", admin(Scope::QuotaWrite)),
    row(POST, "/api/v1/nodes/{node}/recalculate", admin(Scope::NodeWrite)),
    row(GET, "/api/v1/tenants/{tenant}/reservations", tenant(Role::Viewer, Scope::QuotaRead)),
    row(POST, "/api/v1/tenants/{tenant}/reservations", admin(Scope::QuotaWrite)),
    row(DELETE, "/api/v1/tenants/{tenant}/reservations/{reservation}", admin(Scope::QuotaWrite)),
    row(GET, "/api/v1/nodes", tenant(Role::Viewer, Scope::NodeRead)),
    row(POST, "/api/v1/nodes", admin(Scope::NodeWrite)),
    row(GET, "/api/v1/nodes/{node}", tenant(Role::Viewer, Scope::NodeRead)),
    row(PATCH, "/api/v1/nodes/{node}", admin(Scope::NodeWrite)),
    row(DELETE, "/api/v1/nodes/{node}", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/nodes/{node}/drain", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/nodes/{node}/approve", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/nodes/{node}/cordon", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/nodes/{node}/uncordon", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/nodes/{node}/revoke", admin(Scope::NodeWrite)),
    row(GET, "/api/v1/unassigned", admin(Scope::NodeRead)),
    row(POST, "/api/v1/unassigned/claim", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/join-tokens", admin(Scope::NodeWrite)),
    row(GET, "/api/v1/keys", admin(Scope::KeyRead)),
    row(POST, "/api/v1/keys", admin(Scope::KeyWrite)),
    row(POST, "/api/v1/keys/{key}/activate", admin(Scope::KeyWrite)),
    row(POST, "/api/v1/keys/{key}/retire", admin(Scope::KeyWrite)),
    row(POST, "/api/v1/keys/{key}/revoke", admin(Scope::KeyWrite)),
    row(POST, "/api/v1/master-key/retire", admin(Scope::KeyWrite)),
    row(POST, "/api/v1/master-key/rotate", admin(Scope::KeyWrite)),
    row(POST, "/api/v1/nodes/{node}/refresh", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/nodes/{node}/pause", admin(Scope::NodeWrite)),
    row(POST, "/api/v1/nodes/{node}/resume", admin(Scope::NodeWrite)),
    row(PUT, "/api/v1/nodes/{node}/transport", admin(Scope::NodeWrite)),
    row(GET, "/api/v1/tokens", tenant(Role::Viewer, Scope::TokenRead)),
    row(POST, "/api/v1/tokens", tenant(Role::Viewer, Scope::TokenWrite)),
    row(GET, "/api/v1/tokens/{token}", tenant(Role::Viewer, Scope::TokenRead)),
    row(DELETE, "/api/v1/tokens/{token}", tenant(Role::Viewer, Scope::TokenWrite)),
    row(GET, "/api/v1/service-accounts", tenant(Role::Viewer, Scope::TokenRead)),
    row(POST, "/api/v1/service-accounts", tenant(Role::TenantAdmin, Scope::TokenWrite)),
    row(DELETE, "/api/v1/service-accounts/{account}", tenant(Role::TenantAdmin, Scope::TokenWrite)),
    row(GET, "/api/v1/whoami", Access::Known),
    row(GET, "/api/v1/login", Access::Anyone),
    row(GET, "/api/v1/doctor", admin(Scope::DoctorRead)),
];

const fn row(method: Method, route: &'static str, access: Access) -> Row {
    Row { method, route, access }
}

/// A tenant's work: this role or one above it, with this scope.
const fn tenant(from: Role, scope: Scope) -> Access {
    Access::Tenant { from, scope }
}

/// The platform's work, with this scope.
const fn admin(scope: Scope) -> Access {
    Access::Admin { scope }
}

/// Whether a person opens this route in a browser, which can only send a name and a password: the token counts as the
/// password here. Nowhere else, because a browser adds them to requests that other pages make it send.
pub(super) fn by_browser(route: &str) -> bool {
    ["/docs", "/docs/{file}", "/openapi.json"].contains(&route)
}

/// The lines for a route.
pub(super) fn of_route(route: &str) -> &'static [&'static Row] {
    static BY_ROUTE: LazyLock<HashMap<&str, Vec<&Row>>> = LazyLock::new(|| {
        let mut by_route: HashMap<&str, Vec<&Row>> = HashMap::new();
        for row in TABLE {
            by_route.entry(row.route).or_default().push(row);
        }
        by_route
    });
    BY_ROUTE.get(route).map_or(&[], Vec::as_slice)
}

/// The line for a method and a route. A HEAD is allowed to whoever may GET.
pub(super) fn find(method: &Method, route: &str) -> Option<&'static Row> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    of_route(route).iter().find(|row| row.method == *method).copied()
}

/// What of a router's document has no line in the table. The gate lets nobody through to it; a server does not start.
pub(super) fn unlisted(document: &OpenApi) -> Vec<String> {
    let paths = document.paths.paths.iter();
    let routes = paths.flat_map(|(path, item)| methods(item).into_iter().map(move |method| (method, path)));
    let unknown = routes.filter(|(method, path)| find(method, path).is_none());
    unknown.map(|(method, path)| format!("{method} {path}")).collect()
}

/// The methods of a route.
fn methods(item: &PathItem) -> Vec<Method> {
    let known = [
        (GET, &item.get),
        (POST, &item.post),
        (PUT, &item.put),
        (PATCH, &item.patch),
        (DELETE, &item.delete),
        (Method::HEAD, &item.head),
        (Method::OPTIONS, &item.options),
        (Method::TRACE, &item.trace),
    ];
    known.into_iter().filter(|(_, operation)| operation.is_some()).map(|(method, _)| method).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::openapi::{HttpMethod, path::OperationBuilder};

    use super::*;

    #[test]
    fn the_table_has_every_route_of_the_document_and_no_other() {
        let (_, document) = super::super::router::routes().split_for_parts();
        assert_eq!(unlisted(&document), Vec::<String>::new());
        let listed: BTreeSet<String> = TABLE.iter().map(|row| format!("{} {}", row.method, row.route)).collect();
        assert_eq!(listed.len(), TABLE.len(), "a route is listed twice");
        let documented: usize = document.paths.paths.values().map(|item| methods(item).len()).sum();
        assert_eq!(documented, TABLE.len(), "the table has a line for what is no route");
    }

    #[test]
    fn a_route_without_a_line_is_named() {
        let (_, mut document) = super::super::router::routes().split_for_parts();
        let operation = OperationBuilder::new().build();
        document.paths.paths.insert("/api/v1/forgotten".into(), PathItem::new(HttpMethod::Post, operation));
        assert_eq!(unlisted(&document), ["POST /api/v1/forgotten"]);
    }

    #[test]
    fn a_browser_only_reads() {
        for row in TABLE.iter().filter(|row| by_browser(row.route)) {
            assert_eq!((&row.method, row.access), (&Method::GET, Access::Known), "{}", row.route);
        }
    }

    #[test]
    fn nothing_but_health_and_the_way_in_is_for_anyone() {
        let open: Vec<&str> = TABLE.iter().filter(|row| row.access == Access::Anyone).map(|row| row.route).collect();
        assert_eq!(open, ["/healthz", "/readyz", "/.well-known/jwks.json", "/api/v1/login"]);
    }

    #[test]
    fn whoever_only_reads_changes_nothing() {
        let reads = |scope: Scope| scope.as_str().ends_with(":read");
        for row in TABLE {
            if let Some(scope) = row.access.scope() {
                assert_eq!(reads(scope), row.method == Method::GET, "{} {}", row.method, row.route);
            }
        }
    }
}
