//! Image builds through the engine's classic `/build`, which both engines have.
//!
//! Neither takes a number of processes there, and `nproc` among its `ulimits` does not hold for root. With Podman it is
//! the control group that the steps run in (`step_reaper`) which has the limit. Docker names the container of each step
//! just before it starts, and that container is given the limit.

use std::collections::{HashMap, VecDeque};

use bollard::errors::Error as ApiError;
use bollard::models::{BuildInfo, ContainerUpdateBody};
use bollard::query_parameters::BuildImageOptionsBuilder;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::ApiEngine;
use super::step_reaper::StepReaper;
use crate::engine::{BuildNetwork, BuildRequest, Error, Kind, LINE_BYTES_MAX};
use crate::random;

/// How many lines of the log an error carries: enough to see why, little enough for one message.
const LAST_LINES: usize = 30;
/// Length of a scheduling period in microseconds, the kernel's default.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// What Docker says before the id of a step's container. A step may print the same.
const DOCKER_STEP: &str = " ---> Running in ";
/// The usual size of shared memory; a build has up to 16 MiB more, by which its containers are known.
const SHARED_MEMORY: i64 = 64 << 20;
const PAGE: i64 = 4_096;

impl ApiEngine {
    pub(super) async fn build_image(&self, request: BuildRequest, log: mpsc::Sender<String>) -> Result<String, Error> {
        let call = self.call(format!("build image {}", request.tag));
        let group = format!("narvana-build-{}-{}", self.scope, random::id::<uuid::Uuid>().simple());
        let mut reaper = StepReaper::new(self.description.kind, group, self.supervisor.clone());
        let mark = StepMark::new();
        if let Some(most) = request.pids_max {
            reaper.limit_processes(most);
        }

        let options = BuildImageOptionsBuilder::default()
            .dockerfile(&request.dockerfile)
            .t(&request.tag)
            .labels(&request.labels.clone().into_iter().collect::<HashMap<_, _>>())
            .buildargs(&request.build_args.clone().into_iter().collect::<HashMap<_, _>>())
            .nocache(request.no_cache)
            .rm(true)
            .forcerm(true)
            .build();
        let limit = request.pids_max.filter(|_| self.description.kind == Kind::Docker);
        let more = extra_parameters(&request, &reaper, limit.and(Some(&mark)));
        let docker = self.streaming.clone().with_request_modifier(move |mut http_request| {
            add_to_query(http_request.uri_mut(), &more);
            http_request
        });

        let mut lines = LogLines::new(log);
        let mut messages = Box::pin(docker.build_image(options, None, Some(bollard::body_try_stream(request.context))));
        let mut image = None;
        let mut failure = None;
        while let Some(message) = messages.next().await {
            match message {
                Ok(BuildInfo { error_detail: Some(detail), .. }) => failure = detail.message.or(failure),
                Ok(BuildInfo { stream, status, aux, .. }) => {
                    image = aux.and_then(|aux| aux.id).or(image);
                    if let Some(words) = stream.or(status) {
                        if let Some((most, container)) = limit.zip(step_container(&words)) {
                            self.limit_step(container, most, &mark).await;
                        }
                        lines.push(&words).await;
                    }
                }
                Err(ApiError::DockerStreamError { error }) => failure = Some(error),
                // Both engines answer 400 or 500 to a Dockerfile they cannot read, before any step.
                Err(ApiError::DockerResponseServerError { message, .. }) => failure = Some(message),
                Err(error) => return Err(call.error(error)),
            }
        }
        reaper.build_ended();
        lines.end().await;
        match (failure, image) {
            (None, Some(image)) => Ok(super::images::with_algorithm(image)),
            (None, None) => Err(call.unreachable("it broke off before the build ended".to_owned())),
            (Some(reason), _) => {
                Err(Error::BuildFailed { reason: reason.trim().to_owned(), last_lines: lines.last.into() })
            }
        }
    }

    /// Bounds the processes of a step of this build. One that has ended already needs no limit.
    async fn limit_step(&self, container: &str, most: u32, mark: &StepMark) {
        let call = self.call(format!("limit the processes of build step {container}"));
        let inspection =
            self.docker.inspect_container(container, None::<bollard::query_parameters::InspectContainerOptions>);
        let limited = async {
            let found = call.run(inspection).await?;
            if found.host_config.and_then(|host| host.shm_size) != Some(mark.0) {
                return Ok(());
            }
            let body = ContainerUpdateBody { pids_limit: Some(i64::from(most)), ..ContainerUpdateBody::default() };
            call.run(self.docker.update_container(container, body)).await
        };
        match limited.await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, "the number of processes of a build step is not bounded"),
        }
    }
}

