//! The OpenAPI document: what the handlers say of themselves, and what is true of all of them.

use serde_json::{Value, json};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};

use super::health::VERSION;

/// What the document begins with.
pub(super) fn blank() -> OpenApi {
    let description = "Every answer has the headers X-Request-Id, X-Narvana-Index (the log index it was made from) and X-Narvana-Version (of the \
        node's program). \
        Every error has one shape. Lists take limit and cursor; the next cursor is in X-Narvana-Next-Cursor. \
        Unknown fields are refused by name.";
    let info = InfoBuilder::new().title("narvana").version(VERSION).description(Some(description)).build();
    OpenApiBuilder::new().info(info).build()
}

/// The whole document.
pub(super) fn document(api: &OpenApi) -> Value {
    let mut document = serde_json::to_value(api).expect("an OpenAPI document is JSON");
    document["components"]["securitySchemes"]["token"] =
        json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT"});
    document["components"]["schemas"]["Error"] = error_schema();
    document["security"] = json!([{"token": []}]);
    for operations in document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            complete(method, operation);
        }
    }
    document
}

/// Adds what every operation has.
fn complete(method: &str, operation: &mut Value) {
    operation["responses"]["default"] = json!({
        "description": "An error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    });
    let open = operation["security"] == json!([{}]);
    if open {
        return;
    }
    let mut common = vec![
        query("consistency", "`linearizable` (when absent) or `stale` for this node's last known state", "string"),
        query("min_index", "Wait until this node has applied this index", "integer"),
    ];
    if method != "get" {
        common.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false, "schema": {"type": "string"},
            "description": "Repeating a request with the same key changes nothing and gives the same answer, for a day; `410` with the \
                code `gone` when what it made has been deleted since"
        }));
    }
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.append(&mut common),
        None => operation["parameters"] = Value::Array(common),
    }
}

fn query(name: &str, description: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "required": false, "schema": {"type": kind}, "description": description})
}

fn error_schema() -> Value {
    use utoipa::PartialSchema;
    serde_json::to_value(super::error::ErrorBody::schema()).expect("a schema is JSON")
}
