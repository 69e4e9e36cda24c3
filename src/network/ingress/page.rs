//! The ingress's own answers: a small page for people, JSON for programs that ask for it.

use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::body::ResponseBody;
use super::target::Refusal;
use crate::model::RequestId;
use crate::random;

/// How soon a client may try again when there is no healthy instance, in seconds: about one health check.
const RETRY_AFTER_SECONDS: &str = "5";
/// No more of a host name than this is shown.
const HOST_CHARS_SHOWN: usize = 128;

/// Everything the ingress answers by itself.
pub(super) enum Page {
    /// The request cannot be routed as it is.
    Refused(Refusal),
    /// The body is framed in a way that is not passed on.
    Framing,
    /// No route names the host.
    UnknownHost(String),
    /// The host is known but nothing healthy serves it now.
    NoInstance,
    /// The instance could not be reached or broke off before its answer.
    InstanceFailed,
    /// The node on which the instance runs cannot be reached.
    NodeUnreachable,
    /// The instance did not answer in time.
    InstanceSlow,
}

struct Content {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    /// Plain text; escaped for each form.
    message: String,
}

impl Page {
    /// Makes the answer, in JSON if `headers` ask for that rather than HTML.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<ResponseBody> {
        let content = self.content();
        let request_id: RequestId = random::id();
        tracing::debug!(status = content.status.as_u16(), code = content.code, %request_id, "answered by the ingress");
        let (kind, text) = if wants_json(headers) {
            let json = serde_json::json!({
                "code": content.code, "message": content.message, "details": {}, "request_id": request_id.to_string(),
            });
            ("application/json", json.to_string())
        } else {
            ("text/html; charset=utf-8", html(&content, request_id))
        };
        let mut response = Response::new(ResponseBody::Page(Full::from(text)));
        *response.status_mut() = content.status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields
            .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"));
        match self {
            Self::NoInstance | Self::NodeUnreachable => {
                fields.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            // After a request that made no sense, neither does what follows it on the connection.
            Self::Refused(_) | Self::Framing => {
                fields.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }

    fn content(&self) -> Content {
        let (status, code, title, message) = match self {
            Self::Refused(Refusal::HostCount) => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "Which site?",
                "The request must carry the header Host exactly once.".to_owned(),
            ),
            Self::Refused(Refusal::BadHost) => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "Not a host name",
                "The host that the request names is not a host name or address.".to_owned(),
            ),
            Self::Refused(Refusal::OtherScheme) => (
                StatusCode::MISDIRECTED_REQUEST,
                "invalid_request",
                "Not here",
                "This port speaks plain http; the request is for another scheme.".to_owned(),
            ),
            Self::Refused(Refusal::Method) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request",
                "Method not allowed",
                "The methods CONNECT and TRACE are not served here.".to_owned(),
            ),
            Self::Framing => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "Unclear body",
                "A request body must have either a Content-Length or the Transfer-Encoding chunked, nothing else."
                    .to_owned(),
            ),
            Self::UnknownHost(host) => (StatusCode::NOT_FOUND, "not_found", "Nothing is served here", unknown(host)),
            Self::NoInstance => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no_healthy_instance",
                "No instance is ready",
                "The service is known, but no instance of it is healthy right now. If it was just deployed or \
                 restarted, try again in a few seconds; otherwise look at its deployments and logs."
                    .to_owned(),
            ),
            Self::InstanceFailed => (
                StatusCode::BAD_GATEWAY,
                "instance_failed",
                "The service did not answer",
                "The instance that got this request refused it or broke off before its answer. Its logs say why."
                    .to_owned(),
            ),
            Self::NodeUnreachable => (
                StatusCode::BAD_GATEWAY,
                "node_unreachable",
                "The service cannot be reached",
                "The machine on which the service runs does not answer this one. If it does not come back, the service \
                 is started elsewhere; try again in a few seconds."
                    .to_owned(),
            ),
            Self::InstanceSlow => (
                StatusCode::GATEWAY_TIMEOUT,
                "instance_slow",
                "The service took too long",
                "The instance that got this request did not begin its answer in time. Its logs may say why.".to_owned(),
            ),
        };
        Content { status, code, title, message }
    }
}

fn unknown(host: &str) -> String {
    let shown: String = host.chars().take(HOST_CHARS_SHOWN).collect();
    format!(
        "No service is reachable under the host name \"{shown}\". Check the spelling; if the name is new, add it as a \
         domain of a service or deploy the service first."
    )
}

fn html(content: &Content, request_id: RequestId) -> String {
    let status = content.status.as_u16();
    let title = escape(content.title);
    let message = escape(&content.message);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{status} {title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:34em;\
         margin:18vh auto;padding:0 1em}}small{{color:#777}}</style><h1>{title}</h1><p>{message}</p>\
         <p><small>{status} · request {request_id}</small></p></html>\n"
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |what: &str| {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.into_iter().any(|value| value.contains(what))
    };
    (accepts("/json") || accepts("+json")) && !accepts("text/html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_sent_is_shown_escaped_and_cut() {
        let host = format!("<script>{}", "x".repeat(1000));
        let content = Page::UnknownHost(host).content();
        let page = html(&content, RequestId(uuid::Uuid::nil()));
        assert!(page.contains("&lt;script&gt;xxx") && !page.contains("<script>"), "{page}");
        assert!(page.len() < 1200, "{}", page.len());
    }

    #[test]
    fn json_is_for_those_who_ask_for_it() {
        let asks =
            |accept: &'static str| wants_json(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]));
        assert!(asks("application/json"));
        assert!(asks("application/problem+json, */*"));
        assert!(!asks("text/html, application/json"));
        assert!(!asks("*/*"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
