//! The API's description for programs, and as a page.

use std::fmt::Write as _;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use http::header;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::router::document_of_all;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    code,pre{font-family:ui-monospace,monospace}summary{cursor:pointer;padding:.3rem 0}\
    .m{display:inline-block;width:4.5rem;font-weight:bold}pre{background:#f4f4f4;padding:1rem;overflow:auto}\
    td{padding:.1rem 1rem .1rem 0;vertical-align:top}";

/// This document
#[utoipa::path(get, path = "/api/docs/openapi.json", tag = "docs", security(()), responses((status = 200, body = Object)))]
pub(super) async fn json() -> Json<Value> {
    Json(document_of_all().clone())
}

/// This document as a page
#[utoipa::path(get, path = "/api/docs", tag = "docs", security(()), responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn page() -> Response {
    let style = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!("default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'; base-uri 'none'");
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, html(document_of_all())).into_response()
}

fn html(document: &Value) -> String {
    let mut page = String::new();
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>narvana API</title><style>{STYLE}</style>\
         <h1>narvana API {}</h1><p>{}</p><p>For programs: <a href=\"/api/docs/openapi.json\">openapi.json</a></p>",
        text(&document["info"]["version"]),
        text(&document["info"]["description"])
    );
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let _ = write!(
                page,
                "<details><summary><span class=\"m\">{}</span><code>{}</code> {}</summary><p>{}</p><table>",
                method.to_uppercase(),
                escape(path),
                text(&operation["summary"]),
                text(&operation["description"])
            );
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
                let description = text(&parameter["description"]);
                let _ = write!(page, "<tr><td><code>{name}</code><td>{place}<td>{description}</tr>");
            }
            let body = operation["requestBody"]["content"].as_object().and_then(|content| content.values().next());
            let _ = write!(page, "</table>");
            if let Some(body) = body {
                let _ = write!(page, "<p>Body:</p><pre>{}</pre>", schema(document, &body["schema"]));
            }
            for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                let content = response["content"].as_object().and_then(|content| content.values().next());
                let _ = write!(page, "<p>Answer {}:</p>", escape(status));
                if let Some(content) = content {
                    let _ = write!(page, "<pre>{}</pre>", schema(document, &content["schema"]));
                }
            }
            page.push_str("</details>");
        }
    }
    page
}

/// A schema with what it refers to, one level deep.
fn schema(document: &Value, schema: &Value) -> String {
    let shown =
        schema["$ref"].as_str().and_then(|name| document.pointer(name.trim_start_matches('#'))).unwrap_or(schema);
    escape(&serde_json::to_string_pretty(shown).unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
