//! What is known of each command besides what it does: one row for each, so that no new one is forgotten.

use crate::model::{Desired, OLDEST_CLUSTER_VERSION as FIRST};

use super::{BuildResult, Command};

/// What a command means for the room that the state takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Somebody asks for more to be kept.
    Takes,
    /// It frees some, or is what somebody has to do before they can.
    Frees,
    /// What ends or stops something, and what the platform observes and decides.
    Keeps,
}

use Room::{Frees, Keeps, Takes};

impl Command {
    /// Whether somebody asks for more to be kept, which is refused when the state is full.
    pub fn grows(&self) -> bool {
        self.row().2 == Takes
    }

    /// Whether it frees space, or is what somebody has to do before they can: taken as long as the node can put anything
    /// on record.
    pub fn makes_room(&self) -> bool {
        self.row().2 == Frees
    }

    /// The version of the cluster that it came with: before the cluster is at it, some members would not understand it. A new
    /// command belongs to a new version, unless its place in the enum was never in a released program.
    pub fn since(&self) -> u32 {
        let (_, since, _) = self.row();
        self.carried_since().map_or(since, |carried| carried.max(since))
    }

    /// The version that what it carries came with, where that has more than one form.
    fn carried_since(&self) -> Option<u32> {
        match self {
            Self::CreateApp(app) => app.services.iter().map(|service| service.spec.build.since()).max(),
            Self::CreateService { service, .. } => Some(service.spec.build.since()),
            Self::UpdateService { spec, .. } => Some(spec.build.since()),
            Self::SetSettings(values) => values.keys().map(|key| key.since()).max(),
            Self::ResetSetting(key) => Some(key.since()),
            Self::FinishBuild { result: BuildResult::Failed(failure), .. } => Some(failure.code.since()),
            _ => None,
        }
    }

    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        self.row().0
    }

    fn row(&self) -> (&'static str, u32, Room) {
        match self {
            Self::InitCluster(_) => ("init_cluster", FIRST, Keeps),
            Self::RegisterNode(_) => ("register_node", FIRST, Keeps),
            Self::RegisterFirstUser { .. } => ("register_first_user", FIRST, Keeps),
            Self::OpenSession(_) => ("open_session", FIRST, Frees),
            Self::CloseSession(_) => ("close_session", FIRST, Frees),
            Self::CreateApp(_) => ("create_app", FIRST, Takes),
            Self::UpdateApp { .. } => ("update_app", FIRST, Takes),
            Self::DeleteApp(_) => ("delete_app", FIRST, Frees),
            Self::CreateService { .. } => ("create_service", FIRST, Takes),
            Self::UpdateService { .. } => ("update_service", FIRST, Takes),
            Self::DeleteService(_) => ("delete_service", FIRST, Frees),
            Self::SetEnv { .. } => ("set_env", FIRST, Takes),
            Self::UnsetEnv { .. } => ("unset_env", FIRST, Frees),
            Self::AttachSource(_) => ("attach_source", FIRST, Takes),
            Self::Deploy(_) => ("deploy", FIRST, Takes),
            Self::SetDesired { desired: Desired::Stopped, .. } => ("set_desired", FIRST, Frees),
            Self::SetDesired { desired: Desired::Running, .. } => ("set_desired", FIRST, Keeps),
            // More replicas are looked at where the number there was is known.
            Self::Scale { .. } => ("scale", FIRST, Keeps),
            Self::CancelBuild(_) => ("cancel_build", FIRST, Frees),
            Self::SetSettings(_) => ("set_settings", FIRST, Keeps),
            Self::LeaseBuild { .. } => ("lease_build", FIRST, Keeps),
            Self::LoseBuild { .. } => ("lose_build", FIRST, Keeps),
            Self::FinishBuild { .. } => ("finish_build", FIRST, Keeps),
            Self::AdvanceDeployment { .. } => ("advance_deployment", FIRST, Keeps),
            Self::AssignInstances { .. } => ("assign_instances", FIRST, Keeps),
            Self::StopInstances { .. } => ("stop_instances", FIRST, Keeps),
            Self::ReportInstance { .. } => ("report_instance", FIRST, Keeps),
            Self::Promote(_) => ("promote", FIRST, Keeps),
            Self::Sweep { .. } => ("sweep", FIRST, Frees),
            Self::CreateJoinToken(_) => ("create_join_token", FIRST, Keeps),
            Self::RevokeJoinToken(_) => ("revoke_join_token", FIRST, Frees),
            Self::AdmitNode { .. } => ("admit_node", FIRST, Keeps),
            Self::RemoveNode(_) => ("remove_node", FIRST, Frees),
            Self::FenceNode(_) => ("fence_node", FIRST, Frees),
            Self::ReaddressNode { .. } => ("readdress_node", FIRST, Keeps),
            Self::CordonNode { .. } => ("cordon_node", FIRST, Keeps),
            Self::NoteAbsence { .. } => ("note_absence", FIRST, Keeps),
            Self::LoseInstances { .. } => ("lose_instances", FIRST, Keeps),
            Self::RotateAuthority { .. } => ("rotate_authority", FIRST, Keeps),
            Self::NoteAuthority { .. } => ("note_authority", FIRST, Keeps),
            Self::DrainNode { .. } => ("drain_node", FIRST, Keeps),
            Self::LabelNode { .. } => ("label_node", FIRST, Keeps),
            Self::Rebalance { .. } => ("rebalance", FIRST, Keeps),
            Self::RaiseClusterVersion { .. } => ("raise_cluster_version", FIRST, Keeps),
            Self::ResetSetting(_) => ("reset_setting", 2, Keeps),
            Self::PinImage { .. } => ("pin_image", 3, Keeps),
            Self::KeepRecipe { .. } => ("keep_recipe", 5, Keeps),
            Self::NoteInput { .. } => ("note_input", 6, Keeps),
            Self::DeployAnew(_) => ("deploy_anew", 6, Takes),
        }
    }
}
