//! A walk through the API's document as everybody who may come: each role under each audience, another tenant, nobody,
//! and holders of credentials that are expired, forged or too narrow. What the document says of a route must hold.

use std::{collections::BTreeSet, time::Duration};

use hostler_model::{
    PrincipalId, TenantId,
    caller::{Audience, Caller},
    role::Role,
    scope::{Scope, Scopes},
};
use hostler_trust::ApiToken;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Call, World, stranger},
    snapshot,
};

/// Routes that answer without a credential. Each is here for a reason, and the list may only shrink.
const OPEN: [(&str, &str); 4] = [
    ("GET /healthz", "whoever watches the process has no token"),
    ("GET /readyz", "nor has whoever balances the load"),
    ("GET /.well-known/jwks.json", "public keys, for whoever verifies a token of ours"),
    ("GET /api/v1/login", "where to log in, for who has not yet"),
];

/// Routes whose path names something that need not be there yet, in the caller's own tenant: nothing of another tenant is
/// meant by it. The list may only shrink.
const OWN_NAMES: [(&str, &str); 3] = [
    ("PUT /api/v1/images/{image}", "the name that an image of one's own gets"),
    ("PUT /api/v1/images/{image}/content", "the name of what is uploaded"),
    ("POST /api/v1/images/{image}/import", "the name of what is imported"),
];

/// A route as the document has it.
struct Route {
    method: Method,
    path: String,
    /// The least role and the scope; `None` where any credential will do, or none.
    needs: Option<(Role, Scope)>,
}

impl Route {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn is_open(&self) -> bool {
        OPEN.iter().any(|(open, _)| *open == self.name())
    }

    /// A request to something that is not there.
    fn call(&self, world: &World) -> Call {
        let path = self.path.replace("{task}", "01900000-0000-7000-8000-000000000042");
        let path = path.replace("{sha256}", &"0".repeat(64)).replace("{file}", "index.html");
        let mut filled = String::new();
        for part in path.split_inclusive('/') {
            filled.push_str(match part.strip_suffix('/').unwrap_or(part) {
                name if name.starts_with('{') && part.ends_with('/') => "no-such/",
                name if name.starts_with('{') => "no-such",
                _ => part,
            });
        }
        Call::new(world.server.api(), self.method.clone(), &filled)
    }
}

fn routes() -> Vec<Route> {
    let document: Value = serde_json::from_str(&hostler_control::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let words = operation["security"][0]["bearer"].as_array().cloned().unwrap_or_default();
            let word = |at: usize| words.get(at).and_then(Value::as_str);
            let needs = word(0).map(|role| (role.parse().unwrap(), word(1).unwrap().parse().unwrap()));
            routes.push(Route { method: method.to_ascii_uppercase().parse().unwrap(), path: path.clone(), needs });
        }
    }
    assert!(routes.len() > 60);
    routes
}

fn somebody(world: &World, audience: Audience, role: Role) -> Caller {
    let caller = Caller::new(world.ids.next::<PrincipalId>(world.clock.now()), TenantId::DEFAULT, role);
    Caller { audience, ..caller }
}

