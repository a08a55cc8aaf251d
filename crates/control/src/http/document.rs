//! The API's document: OpenAPI 3.1, made of the same registrations as the routes. Never here: a route.

use std::{collections::BTreeMap, sync::LazyLock};

use hostler_model::{
    api::{Problem, Submitted},
    caller::Access,
    role::Role,
};
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, Modify, OpenApi,
    openapi::{
        self, ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Type,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{access::TABLE, of_tenant::TENANT, problem::PROBLEM_JSON};

/// How a credential is sent, as the document calls it.
const BEARER: &str = "bearer";

/// What the document says beside its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "hostler",
        description = "A control plane for virtual machines. Work on a host answers 202 with a task; errors are problem documents (RFC 9457) with a stable code.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem, Submitted)),
    security(("bearer" = [])),
    modifiers(&Bearer),
)]
pub(super) struct Head;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme(BEARER, scheme);
    }
}

/// The answers of every route that submits a task.
pub(super) struct Filed;

impl IntoResponses for Filed {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let ended = "It ended while the caller waited, or this is a dry run";
        let filed = submitted("It is written down, and will be done");
        let headers = [
            ("Location", "The task"),
            ("Preference-Applied", "How long was waited, if that was asked"),
            ("Idempotency-Replayed", "`true` when this is the first answer under the key once more"),
        ];
        let filed = headers.into_iter().fold(filed, |filed, (name, what)| filed.header(name, text_header(what)));
        let both = [("200", submitted(ended)), ("202", filed)];
        both.into_iter().map(|(status, answer)| (status.to_owned(), answer.build().into())).collect()
    }
}

fn submitted(description: &str) -> ResponseBuilder {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Submitted"))).build();
    ResponseBuilder::new().description(description).content("application/json", content)
}

fn text_header(description: &str) -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String);
    HeaderBuilder::new().schema(Some(text)).description(Some(description)).build()
}

/// The answers that every route may give beside its own.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let both = [
            ("4XX", "A refusal: what was asked, why not, and what to do next"),
            ("5XX", "A fault of the server; repeat later, or ask the operator with the request id"),
        ];
        both.into_iter().map(|(status, description)| (status.to_owned(), problem(description).into())).collect()
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content(PROBLEM_JSON, content).build()
}

/// The document, pretty and the same each time.
pub fn openapi() -> String {
    text().to_owned()
}

/// Says with every route who may call it, as the table has it.
fn tell_access(document: &mut Value) {
    for row in TABLE {
        let method = row.method.as_str().to_ascii_lowercase();
        let Some(operation) = document["paths"][row.route].get_mut(&method).and_then(Value::as_object_mut) else {
            continue;
        };
        let (needs, said) = match row.access {
            Access::Anyone => (json!([]), "For anyone.".to_owned()),
            Access::Known => (json!([{BEARER: []}]), "For anyone with a credential.".to_owned()),
            Access::Tenant { from, scope } => {
                (json!([{BEARER: [from, scope]}]), format!("For the role {from} and above, with the scope `{scope}`."))
            }
            Access::Admin { scope } => (
                json!([{BEARER: [Role::PlatformAdmin, scope]}]),
                format!("For platform administrators (audience `admin`), with the scope `{scope}`."),
            ),
        };
        operation.insert("security".into(), needs);
        let description = operation.get("description").and_then(Value::as_str);
        let description = description.map_or(said.clone(), |text| format!("{text}\n\n{said}"));
        operation.insert("description".into(), description.into());
        if let Access::Tenant { .. } = row.access {
            let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
            parameters.as_array_mut().into_iter().for_each(|parameters| parameters.push(tenant_parameter()));
        }
    }
}

fn tenant_parameter() -> Value {
    json!({
        "name": TENANT, "in": "query", "required": false, "schema": {"type": "string"},
        "description": "On whose things, by id or name: for platform administrators. Others name their own, or leave it out.",
    })
}

/// The document, made once.
pub(super) fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let (_, document) = super::router::routes().split_for_parts();
        // A Value keeps its keys sorted, and what cannot be written is not the API's document but a fault of the build.
        let mut value = serde_json::to_value(&document).unwrap_or_default();
        tell_access(&mut value);
        let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
        text.push('\n');
        text
    });
    &TEXT
}
