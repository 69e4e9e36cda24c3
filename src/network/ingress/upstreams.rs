//! The route table at work: picks an instance for a host, and knows when an instance has drained.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::counters::InstanceNumbers;
use super::upstream::{Lease, Upstream};
use crate::decide::route_table::{Place, RouteTable};
use crate::model::{InstanceId, NodeId};

/// How often idle connections are looked through. They are also checked when they are used, so this only frees what
/// nobody uses.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// An instance elsewhere counts as if it had this many more requests open than it has. So those on this machine come
/// first, and one that is busy does not get everything while others of its kind have nothing to do.
const AWAY_COSTS: usize = 8;

/// A node that nobody tried to reach for this long may have been back meanwhile.
const UNREACHABLE_KEPT: Duration = Duration::from_secs(10);

pub(super) struct Upstreams {
    state: RwLock<State>,
    drained: Arc<Notify>,
    /// Nodes that could not be reached: since when, and when that was seen last.
    unreachable: Mutex<HashMap<NodeId, (Instant, Instant)>>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<String, Host>,
    /// Those of the table, and retired ones that still have requests open.
    known: BTreeMap<(InstanceId, Place), Arc<Upstream>>,
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
        Self { state: RwLock::default(), drained: Arc::new(Notify::new()), unreachable: Mutex::default() }
    }

    /// Opens a request on the least busy instance of a host that is not among `tried`; on one of another node when those
    /// of this one are busier by [`AWAY_COSTS`], or could not be reached just now. What is busy is known of this node's
    /// ingress only.
    ///
    /// Picking and counting happen under the lock that a table change takes: once a change is applied, every request
    /// that was given to an instance before it is counted, and so waited for.
    pub(super) fn pick(&self, host: &str, tried: &[Place]) -> Result<Lease, NoPick> {
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
            .filter(|upstream| !tried.contains(&upstream.place))
            .min_by_key(|upstream| (upstream.is_shunned(), cost(upstream)))
            .map(Lease::new)
            .ok_or(NoPick::NoInstance)
    }

    /// Puts a table to work. Instances that stay keep their connections and counts.
    pub(super) fn apply(&self, table: &RouteTable) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut known = std::mem::take(&mut state.known);
        let backends = table.routes.values().flat_map(|route| &route.backends);
        let wanted: HashSet<_> = backends.map(|backend| (backend.instance, backend.place)).collect();
        for (key, upstream) in &known {
            upstream.set_retired(!wanted.contains(key));
        }
        let mut hosts = HashMap::with_capacity(table.routes.len());
        for (name, route) in &table.routes {
            let upstreams = route.backends.iter().map(|backend| {
                let key = (backend.instance, backend.place);
                let upstream = known.entry(key).or_insert_with(|| {
                    Arc::new(Upstream::new(backend.instance, backend.place, Arc::clone(&self.drained)))
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

    /// Waits until a table without this one is at work. `false` at the deadline.
    pub(super) async fn retired(&self, upstream: &Upstream, deadline: Instant) -> bool {
        loop {
            let news = self.drained.notified();
            if upstream.is_retired() {
                return true;
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                return false;
            }
        }
    }

    /// A node could not be reached: what runs elsewhere comes first for a while.
    pub(super) fn shun_node(&self, node: NodeId) {
        let now = Instant::now();
        let mut unreachable = self.unreachable();
        let (since, last) = unreachable.entry(node).or_insert((now, now));
        if now.duration_since(*last) > UNREACHABLE_KEPT {
            *since = now;
        }
        *last = now;
        drop(unreachable);
        for upstream in self.read().known.values().filter(|upstream| upstream.place.node() == Some(node)) {
            upstream.put_last();
        }
    }

    /// A connection was made.
    pub(super) fn reached(&self, place: Place) {
        if let Some(node) = place.node() {
            self.unreachable().remove(&node);
        }
    }

    /// For how long the node of this place could not be reached.
    pub(super) fn unreachable_for(&self, place: Place) -> Duration {
        let known = place.node().and_then(|node| self.unreachable().get(&node).copied());
        known.map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }

    fn unreachable(&self) -> MutexGuard<'_, HashMap<NodeId, (Instant, Instant)>> {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner)
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

fn cost(upstream: &Upstream) -> usize {
    upstream.in_flight() + if upstream.place.node().is_some() { AWAY_COSTS } else { 0 }
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
        let place = Place::Here(([127, 0, 0, 1], port).into());
        Backend { instance: InstanceId(uuid::Uuid::from_u128(number)), place }
    }

    fn away(number: u128, node: u64) -> Backend {
        let place = Place::There { node: NodeId(node), port: port(&backend(number).place) };
        Backend { place, ..backend(number) }
    }

    fn port(place: &Place) -> u16 {
        match place {
            Place::Here(address) => address.port(),
            Place::There { port, .. } => *port,
        }
    }

    fn table(backends: impl IntoIterator<Item = u128>) -> RouteTable {
        table_of(backends.into_iter().map(backend).collect())
    }

    fn table_of(backends: Vec<Backend>) -> RouteTable {
        let route = Route { backends };
        RouteTable { routes: BTreeMap::from([("a.test".to_owned(), route)]) }
    }

    fn ports(leases: &[Lease]) -> Vec<u16> {
        leases.iter().map(|lease| port(&lease.upstream.place)).collect()
    }

    #[test]
    fn equals_take_turns_and_the_least_busy_comes_first() {
        let upstreams = Upstreams::new();
        upstreams.apply(&table([1, 2, 3]));
        let pick = || upstreams.pick("a.test", &[]).unwrap_or_else(|none| panic!("{none:?}"));
        let alone: Vec<u16> = (0..6).map(|_| port(&pick().upstream.place)).collect();
        assert_eq!(alone, [1001, 1002, 1003, 1001, 1002, 1003]);
        let mut held: Vec<Lease> = (0..6).map(|_| pick()).collect();
        let mut all = ports(&held);
        all.sort_unstable();
        assert_eq!(all, [1001, 1001, 1002, 1002, 1003, 1003]);
        held.retain(|lease| port(&lease.upstream.place) != 1002);
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
        let tried = [backend(2).place];
        assert_eq!(upstreams.pick("a.test", &tried).ok().map(|lease| port(&lease.upstream.place)), Some(1001));
        let tried = [backend(1).place, backend(2).place];
        assert_eq!(upstreams.pick("a.test", &tried).err(), Some(NoPick::NoInstance));
        assert_eq!(upstreams.pick("b.test", &[]).err(), Some(NoPick::UnknownHost));
    }

    #[test]
    fn instances_of_this_node_come_first_until_they_are_busy() {
        let upstreams = Upstreams::new();
        upstreams.apply(&table_of(vec![backend(1), away(2, 7), away(3, 8)]));
        let pick = || upstreams.pick("a.test", &[]).unwrap_or_else(|none| panic!("{none:?}"));
        let mut held: Vec<Lease> = (0..AWAY_COSTS).map(|_| pick()).collect();
        assert_eq!(ports(&held), vec![1001; AWAY_COSTS]);
        held.extend((0..9).map(|_| pick()));
        let mut spread = ports(&held[AWAY_COSTS..]);
        spread.sort_unstable();
        assert_eq!(spread, [1001, 1001, 1001, 1002, 1002, 1002, 1003, 1003, 1003], "from then on all take turns");
        drop(held);
        let lease = pick();
        assert_eq!(port(&lease.upstream.place), 1001);
        lease.upstream.shun();
        drop(lease);
        let alone: Vec<u16> = (0..4).map(|_| port(&pick().upstream.place)).collect();
        assert!(alone.contains(&1002) && alone.contains(&1003) && !alone.contains(&1001), "{alone:?}");
        upstreams.shun_node(NodeId(7));
        assert_eq!(ports(&[pick(), pick(), pick()]), [1003; 3]);
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
