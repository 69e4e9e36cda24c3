//! What the ingress counts, as plain numbers; turning them into metrics is for whoever exports metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// Totals since the ingress was bound, and how many connections are open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngressNumbers {
    /// Client connections open now.
    pub connections_open: u64,
    /// Client connections ever accepted.
    pub connections: u64,
    /// Requests answered, by class of status: index 0 is 1xx (upgrades), 4 is 5xx.
    pub responses: [u64; 5],
    /// Requests that were sent again because a connection failed before an instance could see them.
    pub retries: u64,
    /// Requests for a host that no route names.
    pub unknown_host: u64,
    /// Requests for a host without healthy instances.
    pub no_instance: u64,
    /// Requests that an instance did not answer properly, or not in time.
    pub instance_failed: u64,
}

/// Totals of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceNumbers {
    /// Requests and upgraded connections open now.
    pub in_flight: u64,
    /// Requests ever given to it.
    pub requests: u64,
    /// Connections that could not be opened.
    pub unreachable: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections_open: AtomicU64,
    pub(super) connections: AtomicU64,
    responses: [AtomicU64; 5],
    pub(super) retries: AtomicU64,
    pub(super) unknown_host: AtomicU64,
    pub(super) no_instance: AtomicU64,
    pub(super) instance_failed: AtomicU64,
}

impl Counters {
    pub(super) fn response(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        add(&self.responses[class.min(self.responses.len() - 1)]);
    }

    pub(super) fn read(&self) -> IngressNumbers {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IngressNumbers {
            connections_open: of(&self.connections_open),
            connections: of(&self.connections),
            responses: std::array::from_fn(|class| of(&self.responses[class])),
            retries: of(&self.retries),
            unknown_host: of(&self.unknown_host),
            no_instance: of(&self.no_instance),
            instance_failed: of(&self.instance_failed),
        }
    }
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
