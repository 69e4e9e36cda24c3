//! The route table at work: picks an instance for a host, and knows when an instance has drained.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::counters::InstanceNumbers;
use super::upstream::{Lease, Upstream};
use crate::decide::route_table::RouteTable;
use crate::model::InstanceId;

/// How often idle connections are looked through. They are also checked when they are used, so this only frees what
/// nobody uses.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Upstreams {
    state: RwLock<State>,
    drained: Arc<Notify>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<String, Host>,
    /// Those of the table, and retired ones that still have requests open.
    known: BTreeMap<(InstanceId, SocketAddr), Arc<Upstream>>,
}

struct Host {
    upstreams: Vec<Arc<Upstream>>,
    /// Where the next search for the least busy one begins: makes equals take turns.
    next: AtomicUsize,
}

/// Why no instance was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPick {
    UnknownHost,
    NoInstance,
}

impl Upstreams {
    pub(super) fn new() -> Self {
        Self { state: RwLock::default(), drained: Arc::new(Notify::new()) }
    }

    /// Opens a request on the least busy instance of a host that is not among `tried`.
    ///
    /// Picking and counting happen under the lock that a table change takes: once a change is applied, every request
    /// that was given to an instance before it is counted, and so waited for.
    pub(super) fn pick(&self, host: &str, tried: &[SocketAddr]) -> Result<Lease, NoPick> {
        let state = self.read();
        let host = state.hosts.get(host).ok_or(NoPick::UnknownHost)?;
        let count = host.upstreams.len();
        if count == 0 {
            return Err(NoPick::NoInstance);
        }
        let start = host.next.fetch_add(1, Ordering::Relaxed) % count;
        let (before, after) = host.upstreams.split_at(start);
        after
            .iter()
            .chain(before)
            .filter(|upstream| !tried.contains(&upstream.address))
            .min_by_key(|upstream| (upstream.is_shunned(), upstream.in_flight()))
            .map(Lease::new)
            .ok_or(NoPick::NoInstance)
    }

    /// Puts a table to work. Instances that stay keep their connections and counts.
    pub(super) fn apply(&self, table: &RouteTable) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut known = std::mem::take(&mut state.known);
        let backends = table.routes.values().flat_map(|route| &route.backends);
        let wanted: HashSet<_> = backends.map(|backend| (backend.instance, backend.address)).collect();
        for (key, upstream) in &known {
            upstream.set_retired(!wanted.contains(key));
        }
        let mut hosts = HashMap::with_capacity(table.routes.len());
        for (name, route) in &table.routes {
            let upstreams = route.backends.iter().map(|backend| {
                let key = (backend.instance, backend.address);
                let upstream = known.entry(key).or_insert_with(|| {
                    Arc::new(Upstream::new(backend.instance, backend.address, Arc::clone(&self.drained)))
                });
                Arc::clone(upstream)
            });
            let upstreams = upstreams.collect();
            // A new table must not send the first request of every host to the same instance each time.
            let next = state.hosts.get(name).map_or(0, |host| host.next.load(Ordering::Relaxed));
            hosts.insert(name.clone(), Host { upstreams, next: AtomicUsize::new(next) });
        }
        state.hosts = hosts;
        state.known = known;
        drop(state);
        self.drained.notify_waiters();
    }

    pub(super) fn in_flight(&self, instance: InstanceId) -> usize {
        self.read().of(instance).map(|upstream| upstream.in_flight()).sum()
    }

    pub(super) async fn drained(&self, instance: InstanceId, deadline: Instant) -> bool {
        loop {
            // Listening begins before looking, or the news could fall in between.
            let news = self.drained.notified();
            if self.read().of(instance).all(|upstream| upstream.is_retired() && upstream.in_flight() == 0) {
                return true;
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                return false;
            }
        }
    }

    pub(super) fn numbers(&self) -> Vec<(InstanceId, InstanceNumbers)> {
        self.read().known.values().map(|upstream| (upstream.instance, upstream.numbers())).collect()
    }

    fn sweep(&self) {
        let mut gone = false;
        for upstream in self.read().known.values() {
            upstream.sweep();
            gone |= upstream.is_retired() && upstream.in_flight() == 0;
        }
        if gone {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.known.retain(|_, upstream| !upstream.is_retired() || upstream.in_flight() > 0);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, instance: InstanceId) -> impl Iterator<Item = &Arc<Upstream>> {
        self.known.values().filter(move |upstream| upstream.instance == instance)
    }
}

