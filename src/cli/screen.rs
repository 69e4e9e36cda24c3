//! What a person sees of a deployment on its way: a live picture on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::output::{Output, harmless, node_name, painted, warn};
use super::service::title;
use crate::client::view::{Deployment, Id, Instance};

/// How often the live picture moves.
const TICK: Duration = Duration::from_millis(120);

/// Where progress is shown. All of it goes to stderr.
pub(super) enum Screen {
    /// Nowhere.
    Quiet,
    /// One line for each thing that happens.
    Plain,
    /// A few lines that change.
    Live(Box<Live>),
}

/// The lines of a live picture.
pub(super) struct Live {
    all: MultiProgress,
    head: ProgressBar,
    log: ProgressBar,
    instances: BTreeMap<String, ProgressBar>,
}

impl Screen {
    pub(super) fn new(output: &Output) -> Self {
        if output.is_quiet() {
            return Self::Quiet;
        }
        if !output.is_live() {
            return Self::Plain;
        }
        let all = MultiProgress::new();
        let head = all.add(ProgressBar::new_spinner().with_style(style("{spinner:.cyan} {msg}  {elapsed:.dim}")));
        head.enable_steady_tick(TICK);
        let log = all.add(ProgressBar::new_spinner().with_style(style("  {wide_msg:.dim}")));
        Self::Live(Box::new(Live { all, head, log, instances: BTreeMap::new() }))
    }

    /// Shows how the deployment is now; `before` is how it was.
    pub(super) fn deployment(&mut self, before: &Deployment, now: &Deployment) {
        match self {
            Self::Quiet => {}
            Self::Plain => changes(before, now).iter().for_each(|line| warn(line)),
            Self::Live(live) => live.deployment(now),
        }
    }

    /// Shows a line of the build's log.
    pub(super) fn build_line(&mut self, line: &str) {
        match self {
            Self::Quiet => {}
            Self::Plain => warn(&format!("build | {}", painted(line, false))),
            Self::Live(live) => live.log.set_message(format!("build | {}", painted(line, false))),
        }
    }

    /// Says something beside the picture.
    pub(super) fn note(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Plain => warn(text),
            Self::Live(live) => live.all.suspend(|| warn(text)),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Self::Live(live) = self {
            // What stays is what the command says at its end.
            live.head.finish_and_clear();
            live.log.finish_and_clear();
            live.instances.values().for_each(ProgressBar::finish_and_clear);
        }
    }
}

impl Live {
    fn deployment(&mut self, now: &Deployment) {
        self.head.set_message(harmless(&headline(now)).into_owned());
        if !matches!(now.status.as_str(), "pending" | "building") {
            self.log.set_message("");
        }
        for instance in &now.instances {
            let bar = self
                .instances
                .entry(instance.id.0.clone())
                .or_insert_with(|| self.all.add(ProgressBar::new_spinner().with_style(style("  {wide_msg}"))));
            bar.set_message(harmless(&instance_line(instance)).into_owned());
        }
    }
}

/// A template of ours: it is valid, or a test fails.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are valid")
}

/// A bar for bytes.
pub(super) fn byte_bar(output: &Output, what: &str, total: u64) -> ProgressBar {
    if !output.is_live() {
        return ProgressBar::hidden();
    }
    let style = style("  {msg} {bar:30.cyan/dim} {bytes}/{total_bytes}  {bytes_per_sec:.dim}");
    ProgressBar::new(total).with_style(style.progress_chars("━━─")).with_message(what.to_owned())
}

fn headline(deployment: &Deployment) -> String {
    let mut line = format!("{}  {}", title(deployment), deployment.status);
    // Why it failed stands in the report that follows.
    if !deployment.reason.is_empty() && deployment.status != "failed" {
        line.push_str(&format!(" ({})", deployment.reason));
    }
    line
}

fn instance_line(instance: &Instance) -> String {
    let node = node_name(&instance.node_name, &instance.node_id);
    let mut line = format!("instance {} on {node}: {}", short(&instance.id), instance.status);
    if instance.status == "running" && !instance.health.is_empty() {
        line.push_str(&format!(", {}", instance.health));
    }
    if !instance.reason.is_empty() {
        line.push_str(&format!(" ({})", instance.reason));
    }
    line
}

/// The random end of an id, which container names carry too.
pub(super) fn short(id: &Id) -> &str {
    id.0.rsplit('-').next().unwrap_or_default()
}

/// What happened between two looks at a deployment, one line each.
fn changes(before: &Deployment, now: &Deployment) -> Vec<String> {
    let mut lines = Vec::new();
    if (&before.status, &before.reason) != (&now.status, &now.reason) {
        lines.push(headline(now));
    }
    for instance in &now.instances {
        let was = before.instances.iter().find(|old| old.id == instance.id);
        let line = instance_line(instance);
        if was.map(instance_line).as_ref() != Some(&line) {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(json: serde_json::Value) -> Deployment {
        serde_json::from_value(json).expect("a deployment")
    }

    #[test]
    fn only_what_changed_is_said() {
        let one = deployment(serde_json::json!({"service_name": "web", "version": 3, "status": "building"}));
        assert_eq!(changes(&Deployment::default(), &one), ["web v3  building"]);
        assert!(changes(&one, &one).is_empty());
        let two = deployment(serde_json::json!({
            "service_name": "web", "version": 3, "status": "starting",
            "instances": [
                {"id": "0198-aaaa", "node_id": 1, "node_name": "n1", "status": "running", "health": "starting"},
                {"id": "0198-bbbb", "node_id": 2, "status": "failed", "health": "unknown", "reason": "exit code 1"},
            ],
        }));
        let expected = [
            "web v3  starting",
            "instance aaaa on n1: running, starting",
            "instance bbbb on node 2: failed (exit code 1)",
        ];
        assert_eq!(changes(&one, &two), expected);
        let mut three = two.clone();
        three.instances[0].health = "healthy".into();
        assert_eq!(changes(&two, &three), ["instance aaaa on n1: running, healthy"]);
    }

    #[test]
    fn the_templates_are_valid() {
        for template in ["{spinner:.cyan} {msg}  {elapsed:.dim}", "  {wide_msg:.dim}", "  {wide_msg}"] {
            style(template);
        }
        style("  {msg} {bar:30.cyan/dim} {bytes}/{total_bytes}  {bytes_per_sec:.dim}");
    }
}
