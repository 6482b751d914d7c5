//! Class weights: the classes' losses by a warp each, then one block for what follows from all of them.

use super::Cuda;
use super::kernels::group_dro as kernel;
use crate::error::Error;
use crate::ops::group_dro::{ClassWeights, GroupDro, Weighting};
use crate::ops::{DeviceMemory, Run};

impl Run<GroupDro> for Cuda {
    fn run(&mut self, GroupDro { samples, settings, class, log_u, log_scale, state, weight, objective }: GroupDro) {
        let classes = state.class_loss.len();
        let most = Self::WORKSPACE_BYTES / 4;
        if classes > most {
            self.fail(Error::input(format!("group_dro on CUDA takes up to {most} classes, not {classes}")));
            return;
        }
        let (class_of, class_loss, counted) = (self.at(class), self.at(state.class_loss), self.workspace());
        let parameters = kernel::GroupDroClassLoss {
            class_of,
            log_u1: self.at(log_u[0]),
            log_u2: self.at(log_u[1]),
            log_scale: self.at(log_scale),
            class_loss,
            counted,
            samples,
            classes,
            gamma1: settings.gamma1 as f32,
        };
        let blocks = classes.div_ceil(kernel::GROUP_DRO_CLASS_LOSS.warps());
        self.launch(kernel::GROUP_DRO_CLASS_LOSS, [blocks, 1, 1], parameters);
        let (stochastic, gamma2) = match settings.weights {
            ClassWeights::Exact => (false, 1.0),
            ClassWeights::Stochastic { gamma2 } => (true, gamma2),
        };
        let parameters = kernel::GroupDroWeights {
            class_of,
            log_u1: self.at(log_u[0]),
            log_u2: self.at(log_u[1]),
            class_loss,
            counted,
            share: self.at(state.share),
            log_normalizer: self.at(state.log_normalizer),
            class_weight: self.at(state.class_weight),
            weight: self.at(weight),
            objective: self.at(objective),
            samples,
            classes,
            lambda: settings.lambda as f32,
            gamma2: gamma2 as f32,
            stochastic,
            weighting: match settings.weighting {
                Weighting::Prior => kernel::Weighting::Prior,
                Weighting::Batch => kernel::Weighting::Batch,
                Weighting::Sample => kernel::Weighting::Sample,
            },
        };
        self.launch(kernel::GROUP_DRO_WEIGHTS, [1, 1, 1], parameters);
    }
}
