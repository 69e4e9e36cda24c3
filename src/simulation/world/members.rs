//! Machines that join and leave, in every way in which machines do.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;
use uuid::Uuid;

use super::{DONE_MAX, USER, World};
use crate::config::cluster_versions;
use crate::model::{JoinTokenId, NodeId};
use crate::simulation::machine::Machine;
use crate::simulation::wait::until;
use crate::simulation::workload::join_token;
use crate::state::{Command, Outcome};
use crate::store::crash_disk::{Dice, Fate};

impl World {
    /// Nodes that join, never come up, and are removed. Refusals are fine, and so is no answer.
    pub(in crate::simulation) async fn ghosts(&self, dice: &mut Dice) {
        let Some(asked) = self.asked() else { return };
        let uses = u32::try_from(1 + dice.roll(2)).unwrap_or(1);
        let digest = [9; 32];
        let id = JoinTokenId(Uuid::from_u128(dice.roll(usize::MAX) as u128));
        let token = join_token(id, USER, uses, self.wall());
        let mut last = None;
        let _refused = self.ask(asked, Command::CreateJoinToken(token)).await;
        for ghost in 0..=uses {
            let admit = Command::AdmitNode {
                token: id,
                digest,
                name: format!("ghost-{}-{ghost}", dice.roll(1_000_000)),
                address: format!("g{ghost}:9090"),
                cluster_version_max: *cluster_versions().end(),
            };
            if let Ok(Outcome::Node(node)) = self.ask(asked, admit).await
                && let Some(before) = last.replace(node)
            {
                let _refused = self.ask(asked, Command::RemoveNode(before)).await;
            }
        }
        if let Some(node) = last {
            let _refused = self.ask(asked, Command::RemoveNode(node)).await;
        }
    }

    /// Somebody to ask.
    fn asked(&self) -> Option<usize> {
        self.machines.iter().position(Machine::is_up)
    }

    /// One machine more joins.
    pub(in crate::simulation) async fn grow(&mut self, dice: &mut Dice) -> Result<(), String> {
        let token = join_token(JoinTokenId(Uuid::from_u128(dice.roll(usize::MAX) as u128)), USER, 1, self.wall());
        self.settle(Command::CreateJoinToken(token.clone())).await?;
        let node = self.join(&token).await?;
        self.maybe_kill_leader(dice).await?;
        let ledger = Rc::clone(&self.ledger);
        let is_there = until(DONE_MAX, async || ledger.newest().node(node).is_some()).await;
        if is_there { Ok(()) } else { Err(format!("node {node} is not on record {DONE_MAX:?} after it was let in")) }
    }

    /// Once in three times whoever leads dies, wherever it is with what it began, and comes back.
    async fn maybe_kill_leader(&mut self, dice: &mut Dice) -> Result<(), String> {
        if dice.roll(3) > 0 {
            return Ok(());
        }
        sleep(Duration::from_millis(dice.roll(600) as u64)).await;
        // One that is cut off may believe that it still leads.
        let term = |machine: &Machine| {
            let status = machine.consensus().filter(|_| machine.is_up())?.1.status();
            (status.leader == Some(machine.node)).then_some(status.term)
        };
        let terms = self.machines.iter().filter_map(|machine| Some((term(machine)?, machine.number)));
        let Some((_, leader)) = terms.max() else { return Ok(()) };
        self.kill(leader, None);
        sleep(Duration::from_millis(dice.roll(3_000) as u64)).await;
        self.start(leader).await
    }

    /// A member is removed, in whichever way machines go: while it runs, while its program is gone and its containers go on, while it is
    /// cut off, or after it was switched off for good.
    pub(in crate::simulation) async fn shrink(&mut self, leaving: usize, dice: &mut Dice) -> Result<(), String> {
        let node = self.machines[leaving].node;
        let others: Vec<usize> = self.at_work().into_iter().filter(|other| *other != leaving).collect();
        // Where a disk is bad, those that are whole are needed until the group does without them.
        let can_spare = self.machines.iter().all(|machine| machine.number == leaving || !machine.has_bad_disk());
        let way = if can_spare && self.decides_without(leaving) { dice.roll(4) } else { 0 };
        self.trace.note(&["leave", &leaving.to_string(), &way.to_string()]);
        match way {
            0 => {}
            1 => self.kill(leaving, None),
            2 => others.iter().for_each(|other| self.cut(leaving, *other)),
            _ => self.kill(leaving, Some(Fate::Kept)),
        }
        self.settle(Command::RemoveNode(node)).await?;
        self.maybe_kill_leader(dice).await?;
        let ledger = Rc::clone(&self.ledger);
        let admission = || ledger.newest().admission(node).cloned();
        if admission().is_some_and(|own| own.removed_at.is_some()) {
            if way == 3 {
                self.machines[leaving].scrap();
            }
            if !until(DONE_MAX, async || admission().is_some_and(|own| own.fenced_at.is_some())).await {
                return Err(format!(
                    "node {node} was removed, and {DONE_MAX:?} later the group does not do without it"
                ));
            }
            // Sometimes so long that others take over what ran alone there.
            let most = [5_000, 20_000, 70_000][dice.roll(3)];
            sleep(Duration::from_millis(dice.roll(most) as u64)).await;
        }
        self.heal();
        self.start(leaving).await
    }

    /// Whether the group goes on when this machine is gone before its removal is decided. It does not where that one votes alone, or while
    /// the voters change; the machine is needed then, as any is that has the only vote.
    fn decides_without(&self, leaving: usize) -> bool {
        let groups = self.machines.iter().filter(|machine| machine.is_up()).filter_map(Machine::consensus);
        let newest = groups.filter_map(|(_, consensus)| consensus.group()).max_by_key(|group| group.term);
        let stays = |node: NodeId| {
            self.machines.iter().any(|other| other.node == node && other.number != leaving && other.is_up())
        };
        newest.is_some_and(|group| {
            let voters: Vec<NodeId> = group.members.iter().filter(|(_, it)| it.votes).map(|(node, _)| *node).collect();
            !group.changing && voters.iter().filter(|node| stays(**node)).count() > voters.len() / 2
        })
    }
}
