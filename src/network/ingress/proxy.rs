//! One request from its head to the head of its answer.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::Limits;
use super::body::{Answer, RequestBody, ResponseBody};
use super::counters::{Counters, add};
use super::exchange::{Exchange, Failure};
use super::headers;
use super::page::Page;
use super::target;
use super::tunnel::Tunnel;
use super::upstreams::{NoPick, Upstreams};
use crate::network::{Reach, Verdict};

/// What all connections of one ingress share.
pub(super) struct Proxy {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) reach: Arc<dyn Reach>,
    pub(super) limits: Limits,
    pub(super) counters: Arc<Counters>,
}

/// What the requests of one client connection share.
pub(super) struct Client {
    /// The address of the peer, as it is told to instances.
    pub(super) address: HeaderValue,
    /// What was seen of the framing of its requests.
    pub(super) framing: Verdict,
    /// Left here by the request that upgraded the connection, for the connection's task to run.
    pub(super) tunnel: Mutex<Option<Tunnel>>,
}

impl Proxy {
    /// Answers one request. Every failure is an answer too.
    pub(super) async fn serve(&self, client: &Client, request: Request<Incoming>) -> Response<ResponseBody> {
        let response = match self.forward(client, request).await {
            Ok(response) => response,
            Err((page, headers)) => page.answer(&headers),
        };
        self.counters.response(response.status());
        response
    }

    async fn forward(
        &self,
        client: &Client,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, (Page, Box<HeaderMap>)> {
        let refuse = |page, request: &Request<Incoming>| (page, Box::new(request.headers().clone()));
        if client.framing.flaw().is_some() || !headers::framing_is_plain(request.headers()) {
            return Err(refuse(Page::Framing, &request));
        }
        let authority = match target::authority(request.method(), request.uri(), request.headers()) {
            Ok(authority) => authority,
            Err(refusal) => return Err(refuse(Page::Refused(refusal), &request)),
        };
        let host = match target::host(&authority) {
            Ok(host) => host,
            Err(refusal) => return Err(refuse(Page::Refused(refusal), &request)),
        };
        let protocol = headers::wanted_upgrade(&request);
        let client_side = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        // Kept for the form of an error page; the header fields themselves travel on.
        let accept = accept_only(request.headers());
        let request = to_instance(client, request, authority.clone(), protocol);
        match self.exchange(&host, request).await {
            Ok(exchange) => self.answer(client, exchange, client_side).map_err(|page| (page, accept)),
            Err(failure) => Err((self.explain(failure, &host), accept)),
        }
    }

    fn answer(
        &self,
        client: &Client,
        exchange: Exchange,
        client_side: Option<OnUpgrade>,
    ) -> Result<Response<ResponseBody>, Page> {
        let Exchange { mut response, link, lease } = exchange;
        *response.version_mut() = Version::HTTP_11;
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        headers::to_client(response.headers_mut(), switching);
        if !switching {
            return Ok(response.map(|incoming| ResponseBody::Answer(Answer::new(incoming, link, lease))));
        }
        let Some(client_side) = client_side else {
            tracing::info!(instance = %lease.upstream.instance, "an instance switched protocols unasked");
            add(&self.counters.instance_failed);
            return Err(Page::InstanceFailed);
        };
        let instance = hyper::upgrade::on(&mut response);
        let tunnel = Tunnel { client: client_side, instance, link, lease };
        *client.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        Ok(response.map(|_| ResponseBody::Page(http_body_util::Full::default())))
    }

    fn explain(&self, failure: Failure, host: &str) -> Page {
        let (counter, page) = match failure {
            Failure::NoPick(NoPick::UnknownHost) => (&self.counters.unknown_host, Page::UnknownHost(host.to_owned())),
            Failure::NoPick(NoPick::NoInstance) => (&self.counters.no_instance, Page::NoInstance),
            Failure::Unreachable | Failure::Broken => (&self.counters.instance_failed, Page::InstanceFailed),
            Failure::NodeUnreachable => (&self.counters.instance_failed, Page::NodeUnreachable),
            Failure::Slow => (&self.counters.instance_failed, Page::InstanceSlow),
        };
        add(counter);
        page
    }
}

fn accept_only(headers: &HeaderMap) -> Box<HeaderMap> {
    let accept = headers.get(http::header::ACCEPT).cloned();
    Box::new(accept.map(|value| (http::header::ACCEPT, value)).into_iter().collect())
}

/// The request as the instance gets it.
fn to_instance(
    client: &Client,
    request: Request<Incoming>,
    authority: HeaderValue,
    protocol: Option<HeaderValue>,
) -> Request<RequestBody> {
    let (mut parts, incoming) = request.into_parts();
    let empty = incoming.is_end_stream();
    let chunked = !empty && incoming.size_hint().exact().is_none();
    headers::to_instance(&mut parts.headers, &client.address, authority, protocol, chunked);
    if parts.uri.authority().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    let body = if empty {
        RequestBody::Empty
    } else {
        RequestBody::Stream { incoming, moved: Arc::new(AtomicBool::new(false)) }
    };
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = parts.uri;
    *outgoing.headers_mut() = parts.headers;
    outgoing
}

fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()))
}