/// By what the containers of one build are known, whatever its steps print: a size of shared memory that nothing else has.
struct StepMark(i64);

impl StepMark {
    fn new() -> Self {
        let [high, low] = random::bytes::<2>();
        Self(SHARED_MEMORY + PAGE * (1 + i64::from(u16::from_be_bytes([high & 0x0f, low]))))
    }
}

/// The container that Docker starts next, when this message says so.
fn step_container(words: &str) -> Option<&str> {
    let id = words.strip_prefix(DOCKER_STEP)?.trim_end();
    (id.len() >= 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Parameters that the client library lacks, or holds in 32 bits (memory).
fn extra_parameters(request: &BuildRequest, reaper: &StepReaper, mark: Option<&StepMark>) -> String {
    let network = match request.network {
        BuildNetwork::None => "none",
        BuildNetwork::Bridge => "bridge",
    };
    let mut parameters = format!("networkmode={network}");
    if request.memory.bytes > 0 {
        let bytes = request.memory.bytes;
        parameters.push_str(&format!("&memory={bytes}&memswap={bytes}"));
    }
    if request.cpu.millis > 0 {
        let quota = request.cpu.millis * CPU_PERIOD_MICROS / 1_000;
        parameters.push_str(&format!("&cpuperiod={CPU_PERIOD_MICROS}&cpuquota={quota}"));
    }
    if let Some(group) = reaper.control_group() {
        parameters.push_str(&format!("&cgroupparent={group}"));
    }
    if let Some(StepMark(bytes)) = mark {
        parameters.push_str(&format!("&shmsize={bytes}"));
    }
    parameters
}

pub(super) fn add_to_query(uri: &mut http::Uri, parameters: &str) {
    let mut parts = std::mem::take(uri).into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}{parameters}");
    parts.path_and_query = Some(path.parse().expect("a path with numbers and hex digits added is one"));
    *uri = http::Uri::from_parts(parts).expect("the parts were those of a URI");
}

/// Cuts the text of a build into lines, sends them on and remembers the last ones.
struct LogLines {
    log: mpsc::Sender<String>,
    begun: String,
    last: VecDeque<String>,
}

impl LogLines {
    fn new(log: mpsc::Sender<String>) -> Self {
        Self { log, begun: String::new(), last: VecDeque::new() }
    }

    async fn push(&mut self, text: &str) {
        // Docker paints what a step writes to standard error red.
        let text = text.strip_prefix("\u{1b}[91m").map_or(text, |text| text.strip_suffix("\u{1b}[0m").unwrap_or(text));
        for piece in text.split_inclusive('\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.begun.len());
            self.begun.push_str(&piece[..piece.floor_char_boundary(room.min(piece.len()))]);
            if piece.ends_with('\n') {
                self.end().await;
            }
        }
    }

    /// Ends the line that was begun, if one was. Empty lines say nothing and are left out.
    async fn end(&mut self) {
        let line = std::mem::take(&mut self.begun);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        let _nobody_listens = self.log.send(line.to_owned()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn build_output_becomes_lines() {
        let (log, mut lines) = mpsc::channel(64);
        let mut cutter = LogLines::new(log);
        for text in ["Step 1/2 : FROM x", "\n", "\u{1b}[91mtwo\n\u{1b}[0m", "a\nb", "c\r\n\n", "end"] {
            cutter.push(text).await;
        }
        cutter.push(&"ü".repeat(LINE_BYTES_MAX)).await;
        cutter.end().await;
        drop(cutter);
        let mut seen = Vec::new();
        while let Some(line) = lines.recv().await {
            seen.push(line);
        }
        assert_eq!(seen[..4], ["Step 1/2 : FROM x", "two", "a", "bc"]);
        assert!(seen[4].starts_with("endü") && seen[4].len() <= LINE_BYTES_MAX);
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn only_an_id_is_the_container_of_a_step() {
        assert_eq!(step_container(" ---> Running in 0123456789ab\n"), Some("0123456789ab"));
        for words in [" ---> Running in ..", " ---> Running in narvana-shop", " ---> Running in 0123", "0123456789ab"] {
            assert_eq!(step_container(words), None, "{words}");
        }
    }

    #[test]
    fn parameters_are_added_to_a_query() {
        let mut uri: http::Uri = "unix://2f746d70/v1.41/build?t=x".parse().expect("valid");
        add_to_query(&mut uri, "memory=1");
        assert_eq!(uri.to_string(), "unix://2f746d70/v1.41/build?t=x&memory=1");
    }
}
