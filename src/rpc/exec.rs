//! Commands in instances between nodes: those that others run here, and those that are run there.

use async_stream::stream;
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use narvana_proto::v1;
use narvana_proto::v1::exec_client::ExecClient;
use narvana_proto::v1::exec_input::Part;
use narvana_proto::v1::exec_output::Part as Output;
use narvana_proto::v1::exec_server::Exec;
use tokio::sync::watch;
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::caller::{member, while_member};
use super::peers::{answers, reason};
use super::{Admit, Peers};
use crate::agent::{ExecElsewhere, ExecError, ExecInput, ExecInputs, ExecOutputs, ExecRequest, LocalExec};
use crate::consensus::{Peer, View};
use crate::engine::{ExecOutput, ExecSpec, TerminalSize};
use crate::model::{InstanceId, NodeId};

/// Longest wait for the part that says what to run.
const START_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a node to say that a command runs. Its engine has a few seconds for it.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Runs commands of other members in the instances of this node.
pub(super) struct ExecService {
    pub(super) exec: LocalExec,
    pub(super) admit: Admit,
    pub(super) stop: CancellationToken,
}

#[tonic::async_trait]
impl Exec for ExecService {
    type RunStream = BoxStream<'static, Result<v1::ExecOutput, Status>>;

    async fn run(&self, request: Request<Streaming<v1::ExecInput>>) -> Result<Response<Self::RunStream>, Status> {
        let caller = member(&request)?;
        let mut incoming = request.into_inner();
        let first = timeout(START_WAIT_MAX, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no command was named"))??;
        let Some(Part::Start(start)) = first.and_then(|input| input.part) else {
            return Err(Status::invalid_argument("the first part of the input says what to run"));
        };
        let instance = Uuid::from_slice(&start.instance).map_err(|_| Status::invalid_argument("an id has 16 bytes"))?;
        let terminal = start.terminal.map(size).transpose()?;
        let spec = ExecSpec { argv: start.argv, terminal, takes_input: start.takes_input };
        let (instance, index, inputs) = (InstanceId(instance), start.index, inputs(incoming));
        let outputs = self.exec.run(ExecRequest { instance, index, spec, inputs }).await;
        let answers = outputs.map_err(|error| refusal(&error))?.map(|output| match output {
            Ok(output) => Ok(v1::ExecOutput { part: Some(part(output)) }),
            Err(error) => Err(refusal(&error)),
        });
        Ok(Response::new(while_member(answers.boxed(), caller, self.admit.clone(), self.stop.clone())))
    }
}

/// What the caller sends, until it leaves or makes no sense.
fn inputs(incoming: Streaming<v1::ExecInput>) -> ExecInputs {
    let understood = |input: Result<v1::ExecInput, Status>| match input.ok()?.part? {
        Part::Data(data) => Some(ExecInput::Data(data)),
        Part::End(v1::ExecEnd {}) => Some(ExecInput::End),
        Part::Resize(resize) => size(resize).ok().map(ExecInput::Resize),
        Part::Start(_) => None,
    };
    incoming
        .map(understood)
        .take_while(|input| std::future::ready(input.is_some()))
        .filter_map(std::future::ready)
        .boxed()
}

fn size(size: v1::TerminalSize) -> Result<TerminalSize, Status> {
    let small = |length: u32| u16::try_from(length).map_err(|_| Status::invalid_argument("no terminal is so large"));
    Ok(TerminalSize { rows: small(size.rows)?, columns: small(size.columns)? })
}

fn part(output: ExecOutput) -> Output {
    match output {
        ExecOutput::Stdout(bytes) => Output::Stdout(bytes),
        ExecOutput::Stderr(bytes) => Output::Stderr(bytes),
        ExecOutput::Exited(code) => Output::Exited(code),
    }
}

fn refusal(error: &ExecError) -> Status {
    let words = error.to_string();
    match error {
        ExecError::Invalid(_) => Status::invalid_argument(words),
        ExecError::NotRunning(_) => Status::failed_precondition(words),
        ExecError::Busy(_) => Status::resource_exhausted(words),
        ExecError::Away(_) => Status::unavailable(words),
    }
}

/// Runs commands in the instances of other nodes.
#[derive(Clone)]
pub struct FarExec {
    peers: Peers,
    views: watch::Receiver<View>,
}

impl FarExec {
    /// Over these connections ([`Peers::for_traffic`]), to the addresses that the state knows.
    pub fn new(peers: Peers, views: watch::Receiver<View>) -> Self {
        Self { peers, views }
    }
}

#[async_trait]
impl ExecElsewhere for FarExec {
    async fn run(&self, node: NodeId, request: ExecRequest) -> Result<ExecOutputs, ExecError> {
        let ExecRequest { instance, index, spec, inputs } = request;
        let state = self.views.borrow().state.clone();
        let name = state.name_of(node);
        let away = |reason: String| ExecError::Away(format!("node {name}: {reason}"));
        let member = state.node(node);
        let member = member.ok_or_else(|| away("it is no member any more".to_owned()))?;
        let peer = Peer { node, address: member.peer_address() };
        let channel = self.peers.channel(&peer).map_err(|error| away(error.to_string()))?;
        let start = v1::ExecStart {
            instance: instance.0.as_bytes().to_vec().into(),
            argv: spec.argv,
            terminal: spec
                .terminal
                .map(|size| v1::TerminalSize { rows: size.rows.into(), columns: size.columns.into() }),
            takes_input: spec.takes_input,
            index,
        };
        let answer = timeout(ANSWER_MAX, ExecClient::new(channel).run(parts(start, inputs))).await;
        let answer =
            answer.map_err(|_| away(format!("no answer within {} s, the command may run", ANSWER_MAX.as_secs())))?;
        let answer = answer.map_err(|status| failed(&name, &status, "does not run the command"))?;
        Ok(outputs(name, answer.into_inner()))
    }
}

fn parts(start: v1::ExecStart, mut inputs: ExecInputs) -> impl Stream<Item = v1::ExecInput> + Send + 'static {
    stream! {
        yield v1::ExecInput { part: Some(Part::Start(start)) };
        while let Some(next) = inputs.next().await {
            yield v1::ExecInput { part: Some(input(next)) };
        }
    }
}

