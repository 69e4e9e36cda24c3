//! Keeps the ingress's table equal to what the state says.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consensus::View;
use crate::decide::route_table::RouteTable;
use crate::decide::routes;
use crate::model::NodeId;

/// Publishes a new table whenever the state makes it differ from the last one.
pub(super) async fn follow(
    mut views: watch::Receiver<View>,
    tables: watch::Sender<Arc<RouteTable>>,
    node: NodeId,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        let state = views.borrow_and_update().state.clone();
        let table = routes(&state, node);
        tables.send_if_modified(|known| {
            let changed = **known != table;
            if changed {
                *known = Arc::new(table);
            }
            changed
        });
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return Ok(()) },
            () = quit.cancelled() => return Ok(()),
        }
    }
}