/// Applies every new table and closes idle connections, until `stopping`. If the tables end, the last one stays.
pub(super) async fn follow(
    upstreams: Arc<Upstreams>,
    mut routes: watch::Receiver<Arc<RouteTable>>,
    stopping: CancellationToken,
) -> Result<(), Infallible> {
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tables_end = false;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            changed = routes.changed(), if !tables_end => match changed {
                Ok(()) => {
                    let table = Arc::clone(&routes.borrow_and_update());
                    upstreams.apply(&table);
                }
                Err(_) => tables_end = true,
            },
            _ = sweep.tick() => upstreams.sweep(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::route_table::{Backend, Route};
    use crate::model::InstanceId;

    fn backend(number: u128) -> Backend {
        let port = 1000 + u16::try_from(number).unwrap();
        Backend { instance: InstanceId(uuid::Uuid::from_u128(number)), address: ([127, 0, 0, 1], port).into() }
    }

    fn table(backends: impl IntoIterator<Item = u128>) -> RouteTable {
        let route = Route { backends: backends.into_iter().map(backend).collect() };
        RouteTable { routes: BTreeMap::from([("a.test".to_owned(), route)]) }
    }

    fn ports(leases: &[Lease]) -> Vec<u16> {
        leases.iter().map(|lease| lease.upstream.address.port()).collect()
    }

    #[test]
    fn equals_take_turns_and_the_least_busy_comes_first() {
        let upstreams = Upstreams::new();
        upstreams.apply(&table([1, 2, 3]));
        let pick = || upstreams.pick("a.test", &[]).unwrap_or_else(|none| panic!("{none:?}"));
        let alone: Vec<u16> = (0..6).map(|_| pick().upstream.address.port()).collect();
        assert_eq!(alone, [1001, 1002, 1003, 1001, 1002, 1003]);
        let mut held: Vec<Lease> = (0..6).map(|_| pick()).collect();
        let mut all = ports(&held);
        all.sort_unstable();
        assert_eq!(all, [1001, 1001, 1002, 1002, 1003, 1003]);
        held.retain(|lease| lease.upstream.address.port() != 1002);
        assert_eq!(ports(&[pick(), pick()]), [1002, 1002]);
    }

    #[test]
    fn tried_and_shunned_instances_are_passed_over() {
        let upstreams = Upstreams::new();
        upstreams.apply(&table([1, 2]));
        let first = upstreams.pick("a.test", &[]).ok().unwrap();
        first.upstream.shun();
        let others: Vec<Lease> = (0..4).map(|_| upstreams.pick("a.test", &[]).ok().unwrap()).collect();
        assert_eq!(ports(&others), [1002; 4]);
        let tried = [backend(2).address];
        assert_eq!(upstreams.pick("a.test", &tried).ok().unwrap().upstream.address.port(), 1001);
        let tried = [backend(1).address, backend(2).address];
        assert_eq!(upstreams.pick("a.test", &tried).err(), Some(NoPick::NoInstance));
        assert_eq!(upstreams.pick("b.test", &[]).err(), Some(NoPick::UnknownHost));
    }

    #[tokio::test]
    async fn an_instance_has_drained_when_it_left_the_table_and_nothing_is_open() {
        let upstreams = Upstreams::new();
        upstreams.apply(&table([1, 2]));
        let one = backend(1).instance;
        let soon = || Instant::now() + Duration::from_millis(20);
        assert!(!upstreams.drained(one, soon()).await, "in the table");
        let held: Vec<Lease> = (0..2).map(|_| upstreams.pick("a.test", &[]).ok().unwrap()).collect();
        upstreams.apply(&table([2]));
        assert_eq!(upstreams.in_flight(one), 1);
        assert!(!upstreams.drained(one, soon()).await, "a request is open");
        let late = Instant::now() + Duration::from_secs(5);
        let (drained, ()) = tokio::join!(upstreams.drained(one, late), async { drop(held) });
        assert!(drained);
        upstreams.sweep();
        assert_eq!(upstreams.numbers().len(), 1, "a drained instance is forgotten");
        upstreams.apply(&table([1, 2]));
        assert!(!upstreams.drained(one, soon()).await, "it is back");
    }
}
