//! Counters of this node, in the form Prometheus reads.
//!
//! In come events from whoever handles requests; out goes text for `/metrics`. Absent on purpose: numbers that can be
//! read from the state at the moment of asking (`api` adds those), and tracing.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the answer times that are told apart, in seconds.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// What is counted. Clones count into the same.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    proposals: Family<CommandLabels, Counter>,
    streams: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CommandLabels {
    command: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("narvana");
        let requests = Family::default();
        let seconds = Family::<RouteLabels, Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        let proposals = Family::default();
        let streams = Gauge::default();
        registry.register("http_requests", "Answers by route and status", requests.clone());
        registry.register("http_request_seconds", "Time to the head of an answer", seconds.clone());
        registry.register("proposals", "Changes asked for through the API", proposals.clone());
        registry.register("http_streams", "Event streams that are open", streams.clone());
        Self(Arc::new(Inner { registry, requests, seconds, proposals, streams }))
    }
}

impl Metrics {
    /// Counts an answer. `route` is the pattern of the path, never the path.
    pub fn answered(&self, method: &str, route: &str, status: u16, time: Duration) {
        let labels = RequestLabels { method: known_method(method).to_owned(), route: route.to_owned(), status };
        self.0.requests.get_or_create(&labels).inc();
        self.0.seconds.get_or_create(&RouteLabels { route: route.to_owned() }).observe(time.as_secs_f64());
    }

    /// Counts a change that was asked for.
    pub fn proposed(&self, command: &'static str) {
        self.0.proposals.get_or_create(&CommandLabels { command }).inc();
    }

    /// Counts a stream for as long as the guard lives.
    pub fn stream(&self) -> StreamGuard {
        self.0.streams.inc();
        StreamGuard(self.0.streams.clone())
    }

    /// All counters and the given numbers in the text format. Numbers of one name stand together.
    pub fn text(&self, numbers: &[Number]) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        // The registry's end marker stands once, at the very end.
        let end = "# EOF\n";
        text.truncate(text.len() - if text.ends_with(end) { end.len() } else { 0 });
        let mut last = "";
        for number in numbers {
            if number.name != last {
                writeln!(text, "# HELP narvana_{0} {1}.\n# TYPE narvana_{0} gauge", number.name, number.help)?;
                last = number.name;
            }
            writeln!(text, "narvana_{}{} {}", number.name, labels(&number.labels), number.value)?;
        }
        text.push_str(end);
        Ok(text)
    }
}

fn labels(labels: &[(String, String)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// A number read at the moment of asking.
#[derive(Clone, Debug)]
pub struct Number {
    /// Its name, without the program's prefix.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// What tells it from others of its name.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: i64,
}

/// An open stream.
pub struct StreamGuard(Gauge);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Clients can send any word as a method; each would be a time series of its own.
fn known_method(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_numbers_are_one_text() {
        let metrics = Metrics::default();
        metrics.answered("GET", "/health", 200, Duration::from_millis(2));
        metrics.answered("BREW", "none", 405, Duration::from_millis(2));
        metrics.proposed("create_app");
        let guard = metrics.stream();
        let nodes = Number { name: "nodes", help: "Members", labels: vec![], value: 1 };
        let labels = vec![("status".to_owned(), "a\"b".to_owned())];
        let builds = Number { name: "builds", help: "Builds by status", labels, value: 2 };
        let text = metrics.text(&[nodes, builds]).expect("text");
        for line in [
            r#"narvana_http_requests_total{method="GET",route="/health",status="200"} 1"#,
            r#"narvana_http_requests_total{method="other",route="none",status="405"} 1"#,
            r#"narvana_proposals_total{command="create_app"} 1"#,
            "narvana_http_streams 1",
            "narvana_nodes 1",
            r#"narvana_builds{status="a\"b"} 2"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        drop(guard);
        assert!(metrics.text(&[]).expect("text").contains("narvana_http_streams 0"));
    }
}
