//! Who may call what: one table for the routes of people. A route that is not in it answers nobody.

use std::{collections::HashMap, sync::LazyLock};

use hostler_model::kind::Role;
use http::Method;

/// Who may call a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// No credential is needed.
    Anyone,
    /// This role, or one above it.
    From(Role),
}

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

const ANYONE: Access = Access::Anyone;
const VIEWER: Access = Access::From(Role::Viewer);
const OPERATOR: Access = Access::From(Role::Operator);
const TENANT_ADMIN: Access = Access::From(Role::TenantAdmin);
const PLATFORM_ADMIN: Access = Access::From(Role::PlatformAdmin);

/// The table. A task's kind may ask for more than its route does.
pub(super) const TABLE: &[Row] = &[
    row(Method::GET, "/healthz", ANYONE),
    row(Method::GET, "/readyz", ANYONE),
    row(Method::GET, "/metrics", PLATFORM_ADMIN),
    row(Method::GET, "/openapi.json", VIEWER),
    row(Method::GET, "/docs", VIEWER),
    row(Method::GET, "/docs/{file}", VIEWER),
    row(Method::GET, "/api/v1/tasks", VIEWER),
    row(Method::POST, "/api/v1/tasks", OPERATOR),
    row(Method::GET, "/api/v1/tasks/{task}", VIEWER),
    row(Method::GET, "/api/v1/tasks/{task}/log", VIEWER),
    row(Method::GET, "/api/v1/tasks/stats", VIEWER),
    row(Method::GET, "/api/v1/tasks/kinds", VIEWER),
    row(Method::GET, "/api/v1/tasks/dead", VIEWER),
    row(Method::POST, "/api/v1/tasks/dead/retry", OPERATOR),
    row(Method::POST, "/api/v1/tasks/dead/purge", OPERATOR),
    row(Method::POST, "/api/v1/tasks/batch", OPERATOR),
    row(Method::POST, "/api/v1/tasks/{task}/cancel", OPERATOR),
    row(Method::POST, "/api/v1/tasks/{task}/retry", OPERATOR),
    row(Method::POST, "/api/v1/tasks/{task}/force", PLATFORM_ADMIN),
    row(Method::GET, "/api/v1/vms", VIEWER),
    row(Method::POST, "/api/v1/vms", OPERATOR),
    row(Method::GET, "/api/v1/vms/{vm}", VIEWER),
    row(Method::PATCH, "/api/v1/vms/{vm}", OPERATOR),
    row(Method::DELETE, "/api/v1/vms/{vm}", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/exec", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/start", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/stop", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/reboot", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/pause", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/resume", OPERATOR),
    row(Method::GET, "/api/v1/vms/{vm}/snapshots", VIEWER),
    row(Method::POST, "/api/v1/vms/{vm}/snapshots", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/restore", OPERATOR),
    row(Method::GET, "/api/v1/snapshots", VIEWER),
    row(Method::GET, "/api/v1/snapshots/{snapshot}", VIEWER),
    row(Method::DELETE, "/api/v1/snapshots/{snapshot}", OPERATOR),
    row(Method::POST, "/api/v1/vms/{vm}/rename", OPERATOR),
    row(Method::GET, "/api/v1/images", VIEWER),
    row(Method::PUT, "/api/v1/images", TENANT_ADMIN),
    row(Method::GET, "/api/v1/images/{image}", VIEWER),
    row(Method::PUT, "/api/v1/images/{image}", TENANT_ADMIN),
    row(Method::DELETE, "/api/v1/images/{image}", TENANT_ADMIN),
    row(Method::PUT, "/api/v1/images/{image}/content", TENANT_ADMIN),
    row(Method::POST, "/api/v1/images/{image}/import", TENANT_ADMIN),
    row(Method::POST, "/api/v1/images/{image}/pull", OPERATOR),
    row(Method::GET, "/api/v1/imports", VIEWER),
    row(Method::GET, "/api/v1/imports/{import}", VIEWER),
    row(Method::POST, "/api/v1/imports/{import}/cancel", TENANT_ADMIN),
    row(Method::GET, "/api/v1/catalogue", VIEWER),
    row(Method::PUT, "/api/v1/blobs/{sha256}", TENANT_ADMIN),
    row(Method::GET, "/api/v1/blobs/{sha256}", TENANT_ADMIN),
    row(Method::GET, "/api/v1/events", VIEWER),
    row(Method::GET, "/api/v1/audit", TENANT_ADMIN),
    row(Method::GET, "/api/v1/quota", VIEWER),
    row(Method::GET, "/api/v1/nodes", VIEWER),
    row(Method::POST, "/api/v1/nodes", PLATFORM_ADMIN),
    row(Method::GET, "/api/v1/nodes/{node}", VIEWER),
    row(Method::POST, "/api/v1/nodes/{node}/approve", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/nodes/{node}/cordon", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/nodes/{node}/uncordon", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/nodes/{node}/revoke", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/join-tokens", PLATFORM_ADMIN),
    row(Method::GET, "/api/v1/keys", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/keys", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/keys/{key}/activate", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/keys/{key}/retire", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/keys/{key}/revoke", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/nodes/{node}/refresh", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/nodes/{node}/pause", PLATFORM_ADMIN),
    row(Method::POST, "/api/v1/nodes/{node}/resume", PLATFORM_ADMIN),
    row(Method::PUT, "/api/v1/nodes/{node}/transport", PLATFORM_ADMIN),
    row(Method::GET, "/api/v1/doctor", PLATFORM_ADMIN),
];

const fn row(method: Method, route: &'static str, access: Access) -> Row {
    Row { method, route, access }
}

/// Whether a person opens this route in a browser, which can only send a name and a password: the token counts as the
/// password here. Nowhere else, because a browser adds them to requests that other pages make it send.
pub(super) fn by_browser(route: &str) -> bool {
    ["/docs", "/docs/{file}", "/openapi.json"].contains(&route)
}

/// The line for a method and a route. A HEAD is allowed to whoever may GET.
pub(super) fn find(method: &Method, route: &str) -> Option<&'static Row> {
    static BY_ROUTE: LazyLock<HashMap<&str, Vec<&Row>>> = LazyLock::new(|| {
        let mut by_route: HashMap<&str, Vec<&Row>> = HashMap::new();
        for row in TABLE {
            by_route.entry(row.route).or_default().push(row);
        }
        by_route
    });
    let method = if method == Method::HEAD { &Method::GET } else { method };
    BY_ROUTE.get(route)?.iter().find(|row| row.method == *method).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_has_every_route_of_the_document_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(&crate::openapi()).unwrap();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                documented.insert(format!("{} {path}", method.to_ascii_uppercase()));
            }
        }
        let listed: BTreeSet<String> = TABLE.iter().map(|row| format!("{} {}", row.method, row.route)).collect();
        assert_eq!(documented, listed);
        assert_eq!(listed.len(), TABLE.len(), "a route is listed twice");
    }

    #[test]
    fn a_browser_only_reads() {
        for row in TABLE.iter().filter(|row| by_browser(row.route)) {
            assert_eq!((&row.method, row.access), (&Method::GET, VIEWER), "{}", row.route);
        }
    }

    #[test]
    fn nothing_but_health_is_for_anyone() {
        let open: Vec<&str> = TABLE.iter().filter(|row| row.access == ANYONE).map(|row| row.route).collect();
        assert_eq!(open, ["/healthz", "/readyz"]);
    }
}
