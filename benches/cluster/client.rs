//! A client of one node that waits for an answer and asks again where there was none.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::node::Node;

/// Longest wait for one answer: the client of a group that has no leader asks again.
const PATIENCE: Duration = Duration::from_secs(6);
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Client {
    http: reqwest::Client,
    api: String,
    token: String,
    writes: u32,
}

impl Client {
    pub(crate) fn of(node: &Node) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self { http, api: node.api.clone(), token: node.token.clone(), writes: 0 })
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let request = self.http.request(method, format!("{}{path}", self.api)).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// One change, once.
    pub(crate) async fn write(&mut self) -> anyhow::Result<()> {
        self.writes += 1;
        let address = format!("10.{}.{}.1", self.writes / 250 % 250, self.writes % 250);
        self.ask(Method::PATCH, "/v1/settings", Some(json!({"public_ip": address}))).await?;
        Ok(())
    }

    /// Which of the nodes leads, by its place in the order in which they joined.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Ok(nodes) = self.ask(Method::GET, "/v1/nodes", None).await {
                let mut nodes = nodes.as_array().cloned().unwrap_or_default();
                nodes.sort_by_key(|node| node["id"].as_u64());
                let all_well = nodes.iter().all(|node| node["healthy"] == true && node["voter"] == true);
                if let Some(leader) = nodes.iter().position(|node| node["leader"] == true).filter(|_| all_well) {
                    return Ok(leader);
                }
            }
            anyhow::ensure!(Instant::now() < deadline, "not three healthy voters within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