fn outputs(node: String, answer: Streaming<v1::ExecOutput>) -> ExecOutputs {
    let outputs = answers(answer).filter_map(move |output| {
        let part = output
            .map(|output| output.part)
            .map_err(|status| failed(&node, &status, "broke off, the command may go on"))
            .transpose();
        std::future::ready(part.map(|part| part.map(understood)))
    });
    outputs.boxed()
}

/// What a node's refusal means; `otherwise` is said of one that does not refuse.
fn failed(node: &str, status: &Status, otherwise: &str) -> ExecError {
    let words = reason(status);
    match status.code() {
        Code::InvalidArgument => ExecError::Invalid(words),
        Code::FailedPrecondition => ExecError::NotRunning(words),
        Code::ResourceExhausted => ExecError::Busy(node.to_owned()),
        _ => ExecError::Away(format!("node {node} {otherwise}: {words}")),
    }
}

fn input(input: ExecInput) -> Part {
    match input {
        ExecInput::Data(data) => Part::Data(data),
        ExecInput::End => Part::End(v1::ExecEnd {}),
        ExecInput::Resize(size) => {
            Part::Resize(v1::TerminalSize { rows: size.rows.into(), columns: size.columns.into() })
        }
    }
}

fn understood(part: Output) -> ExecOutput {
    match part {
        Output::Stdout(bytes) => ExecOutput::Stdout(bytes),
        Output::Stderr(bytes) => ExecOutput::Stderr(bytes),
        Output::Exited(code) => ExecOutput::Exited(code),
    }
}
