//! All routes in one list.

use std::sync::OnceLock;

use axum::Router;
use axum::middleware::from_fn_with_state;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::finish::{finish, panicked, unknown_method, unknown_route};
use super::gate::Gate;
use super::{
    Options, Parts, app, authority, backup, build, config, deploy, deployment, detect, docs, drain, env, exec, explain,
    health, instance, join_token, log, log_stream, node, node_action, openapi, org, preview, rebalance, service,
    service_action, session, setting, source, status, user, watch,
};

/// Everything that is served, ready to be called. Event streams end when `stopping` is cancelled. The connection that a
/// request came by should be in its extensions as a [`super::Peer`].
pub fn router(parts: Parts, options: Options, stopping: CancellationToken) -> Router {
    behind(Gate::new(parts, options, stopping))
}

pub(super) fn behind(gate: Gate) -> Router {
    let (router, _) = all().split_for_parts();
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(gate.clone(), finish))
        .with_state(gate)
}

/// The OpenAPI document of [`router`].
pub(super) fn document_of_all() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| openapi::document(all().get_openapi()))
}

fn all() -> OpenApiRouter<Gate> {
    OpenApiRouter::with_openapi(openapi::blank()).merge(about_node()).merge(about_people()).merge(about_apps())
}

fn about_node() -> OpenApiRouter<Gate> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(docs::json))
        .routes(routes!(docs::page))
        .routes(routes!(config::show))
        .routes(routes!(config::stats))
        .routes(routes!(status::show))
        .routes(routes!(node::list))
        .routes(routes!(node::show, node_action::remove, node_action::relabel))
        .routes(routes!(node_action::would_move))
        .routes(routes!(node_action::has_only_copies))
        .routes(routes!(node_action::cordon))
        .routes(routes!(node_action::uncordon))
        .routes(routes!(drain::show, drain::begin))
        .routes(routes!(rebalance::propose, rebalance::begin))
        .routes(routes!(rebalance::join))
        .routes(routes!(join_token::list, join_token::create))
        .routes(routes!(join_token::revoke))
        .routes(routes!(authority::show))
        .routes(routes!(authority::rotate))
        .routes(routes!(setting::show, setting::update))
        .routes(routes!(setting::reset))
        .routes(routes!(backup::download))
}

fn about_people() -> OpenApiRouter<Gate> {
    OpenApiRouter::new()
        .routes(routes!(session::setup))
        .routes(routes!(session::can_register))
        .routes(routes!(session::register))
        .routes(routes!(session::login))
        .routes(routes!(session::logout))
        .routes(routes!(session::validate))
        .routes(routes!(user::profile))
        .routes(routes!(org::list))
        .routes(routes!(org::show))
}

fn about_apps() -> OpenApiRouter<Gate> {
    OpenApiRouter::new()
        .routes(routes!(detect::detect))
        .routes(routes!(app::list, app::create))
        .routes(routes!(app::show, app::update, app::delete))
        .routes(routes!(explain::app))
        .routes(routes!(deploy::app))
        .routes(routes!(deployment::list_of_app))
        .routes(routes!(log::show))
        .routes(routes!(log_stream::stream))
        .routes(routes!(service::list, service::create))
        .routes(routes!(service::show, service::update, service::delete))
        .routes(routes!(deploy::service))
        .routes(routes!(service_action::stop))
        .routes(routes!(service_action::start))
        .routes(routes!(service_action::restart))
        .routes(routes!(service_action::reload))
        .routes(routes!(service_action::scale))
        .routes(routes!(service_action::rollback))
        .routes(routes!(env::list, env::add, env::import))
        .routes(routes!(env::replace, env::remove))
        .routes(routes!(source::upload))
        .routes(routes!(deployment::list))
        .routes(routes!(deployment::show))
        .routes(routes!(deployment::rollback))
        .routes(routes!(explain::deployment))
        .routes(routes!(watch::stream))
        .routes(routes!(instance::show))
        .routes(routes!(exec::run))
        .routes(routes!(explain::instance))
        .routes(routes!(build::list))
        .routes(routes!(build::show))
        .routes(routes!(build::cancel))
        .routes(routes!(build::recipe))
        .routes(routes!(preview::preview))
        .routes(routes!(build::retry))
}
