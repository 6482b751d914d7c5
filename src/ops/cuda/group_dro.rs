//! Class weights: the classes' losses by a warp each, then one block for what follows from all of them.

use super::{Cuda, arguments};
use crate::error::Error;
use crate::ops::group_dro::{ClassWeights, GroupDro};
use crate::ops::{Memory, Run};

impl Run<GroupDro> for Cuda {
    fn run(&mut self, GroupDro { samples, settings, class, log_u, log_scale, state, weight, objective }: GroupDro) {
        const CLASSES: usize = 8;
        let classes = state.class_loss.len();
        let most = Self::WORKSPACE_BYTES / 4;
        if classes > most {
            self.fail(Error::input(format!("group_dro on CUDA takes up to {most} classes, not {classes}")));
            return;
        }
        let (class, class_loss, counted) = (self.at(class), self.at(state.class_loss), self.workspace());
        let arguments = arguments![
            class,
            self.at(log_u[0]),
            self.at(log_u[1]),
            self.at(log_scale),
            class_loss,
            counted,
            samples,
            classes,
            settings.gamma1 as f32,
        ];
        self.launch("group_dro_class_loss", [classes.div_ceil(CLASSES), 1, 1], 32 * CLASSES, 0, arguments);
        let (stochastic, gamma2) = match settings.weights {
            ClassWeights::Exact => (false, 1.0),
            ClassWeights::Stochastic { gamma2 } => (true, gamma2),
        };
        let arguments = arguments![
            class,
            class_loss,
            counted,
            self.at(state.share),
            self.at(state.log_normalizer),
            self.at(state.class_weight),
            self.at(weight),
            self.at(objective),
            samples,
            classes,
            settings.lambda as f32,
            gamma2 as f32,
            stochastic,
        ];
        self.launch("group_dro_weights", [1, 1, 1], 1024, 0, arguments);
    }
}
