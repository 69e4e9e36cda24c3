//! The state as rows: taken apart for files and snapshots, and put together from them.

use std::iter::Peekable;

use crate::state::{Key, Record};

use super::State;

impl State {
    /// The row of this name.
    pub fn record(&self, key: Key) -> Option<Record> {
        match key {
            Key::Cluster => self.cluster.clone().map(Record::Cluster),
            Key::Org(id) => self.orgs.get(&id).cloned().map(Record::Org),
            Key::Membership(org, user) => self.memberships.get(&(org, user)).cloned().map(Record::Membership),
            Key::User(id) => self.users.get(&id).cloned().map(Record::User),
            Key::Session(id) => self.sessions.get(&id).cloned().map(Record::Session),
            Key::App(id) => self.apps.get(&id).cloned().map(Record::App),
            Key::Service(id) => self.services.get(&id).cloned().map(Record::Service),
            Key::Source(id) => self.sources.get(&id).cloned().map(Record::Source),
            Key::Deployment(id) => self.deployments.get(&id).cloned().map(Record::Deployment),
            Key::Build(id) => self.builds.get(&id).cloned().map(Record::Build),
            Key::Instance(id) => self.instances.get(&id).cloned().map(Record::Instance),
            Key::Node(id) => self.nodes.get(&id).cloned().map(Record::Node),
            Key::Setting(key) => self.settings.get(&key).cloned().map(Record::Setting),
            Key::Request(id) => self.requests.get(&id).cloned().map(Record::Request),
            Key::JoinToken(id) => self.join_tokens.get(&id).cloned().map(Record::JoinToken),
            Key::Admission(id) => self.admissions.get(&id).cloned().map(Record::Admission),
            Key::Absence(id) => self.absences.get(&id).cloned().map(Record::Absence),
            Key::Epoch => self.epoch.clone().map(Record::Epoch),
            Key::Recipe(id) => self.recipes.get(&id).cloned().map(Record::Recipe),
            Key::Input(id) => self.inputs.get(&id).cloned().map(Record::Input),
        }
    }

    /// Every row, in the order of their keys.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.cluster
            .iter()
            .cloned()
            .map(Record::Cluster)
            .chain(self.orgs.values().cloned().map(Record::Org))
            .chain(self.memberships.values().cloned().map(Record::Membership))
            .chain(self.users.values().cloned().map(Record::User))
            .chain(self.sessions.values().cloned().map(Record::Session))
            .chain(self.apps.values().cloned().map(Record::App))
            .chain(self.services.values().cloned().map(Record::Service))
            .chain(self.sources.values().cloned().map(Record::Source))
            .chain(self.deployments.values().cloned().map(Record::Deployment))
            .chain(self.builds.values().cloned().map(Record::Build))
            .chain(self.instances.values().cloned().map(Record::Instance))
            .chain(self.nodes.values().cloned().map(Record::Node))
            .chain(self.settings.values().cloned().map(Record::Setting))
            .chain(self.requests.values().cloned().map(Record::Request))
            .chain(self.join_tokens.values().cloned().map(Record::JoinToken))
            .chain(self.admissions.values().cloned().map(Record::Admission))
            .chain(self.absences.values().cloned().map(Record::Absence))
            .chain(self.epoch.iter().cloned().map(Record::Epoch))
            .chain(self.recipes.values().cloned().map(Record::Recipe))
            .chain(self.inputs.values().cloned().map(Record::Input))
    }

    /// The state that has exactly these rows.
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> Self {
        let mut state = Self::default();
        for record in records {
            state.put(record);
        }
        state
    }

    /// A copy with this row, for asking what would be.
    pub fn with(&self, record: impl Into<Record>) -> Self {
        let mut state = self.clone();
        state.put(record.into());
        state
    }

    /// Begins a state that is given all its rows anew, as from a snapshot, and shares with this one what is equal: so
    /// that only what differs is in memory twice.
    pub fn replacement(&self) -> Replacement<'_> {
        let keys: Box<dyn Iterator<Item = Key> + '_> = Box::new(self.records().map(|record| record.key()));
        Replacement { next: self.clone(), older: keys.peekable() }
    }
}

/// A state in the making, see [`State::replacement`].
pub struct Replacement<'a> {
    next: State,
    /// Keys of the old rows beyond the last row that came, in order.
    older: Peekable<Box<dyn Iterator<Item = Key> + 'a>>,
}

impl Replacement<'_> {
    /// The next row. Rows come in the order of [`State::records`]; in another one the result is the same, with less
    /// shared.
    pub fn row(&mut self, record: Record) {
        let key = record.key();
        while let Some(gone) = self.older.next_if(|older| *older < key) {
            self.next.delete(gone);
        }
        self.older.next_if_eq(&key);
        if self.next.record(key).as_ref() != Some(&record) {
            self.next.put(record);
        }
    }

    /// The state that has exactly the rows that came.
    pub fn finish(mut self) -> State {
        for gone in self.older {
            self.next.delete(gone);
        }
        self.next
    }
}