/// The status, and the problem where there is one. A stream is not read.
async fn asked(call: Call) -> (StatusCode, Value) {
    let response = call.stream().await;
    let (status, problem) =
        (response.status(), response.headers().get("content-type").is_some_and(|it| it == "application/problem+json"));
    if !problem {
        return (status, Value::Null);
    }
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn every_role_and_audience_may_what_the_document_says_and_no_more() {
    let world = World::new().await;
    for audience in Audience::ALL {
        for role in Role::ALL {
            let token = world.token_of(somebody(&world, audience, role)).await;
            let counts = if audience == Audience::Tenant { role.min(Role::TenantAdmin) } else { role };
            for route in routes() {
                let may = route.needs.is_none_or(|(needed, _)| counts >= needed);
                let (status, problem) = asked(route.call(&world).bearer(&token)).await;
                let who = format!("{} as {role} for {audience}: {status} {problem}", route.name());
                assert_eq!(status == StatusCode::FORBIDDEN, !may, "{who}");
                assert!(status != StatusCode::UNAUTHORIZED && !status.is_server_error(), "{who}");
                if !may {
                    assert_eq!(problem["needed_role"], json!(route.needs.unwrap().0), "{who}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_credential_that_is_narrowed_may_what_its_scopes_say_and_no_more() {
    let world = World::new().await;
    let admin = somebody(&world, Audience::Admin, Role::PlatformAdmin);
    for scope in Scope::ALL {
        let others = Scope::ALL.iter().copied();
        let others: BTreeSet<Scope> = others.filter(|other| !Scopes::Only([*other].into()).allow(*scope)).collect();
        let with = async |scopes| world.token_of(Caller { scopes: Scopes::Only(scopes), ..admin.clone() }).await;
        let (narrow, other) = (with([*scope].into()).await, with(others).await);
        for route in routes().iter().filter(|route| route.needs.is_some_and(|(_, needed)| needed == *scope)) {
            let (status, problem) = asked(route.call(&world).bearer(&narrow)).await;
            assert!(![401, 403].contains(&status.as_u16()), "{} with {scope}: {status} {problem}", route.name());
            let (status, problem) = asked(route.call(&world).bearer(&other)).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{} without {scope}: {problem}", route.name());
            assert_eq!(problem["needed_scope"], json!(scope), "{}", route.name());
        }
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_good_credential() {
    let world = World::new().await;
    let now = world.clock.now();
    let soon = Caller {
        expires_at: Some(now.plus(Duration::from_secs(60))),
        ..somebody(&world, Audience::Admin, Role::PlatformAdmin)
    };
    let soon = world.token_of(soon).await;
    assert_eq!(world.get("/api/v1/quota").bearer(&soon).send().await.status, StatusCode::OK);
    world.pass(Duration::from_secs(60));
    let forged = ApiToken::generate(&world.ids).reveal();
    let before = world.marks().await;
    for route in routes() {
        for (what, token) in [("no token", None), ("an expired one", Some(&soon)), ("a forged one", Some(&forged))] {
            let call = route.call(&world);
            let (status, problem) = asked(match token {
                Some(token) => call.bearer(token),
                None => call,
            })
            .await;
            if route.is_open() {
                assert_eq!(status, StatusCode::OK, "{} with {what}", route.name());
                continue;
            }
            let code = problem["code"].as_str();
            assert_eq!((status.as_u16(), code), (401, Some("UNAUTHENTICATED")), "{} with {what}", route.name());
            assert_eq!(problem["expired_at"].is_string(), what == "an expired one", "{problem}");
        }
    }
    for path in ["/", "/api/v1/nothing", "/internal/v1/nodes/join"] {
        assert_eq!(world.get(path).no_credential().send().await.code(), "UNAUTHENTICATED", "{path}");
    }
    assert_eq!(world.marks().await, before);
}

/// What another tenant asks for at each route that names a thing, so that nothing but the thing's owner is wrong with it.
fn body(route: &Route) -> Value {
    match route.name().as_str() {
        "POST /api/v1/vms/{vm}/exec" => json!({"argv": ["true"]}),
        "POST /api/v1/vms/{vm}/rename" => json!({"name": "other"}),
        "POST /api/v1/vms/{vm}/restore" => json!({"snapshot": "one"}),
        "PATCH /api/v1/vms/{vm}" => json!({"labels": {"a": "b"}}),
        _ => json!({}),
    }
}

#[tokio::test]
async fn another_tenants_things_are_not_there() {
    let (world, agent) = World::ready().await;
    let vm = snapshot::running(&world, &agent).await;
    let frozen = snapshot::ready(&world, &agent).await;
    let task = world.echo("mine").await.id;
    let image = world.get("/api/v1/images/tiny").send().await.json();
    let fetch = world.post("/api/v1/images/other/import", json!({"url": "http://127.0.0.1:9/none"}));
    let import = fetch.header("prefer", "wait=10").send().await.json();
    let token = world.post("/api/v1/tokens", json!({"label": "mine"})).send().await.json();
    let account = world.post("/api/v1/service-accounts", json!({"name": "ci", "role": "viewer"})).send().await.json();
    let things = [
        ("{vm}", json!(vm)),
        ("{token}", token["about"]["id"].clone()),
        ("{account}", account["name"].clone()),
        ("{task}", json!(task)),
        ("{snapshot}", json!(frozen)),
        ("{image}", image["digest"].clone()),
        ("{import}", import["import"]["id"].clone()),
    ];
    let before = world.marks().await;
    let mut seen = BTreeSet::new();
    for route in routes() {
        let Some((name, id)) = things.iter().find(|(name, _)| route.path.contains(name)) else { continue };
        if OWN_NAMES.iter().any(|(own, _)| *own == route.name()) || route.needs.unwrap().0 == Role::PlatformAdmin {
            continue;
        }
        let id = id.as_str().unwrap_or_else(|| panic!("there is no {name} to ask for"));
        seen.insert(*name);
        let path = route.path.replace(name, id);
        let call = || world.call(route.method.clone(), &path).json(&body(&route));
        let answer = call().bearer(&world.foreign).send().await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{} {}", route.name(), answer.text());
        let confined = world.call(route.method.clone(), &format!("{path}?tenant=stranger")).json(&body(&route));
        let answer = confined.send().await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{} by an administrator for another tenant", route.name());
    }
    assert_eq!(seen.len(), things.len(), "{seen:?}");
    for path in ["/api/v1/tasks", "/api/v1/vms", "/api/v1/images", "/api/v1/audit", "/api/v1/snapshots"] {
        let answer = world.get(path).bearer(&world.foreign).send().await.json();
        let items = answer["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["tenant"] == json!(stranger())), "{path} {answer}");
    }
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn a_tenant_is_named_by_administrators_only() {
    let world = World::new().await;
    let tenant_of = async |path: &str, token: &str| {
        let answer = world.get(path).bearer(token).send().await;
        if answer.status.is_success() {
            return Ok(answer.json()["tenant"].as_str().unwrap().to_owned());
        }
        Err(answer.code())
    };
    let (own, other) = (TenantId::DEFAULT.to_string(), stranger().to_string());
    let admin = world.token(Role::PlatformAdmin);
    assert_eq!(tenant_of("/api/v1/quota", admin).await, Ok(own.clone()));
    for named in ["stranger", &other] {
        assert_eq!(tenant_of(&format!("/api/v1/quota?tenant={named}"), admin).await, Ok(other.clone()));
    }
    assert_eq!(tenant_of("/api/v1/quota?tenant=nobody", admin).await, Err("NOT_FOUND".into()));
    assert_eq!(tenant_of("/api/v1/quota?tenant=", admin).await, Err("VALIDATION_ERROR".into()));
    let tenant = world.token(Role::TenantAdmin);
    assert_eq!(tenant_of(&format!("/api/v1/quota?tenant={own}"), tenant).await, Ok(own));
    assert_eq!(tenant_of("/api/v1/quota?tenant=stranger", tenant).await, Err("NOT_FOUND".into()));
    // The audience is what counts: the same role in a tenant's credential reaches one tenant.
    let capped = world.token_of(somebody(&world, Audience::Tenant, Role::PlatformAdmin)).await;
    assert_eq!(tenant_of("/api/v1/quota?tenant=stranger", &capped).await, Err("NOT_FOUND".into()));
    let homeless = Caller { tenant: None, ..somebody(&world, Audience::Admin, Role::PlatformAdmin) };
    let homeless = world.token_of(homeless).await;
    assert_eq!(tenant_of("/api/v1/quota", &homeless).await, Err("TENANT_ID_REQUIRED".into()));
    assert_eq!(tenant_of("/api/v1/quota?tenant=stranger", &homeless).await, Ok(other));
    assert_eq!(world.get("/api/v1/doctor").bearer(&homeless).send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn headers_do_not_say_who_calls() {
    let world = World::new().await;
    let spoofed = |call: Call| {
        call.header("x-tenant-id", &stranger().to_string())
            .header("x-tenant", "stranger")
            .header("x-roles", "platform-admin")
            .header("x-user", "root")
    };
    let viewer = world.token(Role::Viewer);
    let quota = spoofed(world.get("/api/v1/quota").bearer(viewer)).send().await.json();
    assert_eq!(quota["tenant"], json!(TenantId::DEFAULT));
    assert_eq!(spoofed(world.get("/api/v1/doctor").bearer(viewer)).send().await.code(), "FORBIDDEN");
    assert_eq!(spoofed(world.get("/api/v1/quota").no_credential()).send().await.code(), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_body_may_say_whose_it_is_and_not_that_it_is_anothers() {
    let (world, _agent) = World::ready().await;
    let echo = |tenant: &Value| json!({"kind": "echo", "tenant": tenant});
    for token in [world.token(Role::Operator), world.token(Role::PlatformAdmin)] {
        let post = |body: Value| world.post("/api/v1/tasks", body).bearer(token).send();
        for own in [json!(TenantId::DEFAULT), json!("default")] {
            let answer = post(echo(&own)).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        }
        let before = world.marks().await;
        for other in [json!(stranger()), json!("stranger"), json!("nobody"), json!("")] {
            assert_eq!(post(echo(&other)).await.code(), "FORBIDDEN_OWNERSHIP", "{other}");
            assert_eq!(post(json!({"kind": "echo", "tenantId": other})).await.code(), "FORBIDDEN_OWNERSHIP", "{other}");
        }
        assert_eq!(post(echo(&json!(7))).await.code(), "VALIDATION_ERROR");
        assert_eq!(post(json!({"kind": "echo", "tenant": "default", "colour": 1})).await.code(), "VALIDATION_ERROR");
        let batch = json!({"tasks": [echo(&json!("stranger"))]});
        let answer = world.post("/api/v1/tasks/batch", batch).bearer(token).send().await.json();
        assert_eq!(answer["answers"][0]["problem"]["code"], "FORBIDDEN_OWNERSHIP", "{answer}");
        assert_eq!(world.marks().await, before);
    }
    let answer = world.call(Method::POST, "/api/v1/tasks?tenant=stranger").json(&echo(&json!("stranger"))).send().await;
    assert_eq!(answer.json()["task"]["tenant"], json!(stranger()));
}

#[tokio::test]
async fn a_task_asks_for_the_scope_of_its_kind_as_well() {
    let (world, _agent) = World::ready().await;
    let with = async |words: &str| {
        let scopes = Scopes::of_words(Some(words));
        world.token_of(Caller { scopes, ..somebody(&world, Audience::Tenant, Role::Operator) }).await
    };
    let submit = async |kind: &str, token: &str| {
        let answer = world.post("/api/v1/tasks", json!({"kind": kind})).bearer(token).send().await;
        if answer.status.is_success() { None } else { Some(answer.json()) }
    };
    let tasks = with("task:write").await;
    assert_eq!(submit("echo", &tasks).await, None);
    let refused = submit("vm.create", &tasks).await.unwrap();
    assert_eq!((&refused["code"], &refused["needed_scope"]), (&json!("FORBIDDEN"), &json!("vm:write")));
    assert_eq!(submit("vm.create", &with("task:write vm:write").await).await, None);
    let node = submit("inventory.refresh", &with("task:write node:write").await).await.unwrap();
    assert_eq!(node["needed_role"], "platform-admin");
}
